// Calls to the appliance. A failed call throws a Failure that carries the
// problem document's code and sentence.

export class Failure extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

const DEADLINE_MS = 40000;

async function call(method, path, body, extra = {}) {
  const headers = { "x-rekindle-console": "1", accept: "application/json", ...extra };
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, credentials: "same-origin", cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(DEADLINE_MS),
    });
  } catch {
    throw new Failure(0, "unreachable", "The appliance does not answer. Recoveries go on without this page.");
  }
  const text = await answer.text();
  let document = null;
  try { document = text ? JSON.parse(text) : null; } catch { document = null; }
  if (answer.ok) return document;
  throw new Failure(answer.status, document?.code ?? "error", document?.detail ?? `The appliance answered ${answer.status}.`);
}

// A list as a whole, part by part.
async function whole(path, name) {
  const all = await call("GET", path);
  for (let next = all.next; next; ) {
    const part = await call("GET", `${path}?cursor=${encodeURIComponent(next)}`);
    all[name].push(...part[name]);
    all.left_out = part.left_out;
    next = part.next;
  }
  return all;
}

const batch = (id) => `/api/v1/batches/${encodeURIComponent(id)}`;
const job = (id) => `/api/v1/jobs/${encodeURIComponent(id)}`;

const repository = (name) => `/api/v1/repositories/${encodeURIComponent(name)}`;
const user = (name) => `/api/v1/users/${encodeURIComponent(name)}`;
const coded = (totp) => (totp ? { "x-rekindle-totp": totp } : {});
// A restore action: with its reason, and with a one-time code where that is wanted.
const restore = (path, body, why = {}, extra = {}) =>
  call("POST", path, why.reason ? { ...body, reason: why.reason } : body, { ...extra, ...coded(why.totp) });

export const api = {
  session: () => call("GET", "/api/v1/session"),
  logIn: (who) => call("POST", "/api/v1/session", who),
  logOut: () => call("DELETE", "/api/v1/session"),
  points: () => whole("/api/v1/points", "points"),
  targets: () => call("GET", "/api/v1/targets"),
  jobs: () => whole("/api/v1/jobs", "jobs"),
  exports: () => call("GET", "/api/v1/exports"),
  cache: () => call("GET", "/api/v1/cache"),
  repositories: () => call("GET", "/api/v1/repositories"),
  upkeep: (name) => call("GET", `${repository(name)}/upkeep`),
  check: (name, body) => call("POST", `${repository(name)}/check`, body),
  prune: (name, body) => call("POST", `${repository(name)}/prune`, body),
  stopUpkeep: (name) => call("POST", `${repository(name)}/upkeep/cancel`),
  settings: () => call("GET", "/api/v1/settings"),
  notifications: () => call("GET", "/api/v1/notifications"),
  stateBackups: () => call("GET", "/api/v1/state/backups"),
  backUpState: () => call("POST", "/api/v1/state/backups"),
  testNotifications: () => call("POST", "/api/v1/notifications/test"),
  audit: (from) => call("GET", `/api/v1/audit?limit=200${from === undefined ? "" : `&from=${from}`}`),
  users: () => call("GET", "/api/v1/users"),
  addUser: (body) => call("POST", "/api/v1/users", body),
  setGrant: (name, body) => call("PUT", user(name), body),
  removeUser: (name) => call("DELETE", user(name)),
  setPassword: (name, body) => call("POST", `${user(name)}/password`, body),
  beginTotp: (name) => call("POST", `${user(name)}/totp`),
  confirmTotp: (name, code) => call("POST", `${user(name)}/totp/confirm`, { code }),
  removeTotp: (name, code) => call("DELETE", `${user(name)}/totp`, undefined, coded(code)),
  tokens: () => call("GET", "/api/v1/tokens"),
  addToken: (body) => call("POST", "/api/v1/tokens", body),
  removeToken: (id) => call("DELETE", `/api/v1/tokens/${encodeURIComponent(id)}`),
  recover: (request, key, why) => restore("/api/v1/recoveries", request, why, { "idempotency-key": key }),
  finish: (id, action, to, why, cut_over, verify) =>
    restore(`${job(id)}/finish`, { action, ...(to && { to }), ...(cut_over && { cut_over }), ...(verify && { verify }) }, why),
  keep: (id, tags, why) => restore(`${job(id)}/keep`, { tags }, why),
  commit: (id, remove_original, why) => restore(`${job(id)}/finish`, { action: "commit", remove_original }, why),
  cancel: (id, why) => restore(`${job(id)}/cancel`, {}, why),
  batches: () => whole("/api/v1/batches", "batches"),
  startBatch: (request, why) => restore("/api/v1/batches", request, why),
  cancelBatch: (id, why) => restore(`${batch(id)}/cancel`, {}, why),
  resumeBatch: (id, failed, why) => restore(`${batch(id)}/resume`, { failed }, why),
  batchEvents: (id) => new EventSource(`${batch(id)}/events`),
  events: (id) => new EventSource(`${job(id)}/events`),
};
