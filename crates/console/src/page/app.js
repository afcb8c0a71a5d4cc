// What is on the screen, and when it is asked for again. Lists are polled;
// the jobs that go on are followed by event streams.
import { show } from "./dom.js";
import { api } from "./api.js";
import { pointsView, exportsView, cacheView, empty, failed } from "./views.js";
import { jobCard, isFinal, words } from "./jobs.js";
import { openRecover, confirm, busy } from "./dialogs.js";

const $ = (id) => document.getElementById(id);
const VIEWS = ["points", "jobs", "exports", "cache"];
const EVERY_MS = 3000;
// Listing points reads repositories, so it is asked for less often.
const POINTS_EVERY_MS = 20000;
// A browser has six connections per host: the rest is for the polls.
const STREAMS = 3;

let points = null;
let pointsAt = -Infinity;
let jobs = new Map();
let timer = null;
let loggedIn = false;
const streams = new Map();

const view = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "points");

function route() {
  const now = view();
  for (const name of VIEWS) {
    $(`view-${name}`).hidden = !loggedIn || name !== now;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === now) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("login").hidden = loggedIn;
  $("nav").hidden = !loggedIn;
  $("logout").hidden = !loggedIn;
  if (loggedIn) refresh();
  else $("token").focus();
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
  if (name === "points") {
    if (performance.now() - pointsAt < POINTS_EVERY_MS) return;
    points = await api.points();
    pointsAt = performance.now();
    showPoints();
  } else if (name === "exports") {
    show($("exports-body"), exportsView(await api.exports()));
  } else if (name === "cache") {
    show($("cache-body"), cacheView(await api.cache()));
  }
}

function showPoints() {
  if (points) show($("points-body"), pointsView(points, $("points-search").value, (point) => openRecover(point, started)));
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
    ? all.map((job) => jobCard(job, { finish, cancel }))
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
    jobs.set(id, JSON.parse(event.data));
    showJobs();
  });
  stream.addEventListener("end", () => { stream.close(); streams.delete(id); });
  // The polls go on; a stream that broke is opened again with the next one.
  stream.onerror = () => { stream.close(); streams.delete(id); };
  return stream;
}

function finish(job, how) {
  if (how === "discard") {
    confirm({
      title: `Discard ${job.name}?`, yes: "Discard", danger: true,
      text: "The export ends and everything the guest wrote since it was started is lost. The recovery point stays as it is.",
      act: () => api.finish(job.id, "discard").then(refresh),
    });
    return;
  }
  const exported = job.request.target.kind === "export";
  const known = job.request.migrate ? Object.values(job.request.migrate)[0] : "";
  confirm({
    title: `Migrate ${job.name}?`, yes: "Migrate", danger: false,
    text: "The whole VM, with what its guest wrote, is moved and checked; then its export ends.",
    extra: { label: exported ? "Directory on the appliance" : "Datastore", value: known, placeholder: exported ? "/srv/vms/name" : "" },
    act: (to) => api.finish(job.id, "migrate", to && (exported ? { directory: to } : { datastore: to })).then(refresh),
  });
}

function cancel(job) {
  if (job.state === "stuck") {
    confirm({
      title: `Try to end ${job.name} again?`, yes: "Try again", danger: false,
      text: "The step that could not be taken back is tried again at once. It is also tried again by itself, less and less often.",
      act: () => api.cancel(job.id).then(refresh),
    });
    return;
  }
  confirm({
    title: `Cancel ${job.name}?`, yes: "Cancel the job", danger: true,
    text: `The job is ${words(job.state).toLowerCase()}. Its steps are taken back, and everything the guest wrote is lost. The recovery point stays as it is.`,
    act: () => api.cancel(job.id).then(refresh),
  });
}

function end() {
  loggedIn = false;
  clearTimeout(timer);
  for (const stream of streams.values()) stream.close();
  streams.clear();
  linked(true);
  route();
}

$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(event.submitter ?? $("token"), $("login-error"), async () => {
    await api.logIn($("token").value);
    $("token").value = "";
    loggedIn = true;
    route();
  });
});
$("logout").onclick = () => api.logOut().catch(() => null).then(end);
$("points-search").addEventListener("input", showPoints);
addEventListener("hashchange", () => { route(); $("main").focus(); });

api.session().then(() => { loggedIn = true; }, () => { loggedIn = false; }).then(route);
