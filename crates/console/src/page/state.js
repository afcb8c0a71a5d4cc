// Backups of the appliance's own state.
import { h, bytes, time } from "./dom.js";
import { api } from "./api.js";
import { confirm, tell } from "./dialogs.js";
import { empty } from "./views.js";

function backUp(refresh) {
  confirm({
    title: "Back up the state now?", yes: "Back up", text: "Users, tokens, the audit log, the history of jobs and boot profiles. What guests write is not in it.",
    act: async () => {
      const made = await api.backUpState();
      refresh();
      tell("Backed up", h("p", {}, h("code", {}, made.file), ` ${bytes(made.bytes)}`));
    },
  });
}

// For admins only.
export function stateView({ dir, keep, backups }, refresh) {
  const head = ["Made", "Size", "File"];
  return [
    h("div", { class: "row", "data-key": "h-state" }, h("h2", {}, "Backups of the state"),
      dir !== null && h("button", { type: "button", onclick: () => backUp(refresh) }, "Back up now…")),
    dir === null
      ? h("div", { "data-key": "no-backups" }, empty("None", "They are made once dir of [state_backup] is set in the configuration."))
      : backups.length === 0
        ? h("div", { "data-key": "no-backups" }, empty("None yet", `They go to ${dir}.`))
        : h("div", { class: "card scroll", "data-key": "backups" }, h("table", { "aria-label": `Backups of the state, of which ${keep} are kept` },
          h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", {}, backups.map((one) => h("tr", { "data-key": one.file },
            h("td", {}, time(one.made_at)), h("td", { class: "num" }, bytes(one.bytes)), h("td", {}, h("code", {}, one.file))))))),
  ];
}
