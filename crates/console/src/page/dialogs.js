// The two dialogs: start a recovery, and confirm an end.
import { h, show, bytes } from "./dom.js";
import { api } from "./api.js";

const $ = (id) => document.getElementById(id);
// Free space beyond which nobody needs to think of it.
const AMPLE = 4;
let asked = null;
let session = {};

// Who is logged in: what it has to say with each restore action.
export function setSession(now) {
  session = now;
}

// The fields that a restore action needs besides its own.
export function whyFields() {
  const fields = [{ name: "reason", label: "Why (for the audit log)", required: session.restore_requires_reason }];
  if (session.restore_requires_totp) fields.push({ name: "totp", label: "One-time code", required: true, code: true });
  return fields;
}

// Opens the recovery dialog for `point`, or for what a job's VM is now: `point.from_job`; `started(job)` is called with the new job.
// `clients`: what was named the last time.
export async function openRecover(point, clients, started) {
  // One key per dialog: a second click, or a retry after a lost answer, finds the same job.
  asked = { point, started, key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
  $("recover-form").reset();
  $("recover-error").textContent = "";
  $("recover-clients").value = clients;
  $("recover-mode").hidden = Boolean(point.from_job);
  if (point.from_job) $("recover-form").elements.mode.value = "live_mount";
  $("recover-title").textContent = point.from_job ? "Mount a copy" : "Recover";
  $("recover-go").textContent = point.from_job ? "Mount a copy" : "Start recovery";
  $("recover-reason").required = session.restore_requires_reason === true;
  $("recover-reason-optional").textContent = session.restore_requires_reason ? "(needed, for the audit log)" : "(for the audit log)";
  $("recover-totp-row").hidden = !session.restore_requires_totp;
  $("recover-check").textContent = "Checking…";
  const asOf = point.from_job ? "as it is when the copy starts" : `as of ${new Date(point.created_at).toLocaleString()}`;
  $("recover-what").textContent = `${point.vm.name}, ${asOf} (${bytes(point.size_bytes)})`;
  showTargets([]);
  $("recover").showModal();
  try {
    const [targets, cache] = await Promise.all([api.targets(), api.cache()]);
    showTargets(targets.targets);
    $("recover-check").textContent = forecast(point, cache);
  } catch (failure) {
    $("recover-error").textContent = `Targets cannot be listed: ${failure.message}`;
  }
}

// What is known before the button: room for what the guest will write, and what must be read from afar.
function forecast(point, { overlay, cache }) {
  const free = overlay.left_bytes - overlay.reserved_bytes;
  const room = free > AMPLE * point.size_bytes ? "plenty of room" : free > point.size_bytes ? "room for all of its disks" : "less room than its disks take: watch it";
  const warm = cache.ring_bytes > 0 ? "What the cache has is served at once" : "The cache is empty, so first reads come from the repository";
  return `${bytes(free)} free for what the guest writes, ${room}. ${warm}. Nothing is copied before it starts.`;
}

function showTargets(targets) {
  const choice = (value, title, text, checked) => h("label", { class: "choice", "data-key": value },
    h("input", { type: "radio", name: "target", value, checked }), h("span", {}, h("b", {}, title), h("small", {}, text)));
  const vsphere = targets.filter((target) => target.kind === "vsphere");
  show($("recover-targets"),
    vsphere.map((target, at) => choice(`vsphere ${target.name}`, target.name, `vSphere, ${target.url ?? ""}`, at === 0)),
    choice("export", "NFS export", "Any NFS client that you name may mount it and run the VM.", vsphere.length === 0));
  const first = $("recover-targets").querySelector("input");
  if (first) first.checked = true;
  adapt();
}

// Shows the fields that the chosen mode and target need.
function adapt() {
  const form = new FormData($("recover-form"));
  const exported = form.get("target") === "export";
  const mount = form.get("mode") === "live_mount";
  const disks = form.get("mode") === "disk_only";
  const attached = disks && !exported && Boolean(String(form.get("attach_to") ?? "").trim());
  $("recover-clients-row").hidden = !exported;
  $("recover-disks-row").hidden = !disks;
  $("recover-attach-row").hidden = !disks || exported;
  $("recover-expiry-row").hidden = !mount;
  $("recover-migrate-row").hidden = mount || attached;
  $("recover-in-place-row").hidden = exported || mount || disks;
  $("recover-name").disabled = !exported && !mount && !disks && Boolean(form.get("in_place"));
  $("recover-migrate-label").textContent = exported ? "Move to directory" : "Move to datastore";
  $("recover-migrate-hint").textContent = exported
    ? "A directory on the appliance, absent or empty. May be left until you migrate."
    : "The migration starts by itself when one is named. May be left until you migrate.";
}

function request() {
  const form = new FormData($("recover-form"));
  const text = (name) => String(form.get(name) ?? "").trim();
  const exported = form.get("target") === "export";
  const mount = form.get("mode") === "live_mount";
  const { id, repository, from_job } = asked.point;
  const body = { ...(from_job ? { from_job } : { point: id, repository }), mode: form.get("mode") };
  body.target = exported
    ? { kind: "export", clients: text("clients").split(/[\s,;]+/).filter(Boolean) }
    : { kind: "vsphere", name: String(form.get("target")).slice("vsphere ".length) };
  if (text("name")) body.name = text("name");
  const disks = form.get("mode") === "disk_only";
  if (disks && text("disks")) body.disks = text("disks").split(/[\s,;]+/).filter(Boolean);
  if (disks && !exported && text("attach_to")) body.attach_to = { name: text("attach_to") };
  if (!exported && !mount && !disks && text("in_place")) body.in_place = text("in_place") === "gently" ? { shut_down_seconds: 300 } : {};
  if (mount) body.expires_in_seconds = Number(form.get("expiry"));
  else if (text("migrate") && !body.attach_to) body.migrate = exported ? { directory: text("migrate") } : { datastore: text("migrate") };
  return body;
}

async function submitRecover() {
  const body = request();
  const noClients = body.target.kind === "export" && body.target.clients.length === 0;
  $("recover-clients").setAttribute("aria-invalid", String(noClients));
  if (noClients) {
    $("recover-error").textContent = "Name the hosts that may mount the export.";
    $("recover-clients").focus();
    return;
  }
  const why = { reason: $("recover-reason").value.trim(), totp: $("recover-totp").value.trim() };
  const job = await api.recover(body, asked.key, why);
  $("recover").close();
  asked.started(job);
}

// Asks before `act` is done. `fields` are asked for too, and `act` gets their values by name.
export function confirm({ title, text, yes, danger, fields = [], act }) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-error").textContent = "";
  $("confirm-yes").textContent = yes;
  $("confirm-yes").className = danger ? "danger" : "primary";
  $("confirm-extra").replaceChildren(...fields.map(fieldRow));
  $("confirm-form").onsubmit = (event) => {
    event.preventDefault();
    const form = new FormData($("confirm-form"));
    const values = Object.fromEntries(fields.map(({ name }) => [name, String(form.get(name) ?? "").trim()]));
    const missing = fields.find((field) => field.required && !values[field.name]);
    if (missing) {
      $("confirm-error").textContent = `${missing.label}: this is needed.`;
      $(`confirm-${missing.name}`).focus();
      return;
    }
    busy($("confirm-yes"), $("confirm-error"), async () => {
      await act(values);
      $("confirm").close();
    });
  };
  $("confirm").showModal();
  (fields.length > 0 ? $(`confirm-${fields[0].name}`) : $("confirm-no")).focus();
}

function fieldRow({ name, label, type = "text", value = "", placeholder, options, code }) {
  const id = `confirm-${name}`;
  const input = options
    ? h("select", { id, name }, options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)))
    : h("input", { id, name, type, value, placeholder, autocomplete: code ? "one-time-code" : type === "password" ? "new-password" : "off", spellcheck: "false", inputmode: code ? "numeric" : null });
  return h("div", {}, h("label", { for: id }, label), input);
}

// Shows something once, with nothing to decide.
export function tell(title, ...content) {
  $("told-title").textContent = title;
  show($("told-body"), ...content);
  $("told").showModal();
}

// Runs `work` with its button off, and shows what went wrong where one looks.
export async function busy(button, errors, work) {
  button.disabled = true;
  errors.textContent = "";
  try {
    await work();
  } catch (failure) {
    errors.textContent = failure.message;
  } finally {
    button.disabled = false;
  }
}

$("recover-form").addEventListener("change", adapt);
$("recover-form").addEventListener("submit", (event) => {
  event.preventDefault();
  busy($("recover-go"), $("recover-error"), submitRecover);
});
$("recover-close").onclick = () => $("recover").close();
$("told-close").onclick = () => { $("told").close(); $("told-body").replaceChildren(); };
$("confirm-no").onclick = () => $("confirm").close();
