// A voice worker in JavaScript, with nothing but Node's own modules: it talks HTTP to the sidecar on this machine.
//
//   node worker.mjs --socket /run/recovery/sidecar.sock --name voice-1 call-1 call-2
//
// Each call is a simulated voice loop: a tick every 20 ms, a checkpoint every so often. When this process dies its calls are
// offered to other workers; what others lose is offered to this one. Started by `coordinator supervise` it needs no options.
//
// It prints a line when it is in doubt, since its trust ran out or the sidecar said so, when it holds its calls again, and for
// each call that it lost.

import http from "node:http";
import readline from "node:readline";
import { parseArgs } from "node:util";

const { values: options, positionals: opened } = parseArgs({
  allowPositionals: true,
  options: {
    socket: { type: "string", default: process.env.RECOVERY_SOCKET },
    name: { type: "string", default: "node-worker" },
    pool: { type: "string", default: "default" },
    capacity: { type: "string", default: "1000" },
    checkpoint: { type: "string", default: "1000" },
  },
});

const TICK_MS = 20;
const TIMEOUT_MS = 10_000; // for an answer; what waits for the store is answered before
const agent = new http.Agent({ keepAlive: true, maxSockets: 32 });
const calls = new Map();
let instance = process.env.RECOVERY_INSTANCE ?? "";
let token = process.env.RECOVERY_WORKER_TOKEN ?? "";
let over = false; // this instance is over: nothing is its own any more
let doubted = false; // the sidecar said so
let trusted = { monotonic: 0, wall: 0 }; // until then nobody else can have adopted what this worker owns

const tell = (what, fields) => console.log(JSON.stringify({ what, ...fields }));
const sessionPath = (id, what = "") => `/v1/sessions/${encodeURIComponent(id)}${what}`;

/** Both clocks, in milliseconds: the monotonic one stands still while the machine sleeps. */
const clocks = () => ({ monotonic: performance.now(), wall: Date.now() });

/**
 * Notes for how long nobody else can have adopted what this worker owns. It counts from the asking, not from when the answer is
 * read: this process may have stood still in between.
 */
function trust(asked, milliseconds) {
  if (asked.monotonic + milliseconds <= trusted.monotonic || over) return;
  trusted = { monotonic: asked.monotonic + milliseconds, wall: asked.wall + milliseconds };
}

/** True while nobody else can have adopted what this worker owns: to be asked before what cannot be undone. */
function held() {
  const { monotonic, wall } = clocks();
  return !over && !doubted && monotonic < trusted.monotonic && wall < trusted.wall;
}

const standing = () => ({ calls: calls.size, trusted_until_ms: Math.floor(trusted.wall) });

/** Prints when this worker is in doubt, and when it is not any more. */
function watch() {
  let before = false;
  setInterval(() => {
    const now = held();
    if (now === before || over) return;
    before = now;
    tell(now ? "held" : "in_doubt", standing());
  }, TICK_MS);
}

/** One request; resolves to the status and the document of the answer, which may say for how long this worker may be trusted. */
function ask(method, path, { body, epoch } = {}) {
  const headers = { ...(token && { "Worker-Token": token }), ...(epoch && { "If-Match": `"${epoch}"` }) };
  const asked = clocks();
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const request = http.request({ socketPath: options.socket, agent, method, path, headers, signal }, (answer) => {
      if (answer.headers["trust-ms"]) trust(asked, Number(answer.headers["trust-ms"]));
      let text = "";
      answer.setEncoding("utf8");
      answer.on("data", (part) => (text += part));
      answer.on("end", () => resolve({ status: answer.statusCode, document: text ? JSON.parse(text) : null }));
      answer.on("error", reject);
    });
    request.on("error", reject);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/** Runs the voice loop of a call, unless it runs already. */
function serve(id, epoch, data) {
  if (over || calls.get(id)?.epoch === epoch) return;
  clearInterval(calls.get(id)?.ticker);
  const call = { epoch, data, ticker: null, checkpointed: performance.now() };
  calls.set(id, call);
  call.ticker = setInterval(() => {
    call.data.sequence += 1; // here a frame of audio would be sent
    if (call.writing || performance.now() - call.checkpointed < Number(options.checkpoint)) return;
    call.writing = true;
    call.checkpointed = performance.now();
    const body = { recovery_data: call.data, sequence: call.data.sequence };
    ask("PUT", sessionPath(id, "/checkpoint"), { body, epoch: call.epoch })
      .then(({ status }) => {
        if ([410, 412].includes(status) && calls.get(id) === call) lose(id, "its checkpoint was refused");
      })
      .catch(() => {}) // when the sidecar is away the next checkpoint says the same and more
      .finally(() => (call.writing = false));
  }, TICK_MS);
}

/** Stops a call's media: somebody else speaks. */
function lose(id, reason) {
  const call = calls.get(id);
  if (!call) return;
  calls.delete(id);
  clearInterval(call.ticker);
  tell("lost", { session: id, reason });
}

/** Stops everything: this instance is over, and others have its calls or will. */
function loseAll(reason) {
  over = true;
  for (const id of [...calls.keys()]) lose(id, reason);
}

/** Answers a ping; `again` is called when the sidecar does not know this worker, which may attach again then. */
async function alive(ping, again) {
  const { status } = await ask("POST", `/v1/workers/${instance}/alive`, { body: { ping } });
  if (status === 410) loseAll("this instance is over");
  if ([404, 410].includes(status)) again();
}

async function adopt(id) {
  const { status, document } = await ask("POST", sessionPath(id, "/adopt"));
  if (status !== 200) return; // another was quicker
  serve(id, document.epoch, document.recovery_data);
  await ask("POST", sessionPath(id, "/resumed"), { epoch: document.epoch }); // here media would be attached again
  tell("adopted", { session: id, epoch: document.epoch, sequence: document.recovery_data.sequence, data: document.recovery_data });
}

/** Takes up what the sidecar says is this worker's, and stops what is not: after each attachment they must agree. */
async function compare() {
  const unknown = new Set(calls.keys());
  const { status, document } = await ask("GET", `/v1/workers/${instance}/sessions`);
  if (status !== 200) return;
  for (const { session, epoch, recovery_data: data } of document.sessions) {
    unknown.delete(session);
    serve(session, epoch, data);
  }
  for (const id of unknown) lose(id, "the sidecar does not know it as this worker's");
}

function take(event, asked, again) {
  switch (event.event) {
    case "hello":
      trust(asked, event.trust_ms);
      tell("attached", { instance, sessions: event.sessions });
      return compare().catch(() => {});
    case "ping":
      return alive(event.ping, again).catch(() => {});
    case "offer":
      return adopt(event.session).catch(() => {});
    case "lost":
      return lose(event.session, event.reason);
    case "renewed":
      if (calls.has(event.session)) calls.get(event.session).epoch = event.epoch;
      return undefined;
    case "held":
    case "in_doubt":
      doubted = event.event === "in_doubt";
      return undefined;
    case "overflow":
      return compare().catch(() => {});
    case "ended":
      return loseAll(event.reason);
    default:
      return tell(event.event, { held: held() });
  }
}

/** Reads the stream until it ends. */
function events() {
  return new Promise((resolve) => {
    const path = `/v1/workers/${instance}/events`;
    const asked = clocks();
    const request = http.get({ socketPath: options.socket, path, headers: { "Worker-Token": token } }, (answer) => {
      const gone = [404, 410].includes(answer.statusCode);
      const lines = readline.createInterface({ input: answer });
      lines.on("line", (line) => {
        let event;
        try {
          event = JSON.parse(line);
        } catch {
          return; // the sidecar died in the middle of it
        }
        if (gone) loseAll(event.detail);
        else take(event, asked, () => request.destroy());
      });
      lines.on("error", () => {}); // the sidecar died: the end follows
      answer.on("close", () => {
        if (gone) loseAll("this instance is over");
        else if (!over) tell("detached", standing());
        resolve();
      });
    });
    request.on("error", () => resolve()); // the sidecar may come back
  });
}

async function begin() {
  for (const id of opened) {
    const data = { call_sid: id, sequence: 0 };
    const { status, document } = await ask("PUT", sessionPath(id), { body: { recovery_data: data } });
    if (status >= 300) throw new Error(`the sidecar answered ${status} to the opening of ${id}`);
    serve(id, document.epoch, document.recovery_data);
    tell("opened", { session: id, epoch: document.epoch });
  }
  tell("ready", { instance, pid: process.pid });
}

if (!instance) {
  const body = { name: options.name, pool: options.pool, capacity: Number(options.capacity) };
  const { status, document } = await ask("POST", "/v1/workers", { body });
  if (status !== 201) {
    console.error(`worker: the sidecar answered ${status}: ${document.detail}`);
    process.exit(1);
  }
  ({ instance, worker_token: token } = document);
}
begin().catch((error) => {
  console.error(`worker: ${error.message}`);
  process.exit(1);
});
watch();
while (!over) {
  await events();
  await new Promise((resolve) => setTimeout(resolve, TICK_MS)); // the stream ended: attach again
}
tell("over", { instance });
process.exit(0);
