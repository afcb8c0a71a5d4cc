// The sections that list what there is: recovery points, exports, the cache.
import { h, bytes, count, duration, time, facts } from "./dom.js";
import { badge } from "./upkeep.js";

export function empty(title, ...text) {
  return h("div", { class: "card empty" }, h("b", {}, title), text);
}

export function failed(failure) {
  return h("div", { class: "card bad", role: "alert" }, h("b", {}, "This cannot be shown now. "), failure.message);
}

// Recovery points by VM, the newest VM first. `acts`: { recover(point), selected, toggle(key, point), recoverSelected() };
// `wanted`: { search, since, until, repository, check }; without `acts` one may only look.
export function pointsView(listing, wanted, acts) {
  const points = listing.points.filter((point) => matches(point, wanted));
  const notes = (listing.problems ?? []).map((problem) =>
    h("div", { class: "card bad", "data-key": `problem-${problem.repository}-${problem.name ?? ""}` },
      h("b", {}, `Repository ${problem.repository}: `), problem.detail));
  if (listing.points.length === 0) {
    return [...notes, empty("No recovery points yet",
      h("p", {}, "Bring a VM in with ", h("code", {}, "rekindle ingest vm.vmx --repository NAME"), "."))];
  }
  if (points.length === 0) return [...notes, empty("Nothing matches", "Try another word.")];
  const more = listing.left_out > 0 && h("p", { class: "muted" }, `${count(listing.left_out)} older points are not shown.`);
  return [...notes, acts && selection(acts), ...groups(points).map((group) => vmCard(group, acts)), more];
}

// What is selected, once something is.
function selection({ selected, toggle, recoverSelected }) {
  if (selected.size === 0) return null;
  const names = [...selected.values()].map((point) => point.vm.name).join(", ");
  const text = selected.size === 1 ? "Recover 1 VM…" : `Recover ${selected.size} VMs…`;
  return h("div", { class: "card row", "data-key": "selection" },
    h("p", { class: "grow", role: "status" }, h("b", {}, "Selected: "), names),
    h("button", { type: "button", class: "quiet", onclick: () => [...selected].forEach(([key, point]) => toggle(key, point)) }, "Select none"),
    h("button", { type: "button", class: "primary", onclick: recoverSelected }, text));
}

function matches(point, { search, since, until, repository, check }) {
  const taken = new Date(point.created_at);
  if (repository && point.repository !== repository) return false;
  if (check && check !== (point.check ? (point.check.sound ? "sound" : "damaged") : "unchecked")) return false;
  if (since && taken < new Date(`${since}T00:00`)) return false;
  if (until && taken > new Date(`${until}T23:59:59.999`)) return false;
  const text = [point.vm.name, point.repository, point.id, point.hot_copy ? "hot copy" : "", ...(point.tags ?? [])].join(" ").toLowerCase();
  return search.trim().toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function groups(points) {
  const byVm = new Map();
  for (const point of points) {
    const key = `${point.repository} ${point.vm.id}`;
    if (!byVm.has(key)) byVm.set(key, []);
    byVm.get(key).push(point);
  }
  return [...byVm.values()];
}

function vmCard(points, acts) {
  const [latest] = points;
  const recover = acts?.recover;
  const key = `${latest.repository} ${latest.vm.id}`;
  return h("article", { class: "card", "data-key": key },
    h("div", { class: "row" },
      h("div", { class: "grow" },
        h("h2", {}, latest.vm.name),
        h("p", { class: "muted" }, `${points.length} ${points.length === 1 ? "point" : "points"} in ${latest.repository}, latest `, time(latest.created_at))),
      acts && h("button", { type: "button", "aria-pressed": String(acts.selected.has(key)), "aria-label": `Select ${latest.vm.name}`, onclick: () => acts.toggle(key, latest) }, "Select"),
      recover && h("button", { type: "button", class: "primary", "aria-label": `Recover latest… of ${latest.vm.name}`, onclick: () => recover(latest) }, "Recover latest…")),
    timeline(points),
    h("details", { open: points.length <= 5 },
      h("summary", {}, "All points"),
      h("div", { class: "scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", {}, "Taken"), h("th", {}, "Disks"), h("th", { class: "num" }, "Size"), h("th", { class: "num" }, "Stored"), h("th", {}, "Tier"), h("th", {}, "Check"), h("th", {}, "Tags"), h("th", {}, "Point"), h("th", {}, h("span", { class: "visually-hidden" }, "Actions")))),
        h("tbody", {}, points.map((point) => pointRow(point, recover)))))));
}

// The points along a line, oldest left; the table below says the same in words.
function timeline(points) {
  if (points.length < 2) return null;
  const times = points.map((point) => new Date(point.created_at).getTime());
  const [from, to] = [Math.min(...times), Math.max(...times)];
  const at = (when) => (to > from ? (100 * (when - from)) / (to - from) : 50);
  const SVG = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "timeline");
  svg.setAttribute("aria-hidden", "true");
  for (const when of times) {
    const dot = document.createElementNS(SVG, "circle");
    for (const [name, value] of [["cx", `${2 + at(when) * 0.96}%`], ["cy", "50%"], ["r", "5"]]) dot.setAttribute(name, value);
    svg.append(dot);
  }
  return svg;
}

function pointRow(point, recover) {
  return h("tr", { "data-key": point.id },
    h("td", {}, time(point.created_at)),
    h("td", {}, point.disks.map((disk) => `${disk.key} ${bytes(disk.size_bytes)}`).join(", ")),
    h("td", { class: "num" }, bytes(point.size_bytes)),
    h("td", { class: "num" }, bytes(point.stored_bytes)),
    h("td", {}, (point.tier ?? "–").replace("_", " ")),
    h("td", {}, badge(point.check)),
    h("td", {}, point.hot_copy && h("span", { class: "tag hot" }, "hot copy"), (point.tags ?? []).map((tag) => h("span", { class: "tag" }, tag))),
    h("td", {}, h("code", {}, point.id)),
    h("td", { class: "act" }, recover && h("button", { type: "button", "aria-label": `Recover… point ${point.id}`, onclick: () => recover(point) }, "Recover…")));
}

export function exportsView(listing) {
  if (listing.exports.length === 0) return [empty("Nothing is exported", "An export appears while a recovery runs.")];
  return listing.exports.map((one) => {
    const used = one.mounted_by.length > 0;
    return h("article", { class: "card", "data-key": one.name },
      h("div", { class: "row" }, h("h2", {}, h("code", {}, one.path)),
        h("span", { class: used ? "state good" : "state idle" }, used ? "In use" : "Nobody has it mounted")),
      one.held_reads > 0 && h("p", { class: "why-box" }, `${count(one.held_reads)} reads wait for a repository.`),
      facts([
        ["May mount", one.clients.join(", ")],
        ["Disks", count(one.disks.length)],
        ["Read", `${bytes(one.read_bytes)} in ${count(one.reads)} calls`],
        ["Written", `${bytes(one.write_bytes)} in ${count(one.writes)} calls`],
        ["All calls", count(one.calls)],
        ["Failed", count(one.errors)],
      ]),
      one.sessions.length > 0 && sessions(one));
  });
}

function sessions(one) {
  const head = ["Client", "Calls", "Read", "Written", "Last call"];
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, head.map((name, at) => h("th", { class: at > 0 && at < 4 && "num" }, name)))),
    h("tbody", {}, one.sessions.map((session) => h("tr", { "data-key": session.client },
      h("td", {}, h("code", {}, session.client), one.mounted_by.includes(session.client) ? " has it mounted" : ""),
      h("td", { class: "num" }, count(session.calls)),
      h("td", { class: "num" }, bytes(session.read_bytes)),
      h("td", { class: "num" }, bytes(session.write_bytes)),
      h("td", {}, time(session.last_seen_unix_seconds * 1000)))))));
}

// Numbers of any depth as facts; what ends in _bytes is shown as bytes.
function counters(values, prefix = "") {
  return Object.entries(values).flatMap(([name, value]) => {
    const label = prefix + words(name);
    if (value === null || value === undefined) return [];
    if (Array.isArray(value)) return [[label, count(value.length)]];
    if (typeof value === "object") return counters(value, `${label}: `);
    if (typeof value === "number") return [[label, /bytes/.test(name) ? bytes(value) : count(value)]];
    return [[label, String(value)]];
  });
}

// What guests may still write, and how long that lasts.
function spaceOf(overlay) {
  const full = overlay.seconds_until_full;
  return [
    ["Left", bytes(overlay.left_bytes)],
    ["Of these, the ring gives back", bytes(overlay.ring_bytes)],
    ["Of these, running recoveries reserved", bytes(overlay.reserved_bytes)],
    ["Written", `${bytes(overlay.written_bytes)}, ${bytes(overlay.written_bytes_per_second)} per second of late`],
    ["Full", full === undefined ? "not as it goes" : `in ${duration(full)} if it goes on so`],
    ["File system", `${bytes(overlay.free_bytes)} free of ${bytes(overlay.total_bytes)}`],
  ];
}

const rate = (limit) => (limit > 0 ? `at most ${bytes(limit)} per second` : "as fast as it can");

const words = (name) => name.replaceAll("_", " ");

export function cacheView(listing) {
  const cache = listing.cache;
  const asked = cache.ram_hits + cache.ring_hits + cache.misses;
  const share = asked > 0 ? `${((100 * (cache.ram_hits + cache.ring_hits)) / asked).toFixed(1)} %` : "–";
  const { ram_bytes: ram, ring_bytes: ring, ring_capacity_now: capacity, free_bytes: free, ...rest } = cache;
  const used = capacity > 0 ? Math.min(100, Math.floor((100 * ring) / capacity)) : 0;
  return [
    h("div", { class: "card", "data-key": "sizes" },
      facts([["Answered from the cache", share], ["In memory", bytes(ram)], ["On disk (ring)", bytes(ring)], ["Free on its file system", bytes(free)]], true),
      h("p", { class: "muted" }, `The ring holds ${bytes(ring)} of the ${bytes(capacity)} that it may take now. Deleting it loses speed and nothing else.`),
      h("progress", { max: 100, value: used, "aria-label": "How full the ring is" })),
    h("div", { class: "card", "data-key": "overlay" }, h("h2", {}, "Space for guests' writes"),
      facts(spaceOf(listing.overlay))),
    h("div", { class: "card", "data-key": "mover" }, h("h2", {}, "The mover"),
      facts([
        ["All recoveries together", rate(listing.mover.limit_bytes_per_second)],
        ["Each recovery", rate(listing.mover.job_limit_bytes_per_second)],
        ["Makes way when guests wait longer than", `${count(listing.mover.guest_read_p95_ms)} ms`],
        ["Guests waited of late, 19 times of 20", `at most ${(cache.guest_wait_p95_micros / 1000).toFixed(1)} ms`],
      ])),
    h("div", { class: "card", "data-key": "counters" }, h("h2", {}, "Counters since start"),
      facts([...counters(rest), ["up", duration(listing.up_seconds)]])),
  ];
}
