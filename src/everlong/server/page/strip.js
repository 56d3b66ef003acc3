// The strip of what is remembered, with what was read for the last answer on it.

import { $, count, el, several } from "./dom.js";
import { openSource } from "./source.js";

/** Where tokens stand on the strip, in percent: sinks and window have room to be seen, stored ones share the rest. */
function scale(report) {
  const seen = Math.max(1, report.seen_tokens);
  const sinks = report.sink_tokens;
  const window = Math.max(sinks, seen - report.window_tokens);
  if (window <= sinks) return { at: (token) => (100 * token) / seen, sinks: (100 * sinks) / seen, window: (100 * sinks) / seen };
  const left = sinks ? 1.5 : 0;
  const right = 100 - Math.min(60, Math.max(6, (100 * report.window_tokens) / seen));
  const at = (token) => {
    if (token < sinks) return (left * token) / sinks;
    if (token < window) return left + ((right - left) * (token - sinks)) / (window - sinks);
    return right + ((100 - right) * (token - window)) / Math.max(1, seen - window);
  };
  return { at, sinks: left, window: right };
}

export function drawStrip({ report, dropped, read }) {
  if (!report.seen_tokens) return $("strip").replaceChildren();
  const on = scale(report);
  const part = (kind, left, right, title) => {
    const node = el("span", { class: kind, title });
    node.style.left = `${left}%`;
    node.style.width = `${Math.max(0, right - left)}%`;
    return node;
  };
  const stored = report.stored_tokens ? "stored" : report.dropped_tokens ? "dropped" : "stored";
  const parts = [part(stored, on.sinks, on.window, `${count(report.stored_tokens)} tokens stored`)];
  parts.push(...dropped.map(([first, end]) => part("dropped", on.at(first), on.at(end), `${count(end - first)} tokens lost`)));
  parts.push(part("sinks", 0, on.sinks, `the first ${several(report.sink_tokens, "token")}, always in view`));
  parts.push(part("window", on.window, 100, `the last ${several(report.window_tokens, "token")}, in view`));
  return $("strip").replaceChildren(...parts, ...read.map((one) => marker(one, on)));
}

export const whereOf = (one) => [
  one.name || one.source,
  one.page && `page ${one.page}`,
  one.chapter,
  one.heading,
  !one.page && one.line && `line ${one.line}`,
].filter(Boolean).join(", ");

function marker(one, on) {
  const label = `Read for the last answer: ${whereOf(one)}`;
  const button = el("button", { type: "button", "aria-label": label, onclick: () => openSource(one) });
  button.style.left = `${Math.min(on.at(one.first), 99)}%`;
  button.style.width = `${Math.max(0, on.at(one.last) - on.at(one.first))}%`;
  return withTip(button, one);
}

export function withTip(button, one) {
  const show = () => {
    $("tip").replaceChildren(el("strong", {}, whereOf(one)), short(one.text.trim(), 500));
    $("tip").hidden = false;
    const box = button.getBoundingClientRect();
    const tip = $("tip").getBoundingClientRect();
    const below = box.bottom + 8 + tip.height < innerHeight;
    $("tip").style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.width - 8))}px`;
    $("tip").style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - tip.height - 8)}px`;
  };
  const hide = () => ($("tip").hidden = true);
  for (const [name, work] of [["pointerenter", show], ["focus", show], ["pointerleave", hide], ["blur", hide], ["click", hide]]) {
    button.addEventListener(name, work);
  }
  button.setAttribute("aria-describedby", "tip");
  return button;
}

export const short = (text, most) => (text.length > most ? `${text.slice(0, most)} …` : text);
