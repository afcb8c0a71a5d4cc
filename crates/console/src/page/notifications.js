// Who is told what happens: webhooks, mail, syslog.
import { h, count, time } from "./dom.js";
import { api } from "./api.js";
import { confirm, tell } from "./dialogs.js";
import { empty } from "./views.js";

// Sends a test event to each channel and shows what came back.
function test(refresh) {
  confirm({
    title: "Send a test event?", yes: "Send", text: "Each webhook, the mail's recipients and the syslog server get one.",
    act: async () => {
      const { results } = await api.testNotifications();
      refresh();
      tell("What came back", h("ul", {}, results.map((one) => h("li", {},
        h("span", { class: one.delivered ? "state good" : "state bad" }, `${one.name}: ${one.delivered ? "delivered" : "not delivered"}`), " ", one.answer))));
    },
  });
}

function row(one) {
  const lost = one.given_up + one.dropped;
  return h("tr", { "data-key": one.name },
    h("td", {}, one.name, h("small", {}, ` ${one.kind}`)), h("td", {}, h("code", {}, one.to)),
    h("td", {}, one.events.join(", ")),
    h("td", { class: "num" }, count(one.delivered)), h("td", { class: "num" }, count(one.waiting)), h("td", { class: "num" }, count(lost)),
    h("td", {}, one.last_failure ? [time(one.last_failure.at), ` ${one.last_failure.reason}`] : "–"));
}

export function notificationsView({ channels }, admin, refresh) {
  const head = ["Channel", "To", "Events", "Delivered", "Waiting", "Lost", "Last failure"];
  return [
    h("div", { class: "row", "data-key": "h-told" }, h("h2", {}, "Who is told what happens"),
      admin && channels.length > 0 && h("button", { type: "button", onclick: () => test(refresh) }, "Send a test…")),
    channels.length === 0
      ? h("div", { "data-key": "no-channels" }, empty("Nobody", "Webhooks, mail and syslog are added as [[webhook]], [mail] and [syslog] in the configuration."))
      : h("div", { class: "card scroll", "data-key": "channels" }, h("table", { "aria-label": "Who is told what happens" },
        h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, channels.map(row)))),
  ];
}
