// A voice worker in JavaScript, with nothing but Node's own modules: it talks HTTP to the sidecar on this machine.
//
//   node worker.mjs --socket /run/recovery/sidecar.sock --name voice-1 call-1 call-2
//
// It opens the calls that it is given. Its own interface (--telephone) stands in for the telephone network: POST /calls/ID is an
// incoming call, DELETE /calls/ID its end, GET /calls says for which calls it speaks at this moment. A frame of audio is a datagram to
// where the call came from: {"media": "host:port"}. Started by `coordinator supervise` it needs no options.
//
// Four rules, the same in examples/go and examples/kubernetes:
//
// 1. It speaks only while it may: while nobody else can have its calls. The sidecar says for how long; in doubt, whether to go on.
// 2. No answer ends it, and none is left unread. What the sidecar cannot be told now it is told later; of checkpoints only the newest.
// 3. A call that is over here (it ended, was lost, or could not be served) is not taken up again by an answer that is older than that.
// 4. When its instance is over, its calls are lost, and it starts over as another instance.
//
// It prints a line of JSON for each thing that happens to it or to a call.

import dgram from "node:dgram";
import http from "node:http";
import os from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

const { values: options, positionals: given } = parseArgs({
  allowPositionals: true,
  options: {
    socket: { type: "string", default: process.env.RECOVERY_SOCKET }, // of the sidecar
    url: { type: "string", default: process.env.RECOVERY_URL }, // of the sidecar, where it has no socket
    name: { type: "string", default: "node-worker" },
    pool: { type: "string" }, // whose offers it takes; default: the sidecar's
    capacity: { type: "string", default: "1000" }, // calls that it takes by offers
    checkpoint: { type: "string", default: "1000" }, // milliseconds between two checkpoints of a call
    telephone: { type: "string" }, // port of its own interface; none by default
  },
});

const TICK_MS = 20;
const ANSWER_MS = 5_000; // for an answer; what waits for the store is answered before
const ALIVE_MS = 2_000; // the same for the answer to a ping: the next one must not wait
const SILENCE_MS = 5_000; // pings come several times a second: a stream without any for so long is dead
const STALL_MS = 500; // a process that stood still for so long relies on nothing that it was told before
const WORD_MS = 1_000; // since the sidecar's last answer: for so long its word counts that a worker in doubt may speak
const LET_GO_MS = 3_000; // by then an heir that was let go to has the call, or has failed
const PATIENCE_MS = 10_000; // of an incoming call, while the sidecar is started again
const UNSURE_MS = 15_000; // by then a request that had no answer was carried out, or never will be
const FIRST_PAUSE_MS = 50; // before the stream is opened again
const LONGEST_PAUSE_MS = 500; // the same in the end, and before anything else is asked again
const MOST_PAUSE_MS = 5_000; // whatever Retry-After says
const AT_ONCE = 8; // errands

const uptime = () => os.uptime() * 1000; // goes on while the machine sleeps, but counts in steps of 10 ms
let slept = uptime() - performance.now();

/** Milliseconds on a clock that never steps, and that goes on while the machine sleeps; performance.now() stands still then. */
function now() {
  const more = uptime() - performance.now();
  if (more > slept + 20) slept = more;
  return performance.now() + slept;
}

const tell = (what, fields) => console.log(JSON.stringify({ what, at: Date.now() / 1000, ...fields }));

// An error that nobody thought of is told, and does not end the worker: all its calls live on it.
const failed = (error) => tell("failed", { error: String(error?.stack ?? error).slice(0, 500) });
process.on("uncaughtException", failed).on("unhandledRejection", failed);

// -- trust ---------------------------------------------------------------------------------------------------------------

/**
 * For how long nobody else can have what is this worker's. What the sidecar says counts from the sending of the request that it
 * answers: an answer may wait, as when this process stood still.
 */
const trust = {
  since: now(),
  ticked: now(),
  until: 0,
  aloneUntil: 0,
  wordUntil: 0,
  inDoubt: false, // as the sidecar said last
  goOn: false,
  draining: false,

  answered(asked, trustMs, aloneMs) {
    if (asked < this.since) return;
    this.goOn &&= now() < this.wordUntil; // what it said before it fell silent is over
    this.wordUntil = Math.max(this.wordUntil, asked + WORD_MS);
    if (trustMs > 0) this.until = Math.max(this.until, asked + Number(trustMs));
    // while it drains, a call that is on its way to an heir may arrive there without the sidecar
    if (aloneMs > 0 && !this.draining) this.aloneUntil = Math.max(this.aloneUntil, asked + Number(aloneMs));
  },

  /** There is a sidecar, and what it will do with us it does not say. */
  notAlone({ draining = false } = {}) {
    this.aloneUntil = 0;
    this.draining ||= draining;
  },

  /** Nothing counts that was asked for before. */
  forget() {
    Object.assign(this, { since: now(), until: 0, aloneUntil: 0, goOn: false });
  },

  /** To be called all the time; false when this process stood still since the last call, and then nothing counts. */
  tick() {
    const before = this.ticked;
    this.ticked = now();
    if (this.ticked - before < STALL_MS) return true;
    this.forget();
    return false;
  },

  /** To be asked before what cannot be undone. */
  held(at = now()) {
    return !this.inDoubt && at < this.until && at - this.ticked < STALL_MS;
  },

  /** Held; or in doubt, since the store does not answer and the sidecar says to go on; or since there is no sidecar any more. */
  maySpeak(at = now()) {
    if (at - this.ticked >= STALL_MS || this.held(at)) return this.held(at);
    return this.inDoubt && at < this.wordUntil ? this.goOn : at < this.aloneUntil;
  },
};

// -- the sidecar ---------------------------------------------------------------------------------------------------------

const me = { instance: process.env.RECOVERY_INSTANCE ?? "", token: process.env.RECOVERY_WORKER_TOKEN ?? "", over: false };
const agent = new http.Agent({ keepAlive: true });
const url = new URL(options.url ?? "http://127.0.0.1:9410");
const where = options.socket ? { socketPath: options.socket } : { hostname: url.hostname.replace(/[[\]]/g, ""), port: url.port };
const sessionPath = (session, what = "") => `/v1/sessions/${encodeURIComponent(session)}${what}`;
const workerPath = (what) => `/v1/workers/${encodeURIComponent(me.instance)}/${what}`;

/** A JSON object; anything else, such as half a line of a sidecar that died, counts as an empty one. */
function read(text) {
  try {
    const found = JSON.parse(text);
    return found !== null && typeof found === "object" ? found : {};
  } catch {
    return {};
  }
}

/** Whatever came of a request; status 0 is no answer. */
class Answer {
  constructor(asked, status, document, { sent = true, after = 0 } = {}) {
    const pause = Math.min(Math.max(LONGEST_PAUSE_MS, (Number(after) || 0) * 1000), MOST_PAUSE_MS);
    Object.assign(this, { asked, status, document, sent, pause });
  }
  get done() {
    return this.status >= 200 && this.status < 300;
  }
  /** The call that it is about is over, or somebody else's. */
  get gone() {
    return [404, 410, 412].includes(this.status);
  }
  /** It was done, or will be, or never. */
  get unsure() {
    return this.sent && (this.status === 0 || this.status >= 500);
  }
}

/** One request; resolves to its answer, and never rejects. */
async function ask(what, method, path, { body, epoch, within = ANSWER_MS } = {}) {
  const asked = now();
  // nothing else is answered without one
  if (!me.token && what !== "register") return new Answer(asked, 0, { detail: "not registered yet" }, { sent: false });
  const headers = { ...(me.token && { "Worker-Token": me.token }), ...(epoch && { "If-Match": `"${epoch}"` }) };
  let answer;
  try {
    answer = await new Promise((resolve, reject) => {
      const request = http.request({ ...where, agent, method, path, headers, signal: AbortSignal.timeout(within) }, (found) => {
        let text = "";
        found.setEncoding("utf8");
        found.on("data", (part) => (text += part));
        found.on("error", reject);
        found.on("end", () => {
          if (found.headers["trust-ms"]) trust.answered(asked, found.headers["trust-ms"], found.headers["alone-ms"]);
          resolve(new Answer(asked, found.statusCode, read(text), { after: found.headers["retry-after"] }));
        });
      });
      request.on("error", reject);
      request.end(body === undefined ? undefined : JSON.stringify(body));
    });
  } catch (error) {
    const sent = !["ECONNREFUSED", "ENOENT"].includes(error.code);
    answer = new Answer(asked, 0, { detail: `no answer: ${error.message}` }, { sent });
  }
  note(what, answer);
  return answer;
}

const refused = new Map();

/** Tells that something does not go well; once, until it does. What is gone is told as lost; without a stream only that is told. */
function note(what, answer) {
  const known = refused.get(what) ?? new Set();
  const knowsUs = ![401, 404].includes(answer.status) || what === "stream"; // one that was started just now may not yet
  if (answer.status && !answer.done && knowsUs && answer.asked > detachedAt) trust.notAlone();
  if (answer.done || (answer.gone && what !== "stream")) refused.delete(what);
  else if (!known.has(answer.status) && (attached || ["stream", "register"].includes(what))) {
    refused.set(what, known.add(answer.status));
    tell("refused", { request: what, status: answer.status, detail: String(answer.document.detail ?? "").slice(0, 200) });
  }
}

// -- the voice loop ------------------------------------------------------------------------------------------------------

const calls = new Map(); // that are served here
const ending = new Map(); // that are over here, and have to be closed or released
const lost = new Map(); // lately, with epoch and time: what was asked before that time says nothing of that epoch
let compareUntil = 0; // until then the sidecar is asked again and again what is ours
let attached = false;
let detachedAt = 0; // infinite while there is a stream
let standing = "in_doubt false";

const audio = dgram.createSocket("udp4").unref();
audio.on("error", () => {}); // each frame's own callback has it

/** 20 ms of audio. The epoch goes along: by it whoever gets it tells a newer owner from an older one. */
function frame(call) {
  if (!Number.isInteger(call.data.sequence)) throw new Error("its data has no sequence");
  call.data.sequence += 1;
  if (!("media" in call.data)) return;
  const [, host, port] = call.data.media.match(/^([0-9.]+):([0-9]+)$/);
  audio.send(`${call.session} ${call.epoch}\n`, Number(port), host, (error) => error && cannotServe(call, error));
}

/** A frame of every call. Nothing here waits for anybody. */
function speak() {
  if (!trust.tick()) compare(); // this process stood still: calls may have moved
  const before = standing;
  standing = `${trust.held() ? "held" : "in_doubt"} ${trust.maySpeak()}`;
  if (before !== standing) tellStanding(standing.split(" ")[0]);
  for (const call of calls.values()) {
    try {
      if (trust.maySpeak()) frame(call); // asked for each, at the last moment
    } catch (error) {
      cannotServe(call, error); // whatever it is, it concerns this call alone
    }
  }
}

function cannotServe(call, error) {
  if (calls.get(call.session) === call) end(call.session, `it cannot be served: ${JSON.stringify(error.message)}`);
}

function tellStanding(what, more) {
  const until = Math.floor(Date.now() + trust.until - now());
  tell(what, { may_speak: trust.maySpeak(), calls: calls.size, trusted_until_ms: until, ...more });
}

// -- what becomes of a call ----------------------------------------------------------------------------------------------

/** Takes up a call that an answer says is ours; returns whether it is served here. */
function serve(session, found, asked) {
  const { epoch, recovery_data: data } = found;
  if (!Number.isInteger(epoch) || found.may_speak === false) {
    compare(); // as when the sidecar does not know yet whether an heir has it
    return false;
  }
  const gone = lost.get(session);
  if (asked < trust.since || (gone && asked < gone.at && epoch <= gone.epoch)) return false;
  const over = ending.get(session);
  if (over && [me.instance, found.previous_owner].includes(over.instance)) {
    Object.assign(over, { epoch, instance: me.instance });
    return false;
  }
  ending.delete(session); // the same id, and another call
  if (!(calls.get(session)?.epoch >= epoch)) {
    calls.set(session, { session, epoch, data, instance: me.instance, since: now(), written: 0, over: "" });
    if (data === null || typeof data !== "object") end(session, "its recovery data cannot be read: it is no JSON object");
  }
  return calls.has(session);
}

/** It is somebody else's: its media stops here, and it is never hung up. */
function lose(session, reason, epoch = 0, after = 0) {
  const call = calls.get(session) ?? ending.get(session);
  if (call && epoch > 0 && epoch < call.epoch) return undefined; // it went and came back meanwhile
  lost.set(session, { epoch: Math.max(epoch, call?.epoch ?? 0), at: now() + after });
  if (call) {
    calls.delete(session);
    ending.delete(session);
    tell("lost", { session, reason });
  }
  compare();
  return call;
}

/** This instance is over: others have its calls or will. What ended here is still to be closed. */
function loseAll(reason, instance) {
  if (me.over || instance !== me.instance) return;
  me.over = true;
  trust.forget();
  for (const { session, over } of [...calls.values(), ...ending.values()]) if (over !== "ended") lose(session, reason);
  tell("over", { instance, reason });
  again();
}

/** It is over here. The caller hung up: it is to be closed; or it cannot be served: it is to be released, with its data. */
function end(session, why = "ended") {
  const call = calls.get(session) ?? ending.get(session);
  if (!call) return false;
  call.over = why;
  calls.delete(session);
  ending.set(session, call);
  tell(why === "ended" ? "ended" : "unserved", { session, reason: why });
  wake();
  return true;
}

/** Something is not certain: the sidecar is to be asked what is ours. */
function compare() {
  compareUntil = now() + UNSURE_MS;
  wake();
}

// -- what the sidecar is asked for, and told -----------------------------------------------------------------------------

/** An incoming call, which waits a little while the sidecar is away; resolves to the answer to it. */
async function open(session, more) {
  if (calls.has(session)) return new Answer(now(), 200, { session, epoch: calls.get(session).epoch });
  if (ending.has(session)) return new Answer(now(), 503, { detail: `an earlier call ${session} is not closed yet` });
  const began = now();
  const body = { recovery_data: { call_sid: session, sequence: 0, ...more } };
  let answer = await ask("open", "PUT", sessionPath(session), { body });
  while (([0, 401].includes(answer.status) || answer.status >= 500) && now() < began + PATIENCE_MS) {
    await sleep(LONGEST_PAUSE_MS);
    answer = await ask("open", "PUT", sessionPath(session), { body });
  }
  if (answer.done && serve(session, answer.document, answer.asked)) tell("opened", { session, epoch: answer.document.epoch });
  return answer;
}

/** Takes over a call that was offered. */
async function adopt(session) {
  const answer = await ask("adopt", "POST", sessionPath(session, "/adopt"));
  if (answer.unsure) compare();
  if (!answer.done || !serve(session, answer.document, answer.asked)) return; // another was quicker
  const { epoch, recovery_data: data } = answer.document;
  tell("adopted", { session, epoch, sequence: data.sequence, data });
  await ask("resumed", "POST", sessionPath(session, "/resumed"), { epoch });
}

/** Tells the heir that waits that nobody speaks here any more. If it fails, the sidecar says that the call is still ours. */
async function letGo(session, epoch, call) {
  await ask("let_go", "POST", sessionPath(session, "/let-go"), { body: call ? { recovery_data: call.data } : {}, epoch });
}

async function checkpoint(call) {
  const { session, epoch, data } = call;
  const sequence = data.sequence;
  if (!sequence || sequence === call.written) return;
  const answer = await ask("checkpoint", "PUT", sessionPath(session, "/checkpoint"), { body: { recovery_data: data, sequence }, epoch });
  if (answer.done) call.written = sequence;
  else if (answer.gone && call.epoch === epoch && calls.get(session) === call) lose(session, "its checkpoint was refused", epoch);
}

/** Closes or releases what is over here. What nobody owns by now is adopted in order to be closed. */
async function settle(call) {
  const { session, epoch, over } = call;
  let answer;
  if (over === "ended") {
    answer = await ask("close", "DELETE", sessionPath(session), { epoch });
    if (answer.status === 412 && ending.get(session) === call) {
      answer = await ask("adopt", "POST", sessionPath(session, "/adopt"));
      if (answer.done) return void serve(session, answer.document, answer.asked);
    }
  } else {
    if (call.data) await checkpoint(call);
    answer = await ask("release", "POST", sessionPath(session, "/release"), { body: { reason: over.slice(0, 200) }, epoch });
  }
  if (!answer.done && !answer.gone && answer.status !== 409) return;
  if (ending.get(session) !== call) return; // the id is another call's by now
  ending.delete(session);
  lost.set(session, { epoch, at: now() });
  tell(over === "ended" ? "closed" : "released", { session });
}

/** What the sidecar says is ours is served here, and nothing else. */
async function look() {
  const { instance } = me;
  const { done, asked, document } = await ask("sessions", "GET", workerPath("sessions"));
  if (!done || !Array.isArray(document.sessions) || instance !== me.instance) return;
  const ours = new Set(document.sessions.map((found) => found.session));
  for (const found of document.sessions) serve(found.session, found, asked);
  for (const call of [...calls.values(), ...ending.values()]) {
    if (ours.has(call.session) || call.since > asked || call.instance !== instance) continue;
    lose(call.session, "the sidecar does not know it as ours");
  }
}

let wake = () => {};

/** All that the sidecar is to be told. What it does not take comes again in the next round, with newer data. */
async function runErrands() {
  await Promise.race([sleep(Number(options.checkpoint)), new Promise((resolve) => (wake = resolve))]);
  if (now() < compareUntil) await look();
  for (const [session, { at }] of lost) if (now() > at + 4 * UNSURE_MS) lost.delete(session);
  await eachOf([...ending.values()], settle);
  await eachOf([...calls.values()], checkpoint);
}

/** Does something with each, a few at a time: one that has to wait does not make all others wait. */
async function eachOf(some, doIt) {
  const left = [...some];
  const work = async () => {
    for (let one = left.shift(); one; one = left.shift()) await doIt(one);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

// -- what the sidecar tells ----------------------------------------------------------------------------------------------

/** Makes this process known under its name, however long it takes. */
async function register() {
  const name = options.name;
  const body = { name, capacity: Number(options.capacity), lets_go: true, ...(options.pool && { pool: options.pool }) };
  while (!me.instance || me.over) {
    const answer = await ask("register", "POST", "/v1/workers", { body });
    const { instance, worker_token: token } = answer.document;
    if (answer.done && typeof instance === "string" && typeof token === "string") {
      Object.assign(me, { instance, token, over: false });
      trust.forget();
      tell("registered", { instance });
    } else await sleep(answer.pause);
  }
}

let answering = false;

/** The answer is the proof that this process turns over, and says for how long it may be trusted. */
async function answerPing(ping) {
  if (answering) return; // the answer to another one will do
  answering = true;
  const { instance } = me;
  const answer = await ask("alive", "POST", workerPath("alive"), { body: { ping }, within: ALIVE_MS });
  answering = false;
  if (answer.status === 410) loseAll(String(answer.document.detail), instance);
  if ([401, 404].includes(answer.status)) again();
}

/** One event. What is not known, or not whole, is left alone. */
function take(event, asked) {
  const { event: kind, session, epoch = 0 } = event;
  if (kind === "hello") {
    attached = true;
    detachedAt = Infinity;
    refused.clear();
    tell("attached", { instance: me.instance, sessions: event.sessions });
    trust.draining = event.draining === true;
    trust.answered(asked, event.trust_ms, event.alone_ms);
    compare();
  } else if (kind === "ping") answerPing(event.ping);
  else if (kind === "held" || kind === "in_doubt") {
    trust.inDoubt = kind === "in_doubt";
    trust.goOn = trust.inDoubt && event.may_speak === true;
  } else if (kind === "ended") loseAll(String(event.reason), me.instance);
  else if (["drain", "joined", "overflow", "replaced"].includes(kind)) {
    tell(kind, {});
    trust.notAlone({ draining: kind === "drain" });
    compare();
  } else if (typeof session !== "string" || !Number.isInteger(epoch)) return;
  else if (kind === "offer") adopt(session);
  else if (kind === "lost") lose(session, event.reason, epoch);
  else if (kind === "letting_go") letGo(session, epoch, lose(session, `handed over to ${event.heir}`, epoch, LET_GO_MS));
  else if (kind === "renewed") {
    for (const call of [calls.get(session), ending.get(session)]) if (call) call.epoch = Math.max(call.epoch, epoch);
  }
}

let again = () => {}; // has the stream opened again

/** Opens the stream and reads it until it ends; resolves to milliseconds to wait before it is opened again. */
async function attend() {
  const asked = now();
  const { instance } = me;
  let why = "it ended";
  const wait = await new Promise((resolve) => {
    const request = http.get({ ...where, path: workerPath("events"), headers: { "Worker-Token": me.token } }, (stream) => {
      let text = "";
      stream.setEncoding("utf8");
      stream.on("error", (error) => (why = error.message)); // the close follows
      stream.on("data", (part) => {
        const lines = (text + part).split("\n");
        text = lines.pop();
        if (stream.statusCode !== 200) return void (text = lines.concat(text).join("\n"));
        for (const line of lines) take(read(line), asked);
        if (lines.length) silence.refresh();
      });
      stream.on("close", () => {
        if (stream.statusCode === 200) return resolve(0);
        const answer = new Answer(asked, stream.statusCode, read(text), { after: stream.headers["retry-after"] });
        note("stream", answer);
        if ([401, 403, 404, 410].includes(answer.status)) loseAll(String(answer.document.detail ?? answer.status), instance);
        return resolve(answer.pause);
      });
    });
    const silence = setTimeout(() => request.destroy(new Error("it is silent")), SILENCE_MS);
    again = () => request.destroy(new Error("it is opened again"));
    request.on("close", () => clearTimeout(silence));
    request.on("error", (error) => {
      why = error.message;
      resolve(0);
    });
  });
  if (attached) {
    attached = false;
    detachedAt = now();
    tellStanding("detached", { reason: why });
  } else if (!wait) note("stream", new Answer(asked, 0, { detail: `no answer: ${why}` }));
  return wait;
}

/** One instance after the other, each until it is over. */
async function live() {
  for (let pause = FIRST_PAUSE_MS; ; ) {
    const began = now();
    const wait = await attend();
    pause = now() > began + 1000 ? FIRST_PAUSE_MS : Math.min(2 * pause, LONGEST_PAUSE_MS);
    if (!me.over) await sleep(Math.max(pause, wait));
    await register();
  }
}

// -- the telephone network, and the start ----------------------------------------------------------------------------------

function telephone(from, to) {
  const reply = (status, document) => to.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(document));
  let text = "";
  from.on("data", (part) => (text += part));
  from.on("end", async () => {
    const session = decodeURIComponent(from.url.replace(/^\/calls\//, ""));
    if (from.method === "POST") {
      const answer = await open(session, read(text));
      reply(answer.status || 503, answer.document);
    } else if (from.method === "DELETE") reply(end(session) ? 200 : 404, {});
    else {
      const all = [...calls.keys()].sort();
      const [speaking, silent] = trust.maySpeak() ? [all, []] : [[], all];
      reply(200, { worker: options.name, calls: speaking, silent });
    }
  });
}

async function begin() {
  for (const session of given) {
    let answer = await open(session, {});
    while (answer.status === 0 || answer.status >= 500) answer = await open(session, {});
    if (!answer.done) tell("refused", { request: "open", session, status: answer.status, detail: answer.document.detail });
  }
  tell("ready", { instance: me.instance, pid: process.pid });
}

async function errandsForever() {
  for (;;) await runErrands().catch(async (error) => sleep(1000, failed(error)));
}

if (me.instance) options.name = me.instance.split("~")[0]; // a supervisor registered it
if (options.telephone) {
  const server = http.createServer(telephone).listen(Number(options.telephone));
  server.on("listening", () => tell("telephone", { port: server.address().port }));
}
await register();
setInterval(speak, TICK_MS);
errandsForever();
begin();
live();
