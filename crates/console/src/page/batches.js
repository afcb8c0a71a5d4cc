// Batches: many recoveries by one request, in groups that come up one after the other.
import { h, facts, time } from "./dom.js";
import { api } from "./api.js";
import { confirm, whyFields } from "./dialogs.js";
import { empty } from "./views.js";

const STATES = {
  running: ["Running", ""],
  completed: ["Completed", "good"],
  incomplete: ["Incomplete", "bad"],
  halted: ["Halted", "bad"],
  cancelled: ["Cancelled", "idle"],
};
const GROUPS = {
  pending: ["Not begun", "idle"],
  starting: ["Starting", ""],
  waiting: ["Waiting", ""],
  checking: ["Checking", ""],
  up: ["Up", "good"],
  failed: ["Not up", "bad"],
};
const ON_ERROR = { halt: "No group after it is begun", go_on: "The groups after it are begun all the same" };

const chip = ([text, tone]) => h("span", { class: `state ${tone}` }, text);
const nameOf = (batch) => batch.name ?? `of ${new Date(batch.created_at).toLocaleString()}`;
const groupName = (group, at) => group.name ?? `Group ${at + 1}`;

function gateText({ gate }) {
  if (gate.kind === "port") return `${gate.host} port ${gate.port}`;
  if (gate.kind === "ping") return gate.host ? `ping of ${gate.host}` : "ping";
  return gate.kind === "tools" ? "guest tools" : `script ${gate.name}`;
}

// What a batch that runs waits for.
function waits(batch) {
  const at = batch.groups.findIndex((group) => !["up", "failed"].includes(group.state));
  const group = batch.groups[at];
  if (batch.finished_at || !group) return null;
  const up = group.vms.filter((vm) => vm.up).length;
  const shut = group.gates.filter((gate) => gate.open === null).map(gateText);
  const what = {
    pending: "its turn",
    starting: `its VMs: ${up} of ${group.vms.length} are up`,
    waiting: "its delay, now that its VMs are up",
    checking: `its gates: ${shut.join(", ")}`,
  }[group.state];
  return h("p", { class: "note-box" }, `${groupName(group, at)} waits for ${what}`);
}

const known = (open) => (open === true ? "yes" : open === false ? "no" : "–");

function rows(group, at) {
  const state = group.skipped ? ["Not up, passed over", "bad"] : GROUPS[group.state] ?? [group.state, ""];
  const lines = [
    ...group.vms.map((vm) => ["VM", h("code", {}, vm.point), vm.job && h("a", { href: "#jobs" }, h("code", {}, vm.job)), vm.up, vm.error]),
    ...group.gates.map((gate) => ["Gate", gateText(gate), null, gate.open, gate.error]),
  ];
  const first = h("td", {}, h("b", {}, groupName(group, at)), " ", chip(state));
  return lines.map(([kind, what, job, open, error], line) => h("tr", { "data-key": `${at} ${line}` },
    line === 0 ? first : h("td", {}),
    h("td", {}, h("small", {}, kind), " ", what), h("td", {}, job ?? "–"), h("td", {}, known(open)), h("td", {}, error?.message ?? "")));
}

function card(batch, acts) {
  const tone = ["halted", "incomplete"].includes(batch.state) ? "bad" : batch.finished_at ? "" : "live";
  const head = ["Group", "VM or gate", "Job", "Up", "Why not"];
  return h("article", { class: `card ${tone}`, "data-key": batch.id, "aria-label": `Batch ${batch.id}` },
    h("div", { class: "row" },
      h("div", { class: "grow" }, h("h2", {}, `Batch ${nameOf(batch)}`), h("p", { class: "muted" }, h("code", {}, batch.id))),
      chip(STATES[batch.state] ?? [batch.state, ""]),
      h("div", { class: "actions" }, acts && batch.state === "halted"
        && h("button", { type: "button", class: "primary", "aria-label": `Go on… batch ${nameOf(batch)}`, onclick: () => resume(batch, acts) }, "Go on…"),
      acts && !batch.finished_at
        && h("button", { type: "button", class: "danger", "aria-label": `Cancel… batch ${nameOf(batch)}`, onclick: () => cancel(batch, acts) }, "Cancel…"))),
    waits(batch),
    facts([
      ["Accepted", time(batch.created_at)],
      ["Told to go on", batch.resumed_at && time(batch.resumed_at)],
      ["Ended", batch.finished_at && time(batch.finished_at)],
      ["When a group is not up", ON_ERROR[batch.on_error]],
    ]),
    h("div", { class: "scroll" }, h("table", { "aria-label": `Groups of batch ${batch.id}` },
      h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, batch.groups.flatMap(rows)))));
}

function cancel(batch, refresh) {
  confirm({
    title: `Cancel batch ${nameOf(batch)}?`, yes: "Cancel the batch", danger: true,
    text: "No more groups are begun. The recoveries that were begun go on, each by itself.",
    fields: whyFields(),
    act: (why) => api.cancelBatch(batch.id, why).then(refresh),
  });
}

function resume(batch, refresh) {
  const options = [["retry", "Is tried again: VMs whose job failed or ended, and all gates"], ["skip", "Is passed over: the next group is begun"]];
  confirm({
    title: `Let batch ${nameOf(batch)} go on?`, yes: "Go on", danger: false,
    text: "It was halted at a group that is not up. A group that does not come up halts it again.",
    fields: [{ name: "failed", label: "What is not up", value: "retry", options }, ...whyFields()],
    act: ({ failed, ...why }) => api.resumeBatch(batch.id, failed, why).then(refresh),
  });
}

// `refresh` is absent for who may only look.
export function batchesView(batches, refresh) {
  if (batches.length === 0) return [empty("No batches yet", "Select several VMs among the recovery points to recover them by one request.")];
  return batches.map((batch) => card(batch, refresh));
}

// Asks how the newest points of several VMs are recovered. `started(batch)` is called with the new batch.
export async function recoverMany(points, clients, started) {
  const { targets } = await api.targets();
  const vsphere = targets.filter((target) => target.kind === "vsphere").map((target) => [`vsphere ${target.name}`, target.name]);
  confirm({
    title: `Recover ${points.length} VMs?`, yes: "Start the batch",
    text: `${points.map((point) => point.vm.name).join(", ")}: each becomes a recovery of its own.`,
    fields: [
      { name: "batch", label: "Name of the batch (may be empty)" },
      { name: "mode", label: "What for", value: "live_recovery", options: [["live_recovery", "Live recovery: ends moved to a new home"], ["live_mount", "Live mount: ends thrown away"]] },
      { name: "target", label: "Where they run", value: "export", options: [...vsphere, ["export", "NFS export"]] },
      { name: "clients", label: "Client addresses of an NFS export", value: clients, placeholder: "192.0.2.10, 192.0.2.11" },
      { name: "order", label: "In which order", value: "once", options: [["once", "All at once"], ["turn", "One after the other, as they were selected"]] },
      { name: "on_error", label: "When one does not come up", value: "halt", options: Object.entries(ON_ERROR) },
      ...whyFields(),
    ],
    act: async (asked) => {
      started(await api.startBatch(request(points, asked), asked));
    },
  });
}

function request(points, asked) {
  const exported = asked.target === "export";
  const clients = asked.clients.split(/[\s,;]+/).filter(Boolean);
  if (exported && clients.length === 0) throw new Error("Name the hosts that may mount the exports.");
  const target = exported ? { kind: "export", clients } : { kind: "vsphere", name: asked.target.slice("vsphere ".length) };
  const recoveries = points.map((point) => ({ point: point.id, repository: point.repository, mode: asked.mode, target }));
  const groups = asked.order === "turn" ? recoveries.map((one, at) => ({ name: points[at].vm.name, recoveries: [one] })) : [{ recoveries }];
  return { ...(asked.batch && { name: asked.batch }), groups, on_error: asked.on_error };
}
