// What is done to users, tokens and second factors: each a dialog, then a refresh.
import { h } from "./dom.js";
import { api } from "./api.js";
import { confirm, tell } from "./dialogs.js";

const ROLES = [["viewer", "viewer: looks"], ["operator", "operator: recovers too"], ["admin", "admin: users and audit too"]];
const MONTHS = [["30", "30 days"], ["90", "90 days"], ["365", "365 days"]];
const DAY_SECONDS = 86400;

const list = (text) => (text ? text.split(/[\s,;]+/).filter(Boolean) : null);

function grantFields(user) {
  return [
    { name: "role", label: "Role", options: ROLES, value: user?.role ?? "viewer" },
    { name: "repositories", label: "Only these repositories (empty: all)", value: (user?.scope.repositories ?? []).join(", ") },
    { name: "targets", label: "Only these targets, “export” among them (empty: all)", value: (user?.scope.targets ?? []).join(", ") },
  ];
}

function grant({ role, repositories, targets }) {
  const scope = {};
  if (list(repositories)) scope.repositories = list(repositories);
  if (list(targets)) scope.targets = list(targets);
  return { role, scope };
}

const password = (name, label) => ({ name, label, type: "password", required: true });

export function people(session, refresh) {
  const then = (work) => work.then(refresh);
  return {
    add: () => confirm({
      title: "Add a user", yes: "Add", text: "The password has at least 12 characters.",
      fields: [{ name: "name", label: "Name", required: true }, password("password", "Password"), ...grantFields()],
      act: (values) => then(api.addUser({ name: values.name, password: values.password, ...grant(values) })),
    }),
    grant: (user) => confirm({
      title: `What ${user.name} may do`, yes: "Change", text: "It counts at once, also for sessions and tokens that there are.",
      fields: grantFields(user), act: (values) => then(api.setGrant(user.name, grant(values))),
    }),
    password: (user) => confirm({
      title: user ? `Set the password of ${user.name}` : "Change your password", yes: "Set", text: "At least 12 characters. Sessions that are open end.",
      fields: user && user.name !== session.user ? [password("password", "New password")] : [password("current", "Current password"), password("password", "New password")],
      act: (values) => then(api.setPassword(user?.name ?? session.user, values)),
    }),
    remove: (user) => confirm({
      title: `Remove ${user.name}?`, yes: "Remove", danger: true, text: "Its sessions end and its tokens stop working, at once. Jobs that it started go on.",
      act: () => then(api.removeUser(user.name)),
    }),
    removeTotp: (user) => confirm({
      title: `Remove the second factor${user ? ` of ${user.name}` : ""}?`, yes: "Remove", danger: true, text: "One-time codes are not asked for any more.",
      fields: user && user.name !== session.user ? [] : [{ name: "code", label: "One-time code", required: true, code: true }],
      act: ({ code }) => then(api.removeTotp(user?.name ?? session.user, code)),
    }),
    beginTotp: async () => {
      const made = await api.beginTotp(session.user);
      confirm({
        title: "Set up a second factor", yes: "Confirm",
        text: `Put this secret into an authenticator app, then type the code that it shows: ${made.secret.replace(/(.{4})/g, "$1 ").trim()}`,
        fields: [{ name: "code", label: "One-time code", required: true, code: true }],
        act: ({ code }) => then(api.confirmTotp(session.user, code)),
      });
    },
    addToken: () => confirm({
      title: "Make an API token", yes: "Make", text: "It may do at most what you may, and stops working with you.",
      fields: [{ name: "name", label: "What it is for", required: true }, { name: "role", label: "Role", options: ROLES, value: session.role }, { name: "days", label: "Ends after", options: MONTHS, value: "90" }],
      act: async ({ name, role, days }) => {
        const made = await api.addToken({ name, role, expires_in_seconds: Number(days) * DAY_SECONDS });
        tell("Your token", h("p", {}, "It is shown now and never again:"), h("p", {}, h("code", { id: "made-token" }, made.token)));
        refresh();
      },
    }),
    removeToken: (token) => confirm({
      title: `Remove the token ${token.name}?`, yes: "Remove", danger: true, text: "Whatever uses it is refused from now on.",
      act: () => then(api.removeToken(token.id)),
    }),
  };
}
