// What only some may see: places, users, tokens, the audit log, the settings.
import { h, bytes, count, time } from "./dom.js";
import { empty } from "./views.js";
import { upkeepText } from "./upkeep.js";

function table(head, rows, label) {
  return h("div", { class: "card scroll" }, h("table", { "aria-label": label },
    h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name || h("span", { class: "visually-hidden" }, "Actions"))))),
    h("tbody", {}, rows)));
}

const names = (list) => (list ? list.join(", ") || "none" : "all");
const button = (text, label, act, tone = "") => h("button", { type: "button", class: tone, "aria-label": label, onclick: act }, text);

// Whether a repository can be read; `bad` is what is damaged in it.
function reach(one, bad) {
  const said = (word, tone) => [h("span", { class: `state ${tone}` }, word), h("small", {}, " since ", time(one.since)), one.reason && h("p", { class: "muted" }, one.reason)];
  if (one.state === "opening") return said("Opening", "idle");
  if (one.state === "unreachable") return said("Does not answer", "bad");
  if (one.state === "refused") return said("Cannot be opened", "bad");
  return bad.length ? h("span", { class: "state bad" }, bad[0].detail) : h("span", { class: "state good" }, "Readable");
}

// `who`: { role, whole }; `acts`: { check, prune, stop, report }, each with a repository's name.
export function placesView({ repositories, targets, points, upkeep }, who, acts) {
  const problems = points?.problems ?? [];
  return [
    h("h2", { "data-key": "h-repositories" }, "Repositories"),
    table(["Name", "Kind", "Where", "Block", "Points", "State", "Upkeep", ""], repositories.map((one) => {
      const of = points ? points.points.filter((point) => point.repository === one.name).length : null;
      const bad = problems.filter((problem) => problem.repository === one.name);
      return h("tr", { "data-key": one.name }, h("td", {}, one.name), h("td", {}, one.kind), h("td", {}, h("code", {}, one.path)),
        h("td", { class: "num" }, bytes(one.block_bytes)), h("td", { class: "num" }, of === null ? "–" : count(of)),
        h("td", {}, reach(one, bad)),
        h("td", {}, one.kind === "images" ? "–" : upkeepText(upkeep.get(one.name))),
        h("td", { class: "act" }, one.kind !== "images" && upkeepButtons(one.name, upkeep.get(one.name), who, acts)));
    }), "Repositories"),
    h("h2", { "data-key": "h-targets" }, "Targets"),
    targets.length === 0
      ? empty("No targets", "VMs are served to NFS clients. A vCenter or ESXi is added as [[target]] in the configuration.")
      : table(["Name", "Kind", "Address", "Host"], targets.map((one) => h("tr", { "data-key": one.name },
        h("td", {}, one.name), h("td", {}, one.kind), h("td", {}, h("code", {}, one.url)), h("td", {}, one.host ?? "–"))), "Targets"),
  ];
}

function upkeepButtons(name, now, { role, whole }, acts) {
  const operator = role === "operator" || role === "admin";
  return h("div", { class: "actions" },
    (now.check || now.prune) && button("Report…", `Report… of ${name}`, () => acts.report(name, now)),
    operator && !now.running && button("Check…", `Check… ${name}`, () => acts.check(name)),
    role === "admin" && whole && !now.running && button("Prune…", `Prune… ${name}`, () => acts.prune(name), "danger"),
    operator && now.running && button("Stop…", `Stop… in ${name}`, () => acts.stop(name)));
}

// `acts`: { grant, password, removeTotp, remove }, each with a user.
export function usersView({ users }, { tokens }, acts) {
  return [
    table(["User", "Role", "Repositories", "Targets", "Second factor", ""], users.map((user) => h("tr", { "data-key": user.name },
      h("td", {}, user.name, user.built_in && h("small", {}, " (the admin token)")),
      h("td", {}, user.role), h("td", {}, names(user.scope.repositories)), h("td", {}, names(user.scope.targets)),
      h("td", {}, user.totp ? "yes" : "no"),
      h("td", { class: "act" }, h("div", { class: "actions" },
        !user.built_in && button("Change…", `Change what ${user.name} may do`, () => acts.grant(user)),
        !user.built_in && button("Password…", `Set the password of ${user.name}`, () => acts.password(user)),
        user.totp && button("Remove factor…", `Remove factor… of ${user.name}`, () => acts.removeTotp(user)),
        !user.built_in && button("Remove…", `Remove ${user.name}`, () => acts.remove(user), "danger"))))), "Users"),
    h("h2", { "data-key": "h-tokens" }, "API tokens"),
    tokensTable(tokens, acts.removeToken),
  ];
}

export function tokensTable(tokens, remove) {
  if (tokens.length === 0) return empty("No API tokens", "A script gets one of its own, with an end.");
  return table(["Name", "User", "Role", "Expires", "Id", ""], tokens.map((token) => h("tr", { "data-key": token.id },
    h("td", {}, token.name), h("td", {}, token.owner), h("td", {}, token.role), h("td", {}, time(token.expires_at)), h("td", {}, h("code", {}, token.id)),
    h("td", { class: "act" }, button("Remove…", `Remove the token ${token.name}`, () => remove(token), "danger")))), "API tokens");
}

export function auditView(page, older) {
  const records = [...page.records].reverse();
  if (records.length === 0) return [empty("Nothing yet", "What changes something is recorded here.")];
  const first = page.records[0].number;
  return [
    h("p", { class: "muted", "data-key": "said" }, `Records ${count(first)} to ${count(records[0].number)} of ${count(page.tip.number)}. `, "Prove the whole with ", h("code", {}, "rekindle audit verify"), "; it should print the tip ", h("code", {}, page.tip.hash.slice(0, 16)), "…"),
    table(["When", "Who", "From", "Did", "To what", "Why", "Outcome", "Number"], records.map((one) => h("tr", { "data-key": String(one.number) },
      h("td", {}, time(one.at)), h("td", {}, one.user, h("small", {}, ` ${one.via}`)), h("td", {}, h("code", {}, one.from)), h("td", {}, one.action), h("td", {}, one.object), h("td", {}, one.reason ?? ""),
      h("td", {}, h("span", { class: one.outcome === "done" ? "state good" : one.outcome === "begun" ? "state idle" : "state bad" }, one.outcome)),
      h("td", { class: "num" }, one.begun === null ? one.number : `${one.number} of ${one.begun}`))), "Audit log"),
    first > page.anchor.number && h("p", { "data-key": "older" }, button("Older", "Older records", () => older(Math.max(page.anchor.number, first - 200)))),
  ];
}

export function settingsView({ settings }) {
  return [
    h("h2", { "data-key": "h-settings" }, "Configuration"),
    h("p", { class: "muted", "data-key": "said" }, "As the configuration file has it; it is changed there, and read at a start. ", h("code", {}, "rekindle describe config"), " says what each key means."),
    table(["Key", "Value", "From"], settings.map((one) => h("tr", { "data-key": one.key },
      h("td", {}, h("code", {}, one.key)), h("td", {}, h("code", {}, one.value === null ? "–" : typeof one.value === "string" ? one.value : JSON.stringify(one.value))),
      h("td", {}, one.default ? h("span", { class: "muted" }, "default") : h("span", { class: "state" }, "set")))), "Settings"),
  ];
}

// `acts`: { password, beginTotp, removeTotp, addToken, removeToken }
export function accountView(session, { tokens }, acts) {
  const own = tokens.filter((token) => token.owner === session.user);
  return [
    h("section", { class: "card", "data-key": "who" },
      h("h2", {}, session.user),
      h("p", {}, `Role ${session.role}. Repositories: ${names(session.scope.repositories)}. Targets: ${names(session.scope.targets)}.`),
      h("div", { class: "actions" },
        session.user !== "admin" && button("Change password…", "Change your password", acts.password),
        session.totp ? button("Remove second factor…", "Remove your second factor", acts.removeTotp) : button("Set up a second factor…", "Set up a second factor", acts.beginTotp, "primary"))),
    h("div", { class: "row", "data-key": "h-tokens" }, h("h2", {}, "Your API tokens"), button("New token…", "New token…", acts.addToken, "primary")),
    tokensTable(own, acts.removeToken),
  ];
}
