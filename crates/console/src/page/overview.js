// Is anything burning: what needs a person first, then what goes on.
import { h, bytes, count, duration, facts } from "./dom.js";
import { isFinal, stateChip, words } from "./jobs.js";

export function overviewView({ jobs, exports, cache, points }) {
  const going = jobs.filter((job) => !isFinal(job));
  const found = burning({ jobs, exports, cache, points });
  const { overlay } = cache;
  const asked = cache.cache.ram_hits + cache.cache.ring_hits + cache.cache.misses;
  const hits = asked > 0 ? `${((100 * (asked - cache.cache.misses)) / asked).toFixed(1)} %` : "–";
  return [
    h("section", { class: found.length ? "card bad" : "card live", "data-key": "burning", "aria-live": "polite" },
      h("h2", {}, found.length ? `${count(found.length)} ${found.length === 1 ? "thing needs" : "things need"} you` : "Nothing is burning"),
      found.length > 0 && h("ul", { class: "burning" }, found.map(({ text, to }) => h("li", {}, h("a", { href: to }, text))))),
    h("section", { class: "card", "data-key": "numbers" },
      facts([
        ["Running now", count(going.length)],
        ["VMs served", count(going.filter((job) => ["serving", "migrating"].includes(job.state)).length)],
        ["Exports in use", count(exports.exports.filter((one) => one.mounted_by.length > 0).length)],
        ["Free for guests' writes", `${bytes(overlay.left_bytes)} of ${bytes(overlay.total_bytes)}`],
        ["Answered from the cache", hits],
        ["VMs with recovery points", points ? count(new Set(points.points.map((point) => `${point.repository} ${point.vm.id}`)).size) : "–"],
      ], true)),
    h("section", { class: "card", "data-key": "going" },
      h("h2", {}, "Under way"),
      going.length === 0
        ? h("p", { class: "muted" }, "No recovery runs. ", h("a", { href: "#points" }, "Start one from a recovery point."))
        : h("ul", { class: "plain" }, going.map((job) => h("li", { class: "row", "data-key": job.id },
          h("a", { href: "#jobs", class: "grow" }, job.name), stateChip(job))))),
  ];
}

function burning({ jobs, exports, cache, points }) {
  const found = [];
  for (const job of jobs) {
    if (job.state === "stuck") found.push({ text: `${job.name} is stuck: ${job.error?.message ?? "a step cannot be taken back"}`, to: "#jobs" });
    else if (job.error && !isFinal(job)) found.push({ text: `${job.name} (${words(job.state)}): ${job.error.message}`, to: "#jobs" });
    else if (job.state === "failed" && recent(job.finished_at)) found.push({ text: `${job.name} failed: ${job.error?.message ?? ""}`, to: "#jobs" });
  }
  const { left_bytes: left, alarm_percent: low, seconds_until_full: full } = cache.overlay;
  if (low > 0) found.push({ text: `Less than ${low} % is left for guests' writes (${bytes(left)}${full === undefined ? "" : `, full in ${duration(full)} if they go on so`})`, to: "#cache" });
  for (const one of exports.exports) if (one.held_reads > 0) found.push({ text: `${count(one.held_reads)} reads of ${one.path} wait for a repository`, to: "#exports" });
  for (const problem of points?.problems ?? []) found.push({ text: `Repository ${problem.repository}: ${problem.detail}`, to: "#places" });
  return found;
}

const DAY_MS = 86400000;
const recent = (stamp) => stamp && Date.now() - new Date(stamp) < DAY_MS;
