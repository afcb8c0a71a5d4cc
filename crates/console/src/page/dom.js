// Elements from data. Text goes in as text nodes only: nothing that a VM, a
// repository or a target is called can become markup.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "onclick") element.onclick = value;
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

// Makes `parent` show `children` with the fewest changes, so that focus, an
// open <details> and a click under way survive a refresh.
export function show(parent, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child);
  wanted.forEach((child, at) => patch(parent, parent.childNodes[at], child));
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

function patch(parent, old, wanted) {
  if (!old) {
    parent.append(wanted);
  } else if (!alike(old, wanted)) {
    parent.replaceChild(wanted, old);
  } else if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
  } else {
    patchElement(old, wanted);
  }
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;
}

function patchElement(old, wanted) {
  for (const { name } of [...old.attributes]) {
    const keep = name === "open" && old.nodeName === "DETAILS";
    if (!keep && !wanted.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  old.onclick = wanted.onclick;
  show(old, [...wanted.childNodes]);
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let value = Number(count);
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit += 1; }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// A time in the viewer's zone, with UTC beside it where that differs.
export function time(stamp) {
  if (!stamp) return "–";
  const date = new Date(stamp);
  if (Number.isNaN(date.getTime())) return String(stamp);
  const text = date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const iso = date.toISOString();
  const utc = date.getTimezoneOffset() === 0 ? "UTC" : `${iso.slice(5, 16).replace("T", " ")} UTC`;
  return h("time", { datetime: iso, title: iso }, text, " ", h("small", {}, utc));
}

export function count(value) {
  return value === null || value === undefined ? "–" : Number(value).toLocaleString();
}

export function facts(pairs, big = false) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return h("dl", { class: big ? "facts big" : "facts" },
    shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

const SVG = "http://www.w3.org/2000/svg";

// A line of the last values, for the eye only: the words beside it say the same.
export function sparkline(values) {
  if (values.length < 2) return null;
  const top = Math.max(...values, 1);
  const points = values.map((value, at) => `${((100 * at) / (values.length - 1)).toFixed(1)},${(22 - (20 * value) / top).toFixed(1)}`);
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of [["viewBox", "0 0 100 24"], ["class", "spark"], ["aria-hidden", "true"], ["preserveAspectRatio", "none"]]) svg.setAttribute(name, value);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return svg;
}
