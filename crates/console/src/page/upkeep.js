// Checks and prunes of repositories: what is under way, how the last ended, and what begins one.
import { h, bytes, count, time } from "./dom.js";
import { api } from "./api.js";
import { confirm, tell } from "./dialogs.js";

const DEPTHS = [["data", "all data: every block is read"], ["structure", "structure: no block is read"]];
const PRUNES = [["yes", "only say what would go"], ["no", "let it go"]];

// What the last check of a point found.
export function badge(check) {
  if (!check) return h("span", { class: "muted" }, "unchecked");
  const found = check.sound ? "sound" : "damaged";
  return h("span", { class: check.sound ? "state good" : "state bad" }, `${found}, ${check.depth}, `, time(check.checked_at));
}

// A repository's upkeep in a line.
export function upkeepText({ running, prune, check, keep }) {
  if (running) {
    const share = running.total_bytes > 0 ? ` ${Math.floor((100 * running.done_bytes) / running.total_bytes)} %` : "";
    return h("span", { class: "state" }, `${running.kind} under way${share}`);
  }
  const last = [["check", check], ["prune", prune], ["keep", keep]].filter(([, end]) => end).sort((a, b) => (a[1].ended_at < b[1].ended_at ? 1 : -1))[0];
  if (!last) return h("span", { class: "muted" }, "nothing since the start");
  const [kind, end] = last;
  if (end.error) return h("span", { class: "state bad" }, `${kind} failed: ${end.error.message}`);
  return h("span", { class: kind === "check" && end.report.problem_count > 0 ? "state bad" : "state good" },
    `${kind} ended `, time(end.ended_at), `: ${TOLD[kind](end.report)}`);
}

const checked = (report) => `${count(report.points)} points, ${count(report.problem_count)} problems`;
const pruned = ({ dry_run: dry, condemned, removed }) =>
  `${dry ? "would let" : "let"} ${count(condemned.points)} points go, ${dry ? "would delete" : "deleted"} ${count(removed.points)} points and ${bytes(removed.bytes)}`;

const made = (report) => `point ${report.point}, ${bytes(report.written_bytes)} of it new`;
const TOLD = { check: checked, prune: pruned, keep: made };

// What may be done to a repository, by its name.
export function upkeepActs(refresh) {
  const why = { name: "reason", label: "Why (for the audit log)" };
  return {
    check: (repository) => confirm({
      title: `Check ${repository}?`, yes: "Check", text: "What is stored is read again and verified. A check that was stopped goes on where it was.",
      fields: [{ name: "depth", label: "How deep", options: DEPTHS, value: "data" }, { name: "rate", label: "At most MB a second (empty: no limit)" }, why],
      act: ({ depth, rate, reason }) => api.check(repository, { depth, ...(rate && { max_mb_per_second: Number(rate) }), ...(reason && { reason }) }).then(refresh),
    }),
    prune: (repository) => confirm({
      title: `Prune ${repository}?`, yes: "Prune", danger: true,
      text: "Points that the configured retention does not keep are let go, and deleted once their grace time is over. What recoveries use stays.",
      fields: [{ name: "dry", label: "What to do", options: PRUNES, value: "yes" }, why],
      act: ({ dry, reason }) => api.prune(repository, { dry_run: dry === "yes", ...(reason && { reason }) }).then(refresh),
    }),
    stop: (repository) => confirm({
      title: `Stop what is under way in ${repository}?`, yes: "Stop", text: "What it did stays done.",
      act: () => api.stopUpkeep(repository).then(refresh),
    }),
    report: (repository, { check, prune }) => tell(`Upkeep of ${repository}`,
      check?.report && h("p", {}, `Check of the ${check.report.depth}: ${checked(check.report)}.`),
      check?.report && h("ul", {}, check.report.problems.slice(0, 20).map((problem) => h("li", {}, problem.point && h("code", {}, `${problem.point} `), problem.detail))),
      prune?.report && h("p", {}, `Prune: ${pruned(prune.report)}.`),
      prune?.report && h("ul", {}, prune.report.verdicts.filter((verdict) => verdict.kept_by.length === 0).slice(0, 50).map((verdict) =>
        h("li", {}, `${verdict.vm_name}, `, time(verdict.created_at), " ", h("code", {}, verdict.point))))),
  };
}
