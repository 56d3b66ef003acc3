// The entries of a conversation.

import { rewindTo } from "./actions.js";
import { call, place } from "./api.js";
import { $, el, several } from "./dom.js";
import { Rendered, copyButton } from "./markdown.js";
import { state } from "./state.js";

export function olderButton(found) {
  $("older")?.remove();
  if (!found.has_more || !found.data.length) return;
  state.oldest = found.data[0].first;
  $("log").prepend(el("button", { id: "older", type: "button", onclick: older }, "Show earlier"));
}

async function older() {
  const top = $("log").querySelector(".entry");
  const before = top.getBoundingClientRect().top;
  const found = await call("GET", place(state.name, `/messages?limit=40&before=${state.oldest}`));
  $("older").after(...found.data.map(entry));
  olderButton(found);
  $("scroll").scrollTop += top.getBoundingClientRect().top - before;
}

export function entry(one) {
  if (one.role === "document") {
    const part = one.done ? "" : ", in part: read the file again to go on";
    return el("div", { class: "entry document" }, `Read ${one.text} · ${several(one.end - one.first, "token")}${part}`);
  }
  const cut = one.chars > one.text.length ? `\n\n(${several(one.chars - one.text.length, "more character")})` : "";
  return one.role === "user" ? said(one.text, cut) : answered(one.text + cut).node;
}

export function said(text, cut = "") {
  const node = el("div", { class: "entry user" }, el("div", { class: "body" }, text + cut));
  const again = el("button", { type: "button", class: "rewind", onclick: () => rewindTo(node, text) }, "Rewind to here");
  node.append(el("div", { class: "tools" }, again));
  return node;
}

export function answered(text = "") {
  const body = el("div", { class: "body" });
  const node = el("div", { class: "entry assistant" }, body);
  const rendered = new Rendered(body);
  const found = { node, body, text, rendered, update: (now) => rendered.update((found.text = now)) };
  found.update(text);
  if (navigator.clipboard) node.append(el("div", { class: "tools" }, copyButton(() => found.text, "Copy the answer")));
  return found;
}

export const isNear = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 120;

export function toNewest() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
  $("newest").hidden = true;
}
