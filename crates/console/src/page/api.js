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

const job = (id) => `/api/v1/jobs/${encodeURIComponent(id)}`;

export const api = {
  session: () => call("GET", "/api/v1/session"),
  logIn: (token) => call("POST", "/api/v1/session", { token }),
  logOut: () => call("DELETE", "/api/v1/session"),
  points: () => call("GET", "/api/v1/points"),
  targets: () => call("GET", "/api/v1/targets"),
  jobs: () => call("GET", "/api/v1/jobs"),
  exports: () => call("GET", "/api/v1/exports"),
  cache: () => call("GET", "/api/v1/cache"),
  recover: (request, key) => call("POST", "/api/v1/recoveries", request, { "idempotency-key": key }),
  finish: (id, action, to) => call("POST", `${job(id)}/finish`, to ? { action, to } : { action }),
  cancel: (id) => call("POST", `${job(id)}/cancel`),
  events: (id) => new EventSource(`${job(id)}/events`),
};
