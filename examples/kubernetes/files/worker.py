"""A voice worker in Python's standard library: it talks HTTP to the sidecar beside it, and knows nothing else of the coordinator.

    HOSTNAME=voice-1 RECOVERY_URL=http://127.0.0.1:9410 python3 worker.py       # or RECOVERY_SOCKET=/run/recovery/sidecar.sock

Its own interface stands in for the telephone network: POST /calls/ID is an incoming call, DELETE /calls/ID its end, GET /calls says
for which calls it speaks at this moment. A frame of audio is a datagram to where the call came from: {"media": "host:port"}.

Four rules, the same in examples/go and examples/node:

1. It speaks only while it may: while nobody else can have its calls. The sidecar says for how long; in doubt, whether to go on.
2. No answer ends it, and none is left unread. What the sidecar cannot be told now it is told later; of checkpoints only the newest.
3. A call that is over here (it ended, was lost, or could not be served) is not taken up again by an answer that is older than that.
4. When its instance is over, its calls are lost, and it starts over as another instance.

It prints a line of JSON for each thing that happens to it or to a call.
"""

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

NAME, CAPACITY = os.environ["HOSTNAME"], int(os.environ.get("CAPACITY", "50"))
TELEPHONE_PORT = int(os.environ.get("TELEPHONE_PORT", "8080"))
URL, SOCKET = urlsplit(os.environ.get("RECOVERY_URL", "http://127.0.0.1:9410")), os.environ.get("RECOVERY_SOCKET", "")

TICK_SECONDS = 0.02
CHECKPOINT_SECONDS = 1.0
ANSWER_SECONDS = 5.0  # for an answer; what waits for the store is answered before
ALIVE_SECONDS = 2.0  # the same for the answer to a ping: the next one must not wait
SILENCE_SECONDS = 5.0  # pings come several times a second: a stream without any for so long is dead
STALL_SECONDS = 0.5  # a process that stood still for so long relies on nothing that it was told before
WORD_SECONDS = 1.0  # since the sidecar's last answer: for so long its word counts that a worker in doubt may speak
LET_GO_SECONDS = 3.0  # by then an heir that was let go to has the call, or has failed
PATIENCE_SECONDS = 10.0  # of an incoming call, while the sidecar is started again
UNSURE_SECONDS = 15.0  # by then a request that had no answer was carried out, or never will be
FIRST_PAUSE_SECONDS = 0.05  # before the stream is opened again
LONGEST_PAUSE_SECONDS = 0.5  # the same in the end, and before anything else is asked again
MOST_PAUSE_SECONDS = 5.0  # whatever Retry-After says


def now():
    """Seconds on a clock that never steps, and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def tell(what, **fields):
    sys.stdout.write(json.dumps({"what": what, "worker": NAME, "at": round(time.time(), 3), **fields}) + "\n")
    sys.stdout.flush()


def attempt(step, *arguments):
    """Whether it went well. An error that nobody thought of ends neither a loop nor the worker: the calls live on them."""
    try:
        step(*arguments)
        return True
    except Exception as error:  # noqa: BLE001 - see above
        tell("failed", step=step.__name__, error=repr(error))
        return False


def forever(step, pause=0.0):
    while True:
        time.sleep(pause if attempt(step) else 1)


# -- trust -------------------------------------------------------------------------------------------------------------


class Trust:
    """For how long nobody else can have what is this worker's.

    What the sidecar says counts from the sending of the request that it answers: an answer may wait, as when this process stood still.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.since = self.ticked = now()
        self.until = self.alone_until = self.word_until = 0.0
        self.in_doubt = self.go_on = self.draining = False  # as the sidecar said last

    def answered(self, asked, trust_ms, alone_ms):
        with self.lock:
            if asked >= self.since:
                self.go_on = self.go_on and now() < self.word_until  # what it said before it fell silent is over
                self.word_until = max(self.word_until, asked + WORD_SECONDS)
                self.until = max(self.until, asked + number(trust_ms) / 1000)
                if not self.draining:  # a call that is on its way to an heir may arrive there without the sidecar
                    self.alone_until = max(self.alone_until, asked + number(alone_ms) / 1000)

    def told(self, *, in_doubt, may_speak):
        with self.lock:
            self.in_doubt, self.go_on = in_doubt, may_speak

    def not_alone(self, *, draining=False):
        """There is a sidecar, and what it will do with us it does not say."""
        with self.lock:
            self.alone_until, self.draining = 0.0, self.draining or draining

    def forget(self):
        """Nothing counts that was asked for before."""
        with self.lock:
            self.since, self.until, self.alone_until, self.go_on = now(), 0.0, 0.0, False

    def tick(self):
        """To be called all the time; returns False when this process stood still since the last call, and then nothing counts."""
        before, at = self.ticked, now()
        if at - before >= STALL_SECONDS:
            self.forget()
        self.ticked = at
        return at - before < STALL_SECONDS

    def held(self):
        """To be asked before what cannot be undone."""
        at = now()
        return not self.in_doubt and at < self.until and at - self.ticked < STALL_SECONDS

    def may_speak(self):
        """Held; or in doubt, since the store does not answer and the sidecar says to go on; or since there is no sidecar any more."""
        at = now()
        if at - self.ticked >= STALL_SECONDS or self.held():
            return self.held()
        return self.go_on if self.in_doubt and at < self.word_until else at < self.alone_until


# -- the sidecar -------------------------------------------------------------------------------------------------------


class Line(socket.socket):
    """A connection whose reads end by a deadline, however slowly bytes come."""

    until = 0.0

    def recv_into(self, *arguments):
        self.settimeout(max(0.001, self.until - now()))
        return super().recv_into(*arguments)


class Connection(http.client.HTTPConnection):
    """To the sidecar; over its unix socket, if it has one."""

    def __init__(self, seconds):
        super().__init__(URL.hostname, URL.port, timeout=seconds)

    def connect(self):
        family = socket.AF_UNIX if SOCKET else socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.sock = self.line = Line(family, socket.SOCK_STREAM)
        self.line.settimeout(self.timeout)
        self.line.until = now() + self.timeout
        self.line.connect(SOCKET or (self.host, self.port))


class Answer(NamedTuple):
    asked: float
    status: int  # 0: there is none
    document: dict
    sent: bool = True
    pause: float = LONGEST_PAUSE_SECONDS  # before it is asked again

    @property
    def done(self):
        return 200 <= self.status < 300

    @property
    def gone(self):
        """The call that it is about is over, or somebody else's."""
        return self.status in (404, 410, 412)

    @property
    def unsure(self):
        """It was done, or will be, or never."""
        return self.sent and (self.status == 0 or self.status >= 500)


def read(text):
    """A JSON object; anything else, such as half a line of a sidecar that died, counts as an empty one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def number(value):
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return 0.0


def pause_of(answer):
    return min(max(LONGEST_PAUSE_SECONDS, number(answer.headers.get("Retry-After"))), MOST_PAUSE_SECONDS)


def path_of(session, what=""):
    return f"/v1/sessions/{quote(session, safe='')}{what}"


# -- calls -------------------------------------------------------------------------------------------------------------

AUDIO = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
AUDIO.setblocking(False)


class Call:
    """A live call; or one that is over here, which the sidecar does not know yet."""

    def __init__(self, session, epoch, data, instance):
        self.session, self.epoch, self.data, self.instance = session, epoch, data, instance
        self.since, self.written = now(), 0  # `written` is the sequence of its last checkpoint
        self.over = ""  # "ended": to be closed; anything else is why it cannot be served: to be released

    def frame(self):
        """20 ms of audio. The epoch goes along: by it whoever gets it tells a newer owner from an older one."""
        self.data["sequence"] += 1
        if "media" in self.data:
            host, _, port = self.data["media"].rpartition(":")
            socket.inet_pton(socket.AF_INET, host)  # a name would have to be looked up, and here nothing waits
            with contextlib.suppress(BlockingIOError):
                AUDIO.sendto(f"{self.session} {self.epoch}\n".encode(), (host, int(port)))


class Worker:
    """This process as the sidecar knows it.

    Attributes:
        calls: those that are served here; `ending` those that are over here and have to be closed or released.
        lost: epoch and time of those that were lost lately: what was asked before that time says nothing of that epoch.
        compare_until: until then the sidecar is asked again and again what is ours.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.trust = Trust()
        self.instance, self.token = os.environ.get("RECOVERY_INSTANCE", ""), os.environ.get("RECOVERY_WORKER_TOKEN", "")
        self.calls, self.ending, self.lost = {}, {}, {}
        self.compare_until = 0.0
        self.attached = self.again = self.over = False
        self.detached_at = 0.0  # infinite while there is a stream
        self.standing = (False, False)
        self.refused = set()
        self.pings, self.wake = queue.Queue(1), threading.Event()
        self.takeovers, self.errands = ThreadPoolExecutor(16), ThreadPoolExecutor(8)

    def ask(self, what, method, path, body=None, epoch=0, seconds=ANSWER_SECONDS):
        """One request; returns its answer, whatever that is."""
        asked, connection = now(), Connection(seconds)
        if not self.token and what != "register":  # nothing else is answered without one
            return Answer(asked, 0, {"detail": "not registered yet"}, sent=False)
        headers = {"Worker-Token": self.token} if self.token else {}
        headers |= {"If-Match": f'"{epoch}"'} if epoch else {}
        try:
            connection.connect()
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            found = connection.getresponse()
            answer = Answer(asked, found.status, read(found.read()), pause=pause_of(found))
            if "Trust-Ms" in found.headers:
                self.trust.answered(asked, found.headers["Trust-Ms"], found.headers.get("Alone-Ms"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            sent = not isinstance(error, (ConnectionRefusedError, FileNotFoundError))
            answer = Answer(asked, 0, {"detail": f"no answer: {error}"}, sent)
        finally:
            connection.close()
        self.note(what, answer)
        return answer

    def note(self, what, answer):
        """Tells that something does not go well; once, until it does. What is gone is told as lost; without a stream only that."""
        knows_us = answer.status not in (401, 404) or what == "stream"  # one that was started just now may not yet
        if answer.status and not answer.done and knows_us and answer.asked > self.detached_at:
            self.trust.not_alone()
        if answer.done or (answer.gone and what != "stream"):
            self.refused = {one for one in self.refused if one[0] != what}
        elif (what, answer.status) not in self.refused and (self.attached or what in ("stream", "register")):
            self.refused = self.refused | {(what, answer.status)}
            tell("refused", request=what, status=answer.status, detail=str(answer.document.get("detail", ""))[:200])

    # -- the voice loop ------------------------------------------------------------------------------------------------

    def speak(self):
        """A frame of every call. Nothing here waits for anybody."""
        if not self.trust.tick():  # this process stood still: calls may have moved
            self.compare()
        standing = self.trust.held(), self.trust.may_speak()
        if standing != self.standing:
            self.standing = standing
            self.tell_standing("held" if standing[0] else "in_doubt")
        with self.lock:
            for call in list(self.calls.values()):
                try:
                    if self.trust.may_speak():  # asked for each, at the last moment
                        call.frame()
                except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this call alone
                    self.end(call.session, f"it cannot be served: {error!r}")

    def speaking(self):
        """The calls for which this worker speaks at this moment."""
        return list(self.calls.values()) if self.trust.may_speak() else []

    def tell_standing(self, what, **more):
        until = int((time.time() + self.trust.until - now()) * 1000)
        tell(what, may_speak=self.trust.may_speak(), calls=len(self.calls), trusted_until_ms=until, **more)

    # -- what becomes of a call ----------------------------------------------------------------------------------------

    def serve(self, session, found, asked):
        """Takes up a call that an answer says is ours; returns whether it is served here."""
        epoch, data = found.get("epoch"), found.get("recovery_data")
        with self.lock:
            lost_epoch, lost_at = self.lost.get(session, (0, 0.0))
            if not isinstance(epoch, int) or not found.get("may_speak", True):
                self.compare()  # as when the sidecar does not know yet whether an heir has it
                return False
            if asked < self.trust.since or (asked < lost_at and epoch <= lost_epoch):
                return False
            ended = self.ending.get(session)
            if ended and ended.instance in (self.instance, found.get("previous_owner")):
                ended.epoch, ended.instance = epoch, self.instance
                return False
            self.ending.pop(session, None)  # the same id, and another call
            if session not in self.calls or self.calls[session].epoch < epoch:
                self.calls[session] = Call(session, epoch, data, self.instance)
                if not isinstance(data, dict):
                    self.end(session, "its recovery data cannot be read: it is no JSON object")
            return session in self.calls

    def lose(self, session, reason, epoch=0, after=0.0):
        """It is somebody else's: its media stops here, and it is never hung up."""
        with self.lock:
            call = self.calls.get(session) or self.ending.get(session)
            if call and 0 < epoch < call.epoch:
                return None  # it went and came back meanwhile
            self.lost[session] = (max(epoch, call.epoch if call else 0), now() + after)
            if call:
                self.calls.pop(session, None)
                self.ending.pop(session, None)
                tell("lost", session=session, reason=reason)
            self.compare()
            return call

    def lose_all(self, reason, instance):
        """This instance is over: others have its calls or will. What ended here is still to be closed."""
        with self.lock:
            if self.over or instance != self.instance:
                return
            self.over = True
            self.trust.forget()
            for session in [*self.calls, *(s for s, call in self.ending.items() if call.over != "ended")]:
                self.lose(session, reason)
            tell("over", instance=instance, reason=reason)

    def end(self, session, why="ended"):
        """It is over here. The caller hung up: it is to be closed; or it cannot be served: it is to be released, with its data."""
        with self.lock:
            call = self.calls.pop(session, None) or self.ending.get(session)
            if call:
                self.ending[session], call.over = call, why
                tell("ended" if why == "ended" else "unserved", session=session, reason=why)
                self.wake.set()
            return call

    def compare(self):
        """Something is not certain: the sidecar is to be asked what is ours."""
        self.compare_until = now() + UNSURE_SECONDS
        self.wake.set()

    # -- what the sidecar is asked for, and told -----------------------------------------------------------------------

    def open(self, session, data):
        """An incoming call, which waits a little while the sidecar is away; returns the answer to it."""
        with self.lock:
            if session in self.calls:
                return Answer(now(), 200, {"session": session, "epoch": self.calls[session].epoch})
            if session in self.ending:
                return Answer(now(), 503, {"detail": f"an earlier call {session} is not closed yet"})
        began, body = now(), {"recovery_data": {"call_sid": session, "sequence": 0, **data}}
        answer = self.ask("open", "PUT", path_of(session), body)
        while (answer.status in (0, 401) or answer.status >= 500) and now() < began + PATIENCE_SECONDS:
            time.sleep(LONGEST_PAUSE_SECONDS)
            answer = self.ask("open", "PUT", path_of(session), body)
        if answer.done and self.serve(session, answer.document, answer.asked):
            tell("opened", session=session, epoch=answer.document["epoch"])
        return answer

    def adopt(self, session):
        """Takes over a call that was offered."""
        answer = self.ask("adopt", "POST", path_of(session, "/adopt"))
        if answer.unsure:
            self.compare()
        if answer.done and self.serve(session, answer.document, answer.asked):  # else another was quicker
            epoch, data = answer.document["epoch"], answer.document.get("recovery_data") or {}
            tell("adopted", session=session, epoch=epoch, sequence=data.get("sequence"), data=data)
            self.ask("resumed", "POST", path_of(session, "/resumed"), epoch=epoch)

    def let_go(self, session, epoch, call):
        """Tells the heir that waits that nobody speaks here any more. If it fails, the sidecar says that the call is still ours."""
        body = {"recovery_data": call.data} if call else {}
        self.ask("let_go", "POST", path_of(session, "/let-go"), body, epoch)

    def checkpoint(self, call):
        with self.lock:
            epoch, data, sequence = call.epoch, dict(call.data), call.data.get("sequence")
        if not sequence or sequence == call.written:
            return
        body = {"recovery_data": data, "sequence": sequence}
        answer = self.ask("checkpoint", "PUT", path_of(call.session, "/checkpoint"), body, epoch)
        if answer.done:
            call.written = sequence
        elif answer.gone and call.epoch == epoch and self.calls.get(call.session) is call:
            self.lose(call.session, "its checkpoint was refused", epoch)

    def settle(self, call):
        """Closes or releases what is over here. What nobody owns by now is adopted in order to be closed."""
        if call.over == "ended":
            answer = self.ask("close", "DELETE", path_of(call.session), epoch=call.epoch)
            if answer.status == 412 and self.ending.get(call.session) is call:
                answer = self.ask("adopt", "POST", path_of(call.session, "/adopt"))
                if answer.done:
                    self.serve(call.session, answer.document, answer.asked)
                    return
        else:
            if isinstance(call.data, dict):
                self.checkpoint(call)
            why = {"reason": call.over[:200]}
            answer = self.ask("release", "POST", path_of(call.session, "/release"), why, call.epoch)
        if answer.done or answer.gone or answer.status == 409:
            with self.lock:
                if self.ending.get(call.session) is not call:  # the id is another call's by now
                    return
                del self.ending[call.session]
                self.lost[call.session] = (call.epoch, now())
            tell("closed" if call.over == "ended" else "released", session=call.session)

    def look(self):
        """What the sidecar says is ours is served here, and nothing else."""
        instance = self.instance
        answer = self.ask("sessions", "GET", f"/v1/workers/{quote(instance)}/sessions")
        listed = answer.document.get("sessions")
        with self.lock:
            if not answer.done or not isinstance(listed, list) or instance != self.instance:
                return
            ours = {found["session"]: found for found in listed}
            for session, found in ours.items():
                self.serve(session, found, answer.asked)
            for call in [*self.calls.values(), *self.ending.values()]:
                if call.session in ours or call.since > answer.asked or call.instance != instance:
                    continue
                self.lose(call.session, "the sidecar does not know it as ours")

    def run_errands(self):
        """All that the sidecar is to be told. What it does not take comes again in the next round, with newer data."""
        self.wake.wait(CHECKPOINT_SECONDS)
        self.wake.clear()
        if now() < self.compare_until:
            self.look()
        with self.lock:
            self.lost = {s: lost for s, lost in self.lost.items() if now() < lost[1] + 4 * UNSURE_SECONDS}
            ending, calls = list(self.ending.values()), list(self.calls.values())
        list(self.errands.map(self.settle, ending))
        list(self.errands.map(self.checkpoint, calls))

    # -- what the sidecar tells ----------------------------------------------------------------------------------------

    def register(self):
        """Makes this process known under its name, however long it takes."""
        while not self.instance or self.over:
            answer = self.ask("register", "POST", "/v1/workers", {"name": NAME, "capacity": CAPACITY, "lets_go": True})
            instance, token = answer.document.get("instance"), answer.document.get("worker_token")
            if answer.done and isinstance(instance, str) and isinstance(token, str):
                with self.lock:
                    self.instance, self.token, self.over = instance, token, False
                    self.trust.forget()
                tell("registered", instance=instance)
            else:
                time.sleep(answer.pause)

    def answer_ping(self):
        """The answer is the proof that this process turns over, and says for how long it may be trusted."""
        instance, ping = self.pings.get()
        path = f"/v1/workers/{quote(instance)}/alive"
        answer = self.ask("alive", "POST", path, {"ping": ping}, seconds=ALIVE_SECONDS)
        if answer.status == 410:
            self.lose_all(str(answer.document.get("detail")), instance)
        self.again = self.again or answer.status in (401, 404)  # the stream is to be opened again

    def take(self, event, asked):
        """One event. What is not known, or not whole, is left alone."""
        kind, session, epoch = event.get("event"), event.get("session"), event.get("epoch", 0)
        if kind == "hello":
            self.attached, self.detached_at, self.refused = True, float("inf"), set()
            tell("attached", instance=self.instance, sessions=event.get("sessions"))
            self.trust.draining = event.get("draining") is True
            self.trust.answered(asked, event.get("trust_ms"), event.get("alone_ms"))
            self.compare()
        elif kind == "ping":
            with contextlib.suppress(queue.Full):  # another is being answered, which will do
                self.pings.put_nowait((self.instance, event.get("ping")))
        elif kind in ("held", "in_doubt"):
            self.trust.told(
                in_doubt=kind == "in_doubt", may_speak=kind == "in_doubt" and event.get("may_speak") is True
            )
        elif kind == "ended":
            self.lose_all(str(event.get("reason")), self.instance)
        elif kind in ("drain", "joined", "overflow", "replaced"):
            tell(kind)
            self.trust.not_alone(draining=kind == "drain")
            self.compare()
        elif isinstance(session, str) and isinstance(epoch, int):
            if kind == "offer":
                self.takeovers.submit(attempt, self.adopt, session)
            elif kind == "lost":
                self.lose(session, event.get("reason"), epoch)
            elif kind == "letting_go":
                call = self.lose(session, f"handed over to {event.get('heir')}", epoch, after=LET_GO_SECONDS)
                self.takeovers.submit(attempt, self.let_go, session, epoch, call)
            elif kind == "renewed":
                with self.lock:
                    for call in filter(None, (self.calls.get(session), self.ending.get(session))):
                        call.epoch = max(call.epoch, epoch)

    def attend(self):
        """Opens the stream and reads it until it ends; returns seconds to wait before it is opened again."""
        asked, self.again, connection, why = now(), False, Connection(SILENCE_SECONDS), "it ended"
        try:
            path = f"/v1/workers/{quote(self.instance)}/events"
            connection.request("GET", path, headers={"Worker-Token": self.token})
            stream = connection.getresponse()
            if stream.status != 200:
                answer = Answer(asked, stream.status, read(stream.read()), pause=pause_of(stream))
                self.note("stream", answer)
                if answer.status in (401, 403, 404, 410):
                    self.lose_all(str(answer.document.get("detail", answer.status)), self.instance)
                return answer.pause
            while not self.again and not self.over and (line := stream.readline()):
                self.take(read(line), asked)
                connection.line.until = now() + SILENCE_SECONDS
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = str(error)
        finally:
            connection.close()
        if self.attached:
            self.attached, self.detached_at = False, now()
            self.tell_standing("detached", reason=why)
        else:
            self.note("stream", Answer(asked, 0, {"detail": f"no answer: {why}"}))
        return 0.0

    def live(self):
        """One instance after the other, each until it is over."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            self.register()
            began = now()
            wait = self.attend()
            pause = FIRST_PAUSE_SECONDS if now() > began + 1 else min(2 * pause, LONGEST_PAUSE_SECONDS)
            time.sleep(0 if self.over else max(pause, wait))


# -- the telephone network ---------------------------------------------------------------------------------------------


class Telephone(BaseHTTPRequestHandler):
    timeout = 10
    worker = Worker()

    def do_GET(self):
        with self.worker.lock:
            speaking = {call.session for call in self.worker.speaking()}
            silent = self.worker.calls.keys() - speaking
        self.answer(200, {"worker": NAME, "calls": sorted(speaking), "silent": sorted(silent)})

    def do_POST(self):
        text = self.rfile.read(min(int(number(self.headers.get("Content-Length"))), 65536))
        answer = self.worker.open(self.call(), read(text))
        self.answer(answer.status or 503, answer.document)

    def do_DELETE(self):
        self.answer(200 if self.worker.end(self.call()) else 404, {})

    def call(self):
        return unquote(self.path.removeprefix("/calls/"))

    def answer(self, status, document):
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Network(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    request_queue_size = 128


if __name__ == "__main__":
    # SIGTERM comes after the drain; the first process of a container would ignore it otherwise
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    worker, network = Telephone.worker, Network(("", TELEPHONE_PORT), Telephone)
    tell("telephone", port=network.server_address[1])
    for step in (network.serve_forever, worker.run_errands, worker.answer_ping):
        threading.Thread(target=forever, args=(step,), daemon=True).start()
    threading.Thread(target=forever, args=(worker.speak, TICK_SECONDS), daemon=True).start()
    forever(worker.live)
