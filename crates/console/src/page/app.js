// What is on the screen, and when it is asked for again. Lists are polled;
// the jobs that go on are followed by event streams.
import { show } from "./dom.js";
import { api } from "./api.js";
import { pointsView, exportsView, cacheView, empty, failed } from "./views.js";
import { jobCard, isFinal, words } from "./jobs.js";
import { openRecover, confirm, busy, setSession, tell, whyFields } from "./dialogs.js";
import { overviewView } from "./overview.js";
import { accountView, auditView, placesView, settingsView, usersView } from "./admin.js";
import { people } from "./people.js";
import { notificationsView } from "./notifications.js";
import { stateView } from "./state.js";
import { upkeepActs } from "./upkeep.js";
import { batchesView, recoverMany } from "./batches.js";

const $ = (id) => document.getElementById(id);
const VIEWS = ["overview", "points", "jobs", "batches", "exports", "cache", "places", "users", "audit", "settings", "account"];
const EVERY_MS = 3000;
// Listing points reads repositories, so it is asked for less often.
const POINTS_EVERY_MS = 20000;
// Rates kept per job for its line.
const RATES = 60;
// A browser has six connections per host: the rest is for the polls.
const STREAMS = 3;

let points = null;
let pointsAt = -Infinity;
let jobs = new Map();
let batches = new Map();
// The points of the VMs that are selected, by their cards' keys.
const selected = new Map();
let timer = null;
let loggedIn = false;
let session = {};
let auditFrom;
const rates = new Map();
const streams = new Map();
// The newest batch that runs, while batches are on the screen.
let followed = null;

const view = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "overview");
const mayRestore = () => session.role === "operator" || session.role === "admin";
const whole = () => !session.scope?.repositories && !session.scope?.targets;

function route() {
  const now = view();
  if (now !== "batches") followBatch(undefined);
  for (const name of VIEWS) {
    $(`view-${name}`).hidden = !loggedIn || name !== now;
    const link = document.querySelector(`header a[href="#${name}"]`);
    if (name === now) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const link of document.querySelectorAll("nav a[data-admin]")) link.hidden = session.role !== "admin" || !whole();
  for (const link of document.querySelectorAll("nav a[data-whole]")) link.hidden = !whole();
  $("account").hidden = !loggedIn;
  $("account").textContent = session.user ?? "";
  $("login").hidden = loggedIn;
  $("nav").hidden = !loggedIn;
  $("logout").hidden = !loggedIn;
  if (loggedIn) refresh();
  else $("user").focus();
}

// Asks for what is on the screen, and always for the jobs.
async function refresh() {
  clearTimeout(timer);
  if (!loggedIn) return;
  const now = view();
  try {
    await Promise.all([loadJobs(), load(now)]);
    linked(true);
  } catch (failure) {
    if (failure.status === 401) return end();
    linked(failure.code !== "unreachable", failure);
    if (failure.code !== "unreachable") show($(`${now}-body`), failed(failure));
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, EVERY_MS);
}

function linked(up, failure) {
  $("link").textContent = up ? "" : "No answer from the appliance";
  $("link").classList.toggle("lost", !up);
  $("alert").hidden = up;
  $("alert").textContent = up ? "" : failure.message;
}

async function load(name) {
  const acts = people(session, refresh);
  if (name === "overview") {
    const [exports, cache] = await Promise.all([api.exports(), api.cache(), loadPoints()]);
    show($("overview-body"), overviewView({ jobs: [...jobs.values()], exports, cache, points }));
  } else if (name === "points") {
    await loadPoints();
    showPoints();
  } else if (name === "batches") {
    const listing = await api.batches();
    batches = new Map(listing.batches.map((batch) => [batch.id, batch]));
    showBatches();
  } else if (name === "places") {
    const [{ repositories }, { targets }] = await Promise.all([api.repositories(), api.targets(), loadPoints()]);
    const upkeep = new Map(await Promise.all(repositories.map(async ({ name }) => [name, await api.upkeep(name)])));
    show($("places-body"), placesView({ repositories, targets, points, upkeep }, { role: session.role, whole: whole() }, upkeepActs(refresh)));
  } else if (name === "users") {
    const [users, tokens] = await Promise.all([api.users(), api.tokens()]);
    show($("users-body"), usersView(users, tokens, acts));
  } else if (name === "audit") {
    show($("audit-body"), auditView(await api.audit(auditFrom), (from) => { auditFrom = from; refresh(); }));
  } else if (name === "settings") {
    const admin = session.role === "admin";
    const [settings, told, state] = await Promise.all([api.settings(), api.notifications(), admin ? api.stateBackups() : null]);
    show($("settings-body"), [...notificationsView(told, admin, refresh), ...(state ? stateView(state, refresh) : []), ...settingsView(settings)]);
  } else if (name === "account") {
    const [now, tokens] = await Promise.all([api.session(), api.tokens()]);
    know(now);
    show($("account-body"), accountView(session, tokens, people(session, refresh)));
  } else if (name === "exports") {
    show($("exports-body"), exportsView(await api.exports()));
  } else if (name === "cache") {
    show($("cache-body"), cacheView(await api.cache()));
  }
}

async function loadPoints() {
  if (performance.now() - pointsAt < POINTS_EVERY_MS) return;
  points = await api.points();
  pointsAt = performance.now();
  const names = [...new Set(points.points.map((point) => point.repository))];
  const chosen = $("points-repository").value;
  $("points-repository").replaceChildren(new Option("all", ""), ...names.map((name) => new Option(name, name, false, name === chosen)));
}

function showPoints() {
  if (!points) return;
  const wanted = { search: $("points-search").value, since: $("points-since").value, until: $("points-until").value, repository: $("points-repository").value, check: $("points-check").value };
  show($("points-body"), pointsView(points, wanted, mayRestore() ? { recover: (point) => openRecover(point, lastClients(), started), selected, toggle, recoverSelected } : null));
}

function toggle(key, point) {
  if (!selected.delete(key)) selected.set(key, point);
  showPoints();
}

function recoverSelected() {
  recoverMany([...selected.values()], lastClients(), (batch) => {
    batches.set(batch.id, batch);
    selected.clear();
    location.hash = "#batches";
  }).catch((failure) => tell("This cannot be begun now", failure.message));
}

function showBatches() {
  const all = [...batches.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
  followBatch(all.find((batch) => !batch.finished_at)?.id);
  show($("batches-body"), batchesView(all, mayRestore() ? refresh : null));
}

// Follows one batch, and none once there is none.
function followBatch(id) {
  if (followed?.id === id && followed?.stream.readyState !== EventSource.CLOSED) return;
  followed?.stream.close();
  followed = id === undefined ? null : { id, stream: api.batchEvents(id) };
  followed?.stream.addEventListener("batch", (event) => {
    const batch = JSON.parse(event.data);
    batches.set(batch.id, batch);
    showBatches();
  });
  followed?.stream.addEventListener("end", (event) => event.target.close());
}

// Who the newest export was for: most likely it is the same again.
function lastClients() {
  const newest = [...jobs.values()].filter((job) => job.request.target.kind === "export").sort((a, b) => (a.created_at < b.created_at ? 1 : -1))[0];
  return newest ? newest.request.target.clients.join(", ") : "";
}

function know(now) {
  session = now;
  setSession(now);
}

function started(job) {
  jobs.set(job.id, job);
  location.hash = "#jobs";
  refresh();
}

async function loadJobs() {
  const listing = await api.jobs();
  jobs = new Map(listing.jobs.map((job) => [job.id, job]));
  follow();
  showJobs();
}

function showJobs() {
  const all = [...jobs.values()].sort((a, b) => isFinal(a) - isFinal(b) || (a.created_at < b.created_at ? 1 : -1));
  const going = all.filter((job) => !isFinal(job)).length;
  const bad = all.some((job) => job.state === "stuck");
  $("jobs-badge").hidden = going === 0;
  $("jobs-badge").textContent = bad ? `${going} !` : going;
  document.title = going ? `(${going}) Rekindle` : "Rekindle";
  show($("jobs-body"), all.length
    ? all.map((job) => jobCard(job, mayRestore() ? { finish, cancel, keep, copy } : null, rates.get(job.id)))
    : empty("No jobs yet", "Start one from a recovery point."));
}

// Follows the newest jobs that go on, each until it ends.
function follow() {
  const going = [...jobs.values()].filter((job) => !isFinal(job)).slice(0, STREAMS);
  const wanted = new Set(going.map((job) => job.id));
  for (const [id, stream] of streams) if (!wanted.has(id)) { stream.close(); streams.delete(id); }
  for (const id of wanted) if (!streams.has(id)) streams.set(id, open(id));
}

function open(id) {
  const stream = api.events(id);
  stream.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    jobs.set(id, job);
    remember(job);
    showJobs();
  });
  stream.addEventListener("end", () => { stream.close(); streams.delete(id); });
  // The polls go on; a stream that broke is opened again with the next one.
  stream.onerror = () => { stream.close(); streams.delete(id); };
  return stream;
}

function remember(job) {
  if (isFinal(job) || !job.progress) { rates.delete(job.id); return; }
  const kept = rates.get(job.id) ?? [];
  rates.set(job.id, [...kept, job.progress.rate_bytes_per_second].slice(-RATES));
}

function commit(job) {
  confirm({
    title: `Keep ${job.name} in place of the original?`, yes: "Commit", danger: false,
    text: "The recovered VM stays. The original stays as well, off and renamed, unless you have it deleted with its disks: that cannot be undone.",
    fields: [{ name: "original", label: "The original", value: "keep", options: [["keep", "Stays, off and renamed"], ["remove", "Is deleted with its disks"]] }, ...whyFields()],
    act: ({ original, ...why }) => api.commit(job.id, original === "remove", why).then(refresh),
  });
}

function finish(job, how) {
  if (how === "commit") return commit(job);
  if (how === "discard" && job.request.in_place) {
    confirm({
      title: `Put the original of ${job.name} back?`, yes: "Put it back", danger: true,
      text: "The recovered VM is powered off and unregistered, and everything its guest wrote is lost. The original gets its name back, and runs if it ran.",
      fields: whyFields(),
      act: (why) => api.finish(job.id, "discard", undefined, why).then(refresh),
    });
    return;
  }
  if (how === "discard" && job.request.attach_to) {
    const { name, uuid, moref } = job.request.attach_to;
    confirm({
      title: `Detach ${job.name}?`, yes: "Detach and discard", danger: true,
      text: `The VM ${name ?? uuid ?? moref} loses the disks while it runs: unmount them in it first. Everything that was written to them is lost. The recovery point stays as it is.`,
      fields: whyFields(),
      act: (why) => api.finish(job.id, "discard", undefined, why).then(refresh),
    });
    return;
  }
  if (how === "discard") {
    confirm({
      title: `Discard ${job.name}?`, yes: "Discard", danger: true,
      text: "The export ends and everything the guest wrote since it was started is lost. The recovery point stays as it is.",
      fields: whyFields(),
      act: (why) => api.finish(job.id, "discard", undefined, why).then(refresh),
    });
    return;
  }
  const exported = job.request.target.kind === "export";
  const pauses = !exported && !job.request.in_place && !job.request.redo_datastore;
  const asked = job.request.migrate ?? {};
  const known = asked.images?.directory ?? asked.directory ?? asked.datastore ?? "";
  const formats = [["flat", "Flat VMDKs, as ESXi has them"], ["sparse", "Growing VMDKs"], ["qcow2", "qcow2"], ["raw", "Raw"]];
  const stop = {
    name: "stop", label: "If the host cannot move it while it runs", value: job.request.cut_over?.stop ?? "shut_down",
    options: [["shut_down", "Have its guest shut down"], ["power_off", "Cut its power"]],
  };
  const asked_percent = job.request.verify?.sampled?.percent;
  const parts = [[1, "A sample of 1 %"], [10, "A sample of 10 %"], [asked_percent, `A sample of ${asked_percent} %`]];
  const shares = parts.filter(([percent], at) => percent && parts.findIndex((one) => one[0] === percent) === at);
  const verify = {
    name: "percent", label: "Compared of the copy, where this appliance compares it", value: String(asked_percent ?? ""),
    options: [["", "Every byte"], ...shares.map(([percent, text]) => [String(percent), `${text}, partition tables, and all that the guest wrote`])],
  };
  const format = { name: "format", label: "Disks there are", value: asked.images?.format ?? "flat", options: formats };
  confirm({
    title: `Migrate ${job.name}?`, yes: "Migrate", danger: false,
    text: "The whole VM, with what its guest wrote, is moved and checked; then its export ends.",
    fields: [{ name: "to", label: exported ? "Directory on the appliance" : "Datastore", value: known, placeholder: exported ? "/srv/vms/name" : "" }, ...(exported ? [format] : pauses ? [stop] : []), ...(exported || pauses ? [verify] : []), ...whyFields()],
    act: ({ to, format: kind, stop: how, percent, ...why }) => api.finish(job.id, "migrate", to && (exported ? { images: { directory: to, format: kind } } : { datastore: to }), why,
      pauses ? { ...job.request.cut_over, stop: how } : undefined, !exported && !pauses ? undefined : percent ? { sampled: { percent: Number(percent) } } : "full").then(refresh),
  });
}

function keep(job) {
  confirm({
    title: `Make a recovery point of ${job.name}?`, yes: "Make it", danger: false,
    text: `What the guest wrote and the point below it become a new recovery point in ${job.repository}; the recovery stays as it is, and its guest writes on.`,
    fields: [{ name: "tag", label: "Tag (may be empty)" }, ...whyFields()],
    act: ({ tag, ...why }) => api.keep(job.id, tag ? [tag] : [], why).then(refresh),
  });
}

// What a VM is now, mounted beside it.
function copy(job) {
  openRecover({ from_job: job.id, vm: { name: job.name }, size_bytes: job.size_bytes }, lastClients(), started);
}

function cancel(job) {
  if (job.state === "stuck") {
    confirm({
      title: `Try to end ${job.name} again?`, yes: "Try again", danger: false,
      text: "The step that could not be taken back is tried again at once. It is also tried again by itself, less and less often.",
      fields: whyFields(),
      act: (why) => api.cancel(job.id, why).then(refresh),
    });
    return;
  }
  confirm({
    title: `Cancel ${job.name}?`, yes: "Cancel the job", danger: true,
    text: `The job is ${words(job.state).toLowerCase()}. Its steps are taken back, and everything the guest wrote is lost. The recovery point stays as it is.`,
    fields: whyFields(),
    act: (why) => api.cancel(job.id, why).then(refresh),
  });
}

function end() {
  loggedIn = false;
  know({});
  clearTimeout(timer);
  for (const stream of streams.values()) stream.close();
  streams.clear();
  followBatch(undefined);
  selected.clear();
  linked(true);
  route();
}

$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(event.submitter ?? $("token"), $("login-error"), async () => {
    const [user, secret, totp] = ["user", "token", "login-totp"].map((id) => $(id).value.trim());
    try {
      await api.logIn({ ...(user ? { user, password: $("token").value } : { token: secret }), ...(totp && { totp }) });
    } catch (failure) {
      $("login-totp-row").hidden = failure.code !== "totp_required" && !totp;
      if (failure.code === "totp_required") $("login-totp").focus();
      throw failure;
    }
    for (const id of ["token", "login-totp"]) $(id).value = "";
    $("login-totp-row").hidden = true;
    know(await api.session());
    loggedIn = true;
    route();
  });
});
$("logout").onclick = () => api.logOut().catch(() => null).then(end);
$("user-add").onclick = () => people(session, refresh).add();
for (const id of ["points-search", "points-since", "points-until", "points-repository", "points-check"]) $(id).addEventListener("input", showPoints);
addEventListener("hashchange", () => { auditFrom = undefined; route(); $("main").focus(); });

api.session().then((now) => { know(now); loggedIn = true; }, () => { loggedIn = false; }).then(route);
