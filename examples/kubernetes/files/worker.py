"""A voice worker in Python's standard library: it knows its sidecar by RECOVERY_URL, and nothing else of the coordinator.

Its own interface stands in for the telephone network: POST /calls/ID is an incoming call, GET /calls lists the calls that live here.
"""

import http.client
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, urlsplit

SIDECAR = urlsplit(os.environ["RECOVERY_URL"])
NAME, CAPACITY = os.environ["HOSTNAME"], int(os.environ.get("CAPACITY", "50"))
CHECKPOINT_SECONDS = 1.0

calls: dict[str, dict] = {}
lock = threading.Lock()
worker = {"instance": "", "token": ""}


def tell(what, **fields):
    print(json.dumps({"what": what, "worker": NAME, **fields}), flush=True)


def ask(method, path, body=None, epoch=None):
    """Status and document of the sidecar's answer."""
    headers = {"Content-Type": "application/json"}
    if worker["token"]:
        headers["Worker-Token"] = worker["token"]
    if epoch:
        headers["If-Match"] = f'"{epoch}"'
    connection = http.client.HTTPConnection(SIDECAR.hostname, SIDECAR.port, timeout=30)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None
    finally:
        connection.close()


def session_path(call, what=""):
    return f"/v1/sessions/{quote(call, safe='')}{what}"


def serve(call, epoch, data):
    with lock:
        calls[call] = {"epoch": epoch, "data": data}


def lose(call, reason):
    """Somebody else has it: its media stops here, and it is never hung up."""
    with lock:
        known = calls.pop(call, None)
    if known:
        tell("lost", session=call, reason=reason)


def adopt(call):
    status, found = ask("POST", session_path(call, "/adopt"))
    if status != 200:
        return  # another was quicker
    serve(call, found["epoch"], found["recovery_data"])  # here media would be attached again
    ask("POST", session_path(call, "/resumed"), epoch=found["epoch"])
    tell("adopted", session=call, sequence=found["recovery_data"]["sequence"])


def compare():
    """After each attachment: what the sidecar says is ours, and nothing else."""
    status, found = ask("GET", f"/v1/workers/{worker['instance']}/sessions")
    if status != 200:
        return
    ours = {one["session"] for one in found["sessions"]}
    for one in found["sessions"]:
        serve(one["session"], one["epoch"], one["recovery_data"])
    for call in set(calls) - ours:
        lose(call, "the sidecar does not know it as ours")


def in_background(what, *arguments):
    def run():
        try:
            what(*arguments)
        except (OSError, http.client.HTTPException) as error:
            tell("sidecar_away", error=str(error))

    threading.Thread(target=run, daemon=True).start()


def take(event):
    kind = event["event"]
    if kind == "hello":
        in_background(compare)
    elif kind == "ping":  # the answer is the proof that this process turns over
        ask("POST", f"/v1/workers/{worker['instance']}/alive", {"ping": event["ping"]})
    elif kind == "offer":
        in_background(adopt, event["session"])
    elif kind == "lost":
        lose(event["session"], event["reason"])
    elif kind == "renewed" and event["session"] in calls:
        calls[event["session"]]["epoch"] = event["epoch"]
    elif kind != "renewed":
        tell(kind)


def attend():
    """Reads the stream; False when this instance is over."""
    connection = http.client.HTTPConnection(SIDECAR.hostname, SIDECAR.port, timeout=10)
    try:
        connection.request("GET", f"/v1/workers/{worker['instance']}/events", headers={"Worker-Token": worker["token"]})
        answer = connection.getresponse()
        if answer.status in (404, 410):
            return False
        for line in answer:
            event = json.loads(line)
            take(event)
            if event["event"] == "ended":
                return False
    except (OSError, http.client.HTTPException, ValueError) as error:
        tell("stream_ended", error=str(error))
    finally:
        connection.close()
    return True


def speak():
    """The voice loop of all calls: here frames of audio would be sent; now and then what an heir would need is written."""
    while True:
        time.sleep(CHECKPOINT_SECONDS)
        for call, known in list(calls.items()):
            known["data"]["sequence"] += 1
            try:
                status, _ = ask(
                    "PUT", session_path(call, "/checkpoint"), {"recovery_data": known["data"]}, known["epoch"]
                )
            except (OSError, http.client.HTTPException):
                continue  # nothing is known: the call goes on, and the next checkpoint says the same and more
            if status in (410, 412):
                lose(call, "its checkpoint was refused")


class Telephone(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, {"worker": NAME, "calls": sorted(calls)})

    def do_POST(self):
        call = self.path.removeprefix("/calls/")
        status, found = ask("PUT", session_path(call), {"recovery_data": {"call_sid": call, "sequence": 0}})
        if status in (200, 201):
            serve(call, found["epoch"], found["recovery_data"])
            tell("opened", session=call)
        self.answer(status, found)

    def answer(self, status, document):
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


signal.signal(
    signal.SIGTERM, lambda *_: os._exit(0)
)  # comes after the drain; a container's first process ignores it otherwise
threading.Thread(target=ThreadingHTTPServer(("", 8080), Telephone).serve_forever, daemon=True).start()
threading.Thread(target=speak, daemon=True).start()
while True:
    status, found = ask("POST", "/v1/workers", {"name": NAME, "capacity": CAPACITY})
    if status != 201:
        tell("refused", status=status, answer=found)
        time.sleep(1)
        continue
    worker.update(instance=found["instance"], token=found["worker_token"])
    tell("registered", instance=found["instance"])
    while attend():
        time.sleep(0.05)
    for call in list(calls):
        lose(call, "this instance is over")
    worker["token"] = ""
