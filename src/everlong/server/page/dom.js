// Nodes, and numbers as people read them. Texts become text nodes and known elements; nothing is parsed as HTML.

export const $ = (id) => document.getElementById(id);
export const wait = (ms) => new Promise((done) => setTimeout(done, ms));
export const count = (n) => n.toLocaleString("en");
export const several = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

export function el(tag, fields = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let n = 0;
  while (bytes >= 1000 && n < units.length - 1) {
    bytes /= 1000;
    n += 1;
  }
  return `${n && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${units[n]}`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
