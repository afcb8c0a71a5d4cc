// The two dialogs: start a recovery, and confirm an end.
import { h, show, bytes } from "./dom.js";
import { api } from "./api.js";

const $ = (id) => document.getElementById(id);
let asked = null;

// Opens the recovery dialog for `point`; `started(job)` is called with the new job.
export async function openRecover(point, started) {
  // One key per dialog: a second click, or a retry after a lost answer, finds the same job.
  asked = { point, started, key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
  $("recover-form").reset();
  $("recover-error").textContent = "";
  $("recover-what").textContent = `${point.vm.name}, as of ${new Date(point.created_at).toLocaleString()} (${bytes(point.size_bytes)})`;
  showTargets([]);
  $("recover").showModal();
  try {
    showTargets((await api.targets()).targets);
  } catch (failure) {
    $("recover-error").textContent = `Targets cannot be listed: ${failure.message}`;
  }
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
  $("recover-clients-row").hidden = !exported;
  $("recover-expiry-row").hidden = !mount;
  $("recover-migrate-row").hidden = mount;
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
  const body = { point: asked.point.id, repository: asked.point.repository, mode: form.get("mode") };
  body.target = exported
    ? { kind: "export", clients: text("clients").split(/[\s,;]+/).filter(Boolean) }
    : { kind: "vsphere", name: String(form.get("target")).slice("vsphere ".length) };
  if (text("name")) body.name = text("name");
  if (mount) body.expires_in_seconds = Number(form.get("expiry"));
  else if (text("migrate")) body.migrate = exported ? { directory: text("migrate") } : { datastore: text("migrate") };
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
  const job = await api.recover(body, asked.key);
  $("recover").close();
  asked.started(job);
}

// Asks before `act` is done. `extra` is a field whose text `act` gets.
export function confirm({ title, text, yes, danger, extra, act }) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-error").textContent = "";
  $("confirm-yes").textContent = yes;
  $("confirm-yes").className = danger ? "danger" : "primary";
  const field = extra && h("input", { id: "confirm-field", autocomplete: "off", spellcheck: "false", placeholder: extra.placeholder, value: extra.value });
  $("confirm-extra").replaceChildren(...(extra ? [h("label", { for: "confirm-field" }, extra.label), field] : []));
  $("confirm-form").onsubmit = (event) => {
    event.preventDefault();
    busy($("confirm-yes"), $("confirm-error"), async () => {
      await act(field ? field.value.trim() : undefined);
      $("confirm").close();
    });
  };
  $("confirm").showModal();
  (field ?? $("confirm-no")).focus();
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
$("confirm-no").onclick = () => $("confirm").close();
