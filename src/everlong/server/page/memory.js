// What the session remembers: in words, as a strip, and what was read for the last answer.

import { call, place } from "./api.js";
import { $, count, el, several, size } from "./dom.js";
import { openSource } from "./source.js";
import { state } from "./state.js";
import { drawStrip, short, whereOf, withTip } from "./strip.js";

export async function refreshMemory() {
  const name = state.name;
  if (name === null) return;
  const found = await call("GET", place(name, "/memory"));
  if (name !== state.name) return;
  state.memory = found;
  $("memory").hidden = false;
  drawStrip(found);
  $("words").textContent = inWords(found);
  cite(found.read);
}

/** The report in plain words. */
function inWords({ report, losses, blocks, read }) {
  const said = [`read ${several(report.seen_tokens, "token")}`];
  said.push(`${count(report.sink_tokens + report.window_tokens)} in view`);
  const disk = report.bytes.disk ?? 0;
  if (report.stored_tokens) said.push(`${count(report.stored_tokens)} ${disk ? `on disk, ${size(disk)}` : "stored in memory"}`);
  if (report.ids_tokens) said.push(`${count(report.ids_tokens)} of them as ids only`);
  const whole = [...said, ...lost(losses)].join("; ");
  if (!read.length) return whole;
  return `${whole}. The last answer read ${several(read.length, "passage")} of ${count(blocks)} blocks.`;
}

function lost(losses) {
  const reasons = {
    forgotten: "forgotten",
    changed: "of texts that have changed since",
    given_up: "given up for room or damaged",
    left: "that left the view and are not kept",
  };
  const said = Object.entries(reasons).flatMap(([name, why]) => (losses[name] ? `${several(losses[name], "token")} ${why}` : []));
  const words = said.length ? [`lost: ${said.join(", ")}`] : [];
  if (losses.compressed) words.push(`${several(losses.compressed, "token")} kept in a compressed memory only`);
  words.push(...losses.unfinished.map((name) => `of ${name} only a part was read`));
  return words.length ? words : ["nothing lost"];
}

/** Under the last answer, what was read for it. */
function cite(read) {
  for (const old of document.querySelectorAll(".cites")) old.remove();
  const answers = [...$("log").querySelectorAll(".entry.assistant")];
  if (!read.length || !answers.length || state.live) return;
  const best = [...read].sort((a, b) => b.mass - a.mass).slice(0, 4);
  const chips = best.map((one) => withTip(el("button", { type: "button", onclick: () => openSource(one) }, short(whereOf(one), 60)), one));
  answers.at(-1).append(el("div", { class: "cites" }, el("span", { class: "faint" }, "Read for this:"), ...chips));
}
