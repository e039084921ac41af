// A voice worker in JavaScript, with nothing but Node's own modules: it talks HTTP to the sidecar on this machine.
//
//   node worker.mjs --socket /run/recovery/sidecar.sock --name voice-1 call-1 call-2
//
// Each call is a simulated voice loop: a tick every 20 ms, a checkpoint every so often. When this process dies its calls are
// offered to other workers; what others lose is offered to this one. Started by `coordinator supervise` it needs no options.

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
const agent = new http.Agent({ keepAlive: true, maxSockets: 32 });
const calls = new Map();
let instance = process.env.RECOVERY_INSTANCE ?? "";
let token = process.env.RECOVERY_WORKER_TOKEN ?? "";
let trustedUntil = 0;

const tell = (what, fields) => console.log(JSON.stringify({ what, ...fields }));
const sessionPath = (id, what = "") => `/v1/sessions/${encodeURIComponent(id)}${what}`;

/** One request; resolves to the status and the document of the answer. */
function ask(method, path, { body, epoch } = {}) {
  const headers = { ...(token && { "Worker-Token": token }), ...(epoch && { "If-Match": `"${epoch}"` }) };
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath: options.socket, agent, method, path, headers }, (answer) => {
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

/** True while nobody else can have adopted what this worker owns: to be asked before what cannot be undone. */
const held = () => performance.now() < trustedUntil;

/** Runs the voice loop of a call, unless it runs already. */
function serve(id, epoch, data) {
  if (calls.get(id)?.epoch === epoch) return;
  clearInterval(calls.get(id)?.ticker);
  const call = { epoch, data, ticker: null, checkpointed: performance.now() };
  calls.set(id, call);
  call.ticker = setInterval(() => {
    call.data.sequence += 1; // here a frame of audio would be sent
    if (performance.now() - call.checkpointed < Number(options.checkpoint)) return;
    call.checkpointed = performance.now();
    const body = { recovery_data: call.data, sequence: call.data.sequence };
    ask("PUT", sessionPath(id, "/checkpoint"), { body, epoch: call.epoch }).then(
      ({ status }) => [410, 412].includes(status) && lose(id, "its checkpoint was refused"),
      () => {}, // when the sidecar is away the next checkpoint says the same and more
    );
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

function take(event) {
  if (event.trust_ms) trustedUntil = performance.now() + event.trust_ms;
  switch (event.event) {
    case "hello":
      tell("attached", { instance, sessions: event.sessions });
      return compare().catch(() => {});
    case "ping":
      return ask("POST", `/v1/workers/${instance}/alive`, { body: { ping: event.ping } }).catch(() => {});
    case "offer":
      return adopt(event.session).catch(() => {});
    case "lost":
      return lose(event.session, event.reason);
    case "renewed":
      if (calls.has(event.session)) calls.get(event.session).epoch = event.epoch;
      return undefined;
    default:
      return tell(event.event, { held: held() });
  }
}

/** Reads the stream until it ends; resolves to false when this instance is over. */
function events() {
  return new Promise((resolve) => {
    const path = `/v1/workers/${instance}/events`;
    const request = http.get({ socketPath: options.socket, path, headers: { "Worker-Token": token } }, (answer) => {
      if ([404, 410].includes(answer.statusCode)) return resolve(false);
      let goesOn = true;
      const lines = readline.createInterface({ input: answer });
      lines.on("line", (line) => {
        const event = JSON.parse(line);
        if (event.event === "ended") goesOn = false;
        take(event);
      });
      answer.on("error", () => {});
      return lines.on("close", () => resolve(goesOn));
    });
    request.on("error", () => resolve(true)); // the sidecar may come back
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
while (await events()) await new Promise((resolve) => setTimeout(resolve, 20)); // the stream ended: attach again
tell("over", { instance });
process.exit(0);
