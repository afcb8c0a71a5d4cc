// A job as a card: where it stands, what it waits for, its steps, what it
// serves and what one can do about it.
import { h, bytes, duration, time, facts, sparkline } from "./dom.js";

const STATES = {
  queued: ["Waiting", "warn"],
  starting: ["Starting", ""],
  serving: ["Serving", "good"],
  migrating: ["Migrating", ""],
  cleaning_up: ["Cleaning up", ""],
  stuck: ["Stuck, needs a person", "bad"],
  completed: ["Completed", "good"],
  cancelled: ["Cancelled", "idle"],
  failed: ["Failed", "bad"],
};
const OUTCOMES = {
  migrated: "the VM is in its new home",
  discarded: "the guest's writes were thrown away",
  expired: "its time limit was reached",
  cancelled: "it was cancelled",
  failed: "it could not be done",
};
const PHASES = {
  warm: "Reading the VM into the cache",
  relocate: "The host moves the VM's storage",
  copy: "Copying the VM",
  verify: "Reading the copy back to compare",
  settle: "Writing the last changes, the guest's writes wait",
};
const MARKS = { pending: "○", running: "●", done: "✓", undoing: "●", undone: "↺", failed: "✗" };
const SAID = { pending: "not begun", running: "running", done: "done", undoing: "being taken back", undone: "taken back" };

export const isFinal = (job) => ["completed", "cancelled", "failed"].includes(job.state);
export const words = (name) => { const text = String(name).replaceAll("_", " "); return text.charAt(0).toUpperCase() + text.slice(1); };
export const stateText = (job) => (STATES[job.state] ?? [words(job.state)])[0];

export function stateChip(job) {
  const [text, tone] = STATES[job.state] ?? [words(job.state), ""];
  return h("span", { class: `state ${tone}` }, text);
}

// `acts`: { finish(job, how), cancel(job), keep(job), copy(job) }, absent for who may only look. `rates`: its rates of late.
export function jobCard(job, acts, rates = []) {
  const kinds = { live_mount: "Live mount", disk_only: "Disks alone", full_restore: "Full restore" };
  const kind = kinds[job.request.mode] ?? (job.request.in_place ? "Recovery in place" : "Live recovery");
  const from = job.request.from_job ? `, as job ${job.request.from_job} had it` : "";
  const tone = job.state === "stuck" || job.state === "failed" ? "bad" : job.state === "serving" ? "live" : "";
  return h("article", { class: `card ${tone}`, "data-key": job.id, "aria-label": `Job ${job.id}, ${job.name}, ${stateText(job)}` },
    h("div", { class: "row" },
      h("div", { class: "grow" },
        h("h2", {}, job.name),
        h("p", { class: "muted" }, `${kind} of ${job.vm}${from}${attachedTo(job)} · `, target(job.request.target), " · ", h("code", {}, job.id))),
      stateChip(job),
      h("div", { class: "actions" }, acts ? buttons(job, acts) : null)),
    job.waits_for && h("p", { class: "note-box" }, `Waits for ${job.waits_for}`),
    job.error && h("p", { class: "why-box" }, h("b", {}, "Problem: "), job.error.message, " ", h("code", {}, `(${job.error.code})`)),
    job.progress && progress(job.progress, rates),
    !isFinal(job) && job.export && served(job.export),
    facts([
      ["Accepted", time(job.created_at)],
      ["Served after", job.serving_since && duration(between(job.created_at, job.serving_since))],
      ["Ends by itself", !isFinal(job) && job.expires_at ? time(job.expires_at) : null],
      ["Ended", job.finished_at && time(job.finished_at)],
      ["Outcome", job.outcome && OUTCOMES[job.outcome]],
      ["Moved to", job.migrated_to],
      ["Compared of the copy", job.compared && compared(job.compared)],
      [stops(job) ? "Guest was off" : "Guest's writes waited", job.pause_ms === null || job.pause_ms === undefined ? null : `${job.pause_ms} ms`],
    ]),
    h("details", { open: !isFinal(job) },
      h("summary", {}, "Steps"),
      h("ol", { class: "steps" }, job.steps.map(step))),
    job.timeline.length > 0 && h("details", {},
      h("summary", {}, "Timeline"),
      h("div", { class: "scroll" }, h("table", {}, h("tbody", {}, job.timeline.map((event) =>
        h("tr", {}, h("td", { class: "num" }, duration(between(job.created_at, event.at))), h("td", {}, event.what), h("td", {}, time(event.at)))))))));
}

function compared({ how, bytes: some, of_bytes: all }) {
  const sampled = how.sampled;
  return sampled ? `${bytes(some)} of ${bytes(all)}: a sample of ${sampled.percent} % by the seed ${sampled.seed}` : "every byte";
}

// A migration that stops the guest for a moment, rather than hold its writes.
const stops = (job) => job.steps.some((one) => one.name === "hand_over");

function attachedTo(job) {
  const vm = job.request.attach_to;
  return vm ? ` for the VM ${vm.name ?? vm.uuid ?? vm.moref}` : "";
}

function target(to) {
  if (to.kind === "vsphere") return to.host ? `on ${to.name}, host ${to.host}` : `on ${to.name}`;
  return `export to ${(to.clients ?? []).join(", ")}`;
}

function buttons(job, acts) {
  if (isFinal(job)) return [];
  const can = [];
  const label = (text) => `${text}: ${job.name}`;
  const inPlace = Boolean(job.request.in_place);
  if (inPlace && job.steps.some((one) => one.name === "commit" && one.state === "running")) {
    return [
      h("button", { type: "button", class: "primary", "aria-label": label("Commit"), onclick: () => acts.finish(job, "commit") }, "Commit…"),
      h("button", { type: "button", class: "danger", "aria-label": label("Put the original back"), onclick: () => acts.finish(job, "discard") }, "Put the original back…"),
    ];
  }
  if (job.state === "serving" && job.request.mode !== "live_mount" && !job.request.attach_to) {
    can.push(h("button", { type: "button", class: "primary", "aria-label": label("Migrate"), onclick: () => acts.finish(job, "migrate") }, "Migrate…"));
  }
  if ((job.state === "serving" || job.state === "kept") && ["live_mount", "live_recovery"].includes(job.request.mode)) {
    can.push(h("button", { type: "button", "aria-label": label("Make a recovery point"), onclick: () => acts.keep(job) }, "Make a recovery point…"));
    can.push(h("button", { type: "button", "aria-label": label("Mount a copy"), onclick: () => acts.copy(job) }, "Mount a copy…"));
  }
  if (job.state === "serving") {
    const discard = inPlace ? "Put the original back" : "Discard";
    can.push(h("button", { type: "button", class: "danger", "aria-label": label(discard), onclick: () => acts.finish(job, "discard") }, `${discard}…`));
  } else if (job.state === "stuck") {
    can.push(h("button", { type: "button", class: "primary", "aria-label": label("Try again"), onclick: () => acts.cancel(job) }, "Try again…"));
  } else if (job.state !== "cleaning_up") {
    can.push(h("button", { type: "button", class: "danger", "aria-label": label("Cancel"), onclick: () => acts.cancel(job) }, "Cancel…"));
  }
  return can;
}

function progress(now, rates) {
  const share = now.total_bytes > 0 ? Math.floor((100 * now.done_bytes) / now.total_bytes) : 0;
  const eta = now.eta_seconds === null || now.eta_seconds === undefined ? "" : ` · ${duration(now.eta_seconds)} to go`;
  const text = `${bytes(now.done_bytes)} of ${bytes(now.total_bytes)} · ${bytes(now.rate_bytes_per_second)}/s${eta}`;
  return h("div", {},
    h("div", { class: "row" }, h("b", {}, `${PHASES[now.phase] ?? words(now.phase)}, ${share} %`), h("span", { class: "muted num" }, text)),
    h("progress", { max: 100, value: share, "aria-label": `${PHASES[now.phase] ?? words(now.phase)}, in percent` }),
    sparkline(rates));
}

function served(exported) {
  const where = exported.url ?? `${exported.server ?? ""}:${exported.path}/${exported.folder}`;
  return h("div", { class: "note-box" },
    h("div", {}, exported.datastore ? `Datastore ${exported.datastore}, served from ` : "Served at ", h("code", {}, where)),
    h("details", {}, h("summary", {}, `${exported.files.length} files`),
      h("div", { class: "scroll" }, h("table", {}, h("tbody", {}, exported.files.map((file) =>
        h("tr", {}, h("td", {}, h("code", {}, file.name)), h("td", {}, words(file.kind)), h("td", { class: "num" }, bytes(file.size)))))))));
}

function step(one) {
  const shown = one.error ? "failed" : one.state;
  const took = one.started_at && one.finished_at ? duration(between(one.started_at, one.finished_at)) : "";
  const style = { pending: "waiting", undoing: "running" }[shown] ?? shown;
  return h("li", { class: style },
    h("span", { class: "mark", "aria-hidden": "true" }, MARKS[shown] ?? "·"),
    h("span", {}, words(one.name), h("span", { class: "visually-hidden" }, `, ${SAID[one.state] ?? one.state}`)),
    h("span", { class: "when muted num" }, one.undone_at ? "taken back" : took),
    one.error && h("span", { class: "why" }, one.error.message));
}

function between(from, to) {
  return (new Date(to) - new Date(from)) / 1000;
}
