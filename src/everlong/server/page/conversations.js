// The list of conversations, and the one that is open.

import { follow, setLive } from "./answers.js";
import { call, place } from "./api.js";
import { say } from "./dialogs.js";
import { $, el, several } from "./dom.js";
import { restoreDraft } from "./drafts.js";
import { entry, olderButton, toNewest } from "./log.js";
import { refreshMemory } from "./memory.js";
import { closeSide } from "./side.js";
import { state } from "./state.js";

export async function loadSessions() {
  state.sessions = (await call("GET", "v1/sessions")).data;
  drawSessions();
}

export function drawSessions() {
  const words = $("search").value.trim().toLowerCase().split(/\s+/);
  const text = (one) => [one.id, ...one.sources.map((source) => source.name)].join(" ").toLowerCase();
  const found = state.sessions.filter((one) => words.every((word) => text(one).includes(word)));
  $("sessions").replaceChildren(...found.map(sessionItem));
  $("no-sessions").hidden = found.length > 0;
  $("no-sessions").textContent = state.sessions.length ? "None has these words." : "None is kept yet.";
}

function sessionItem(one) {
  const when = new Date(one.updated * 1000);
  const today = when.toDateString() === new Date().toDateString();
  const shown = today ? when.toLocaleTimeString([], { timeStyle: "short" }) : when.toLocaleDateString();
  const facts = `${several(one.tokens, "token")} · ${shown}${one.busy ? " · busy" : ""}`;
  const button = el("button", { type: "button", "aria-current": String(one.id === state.name), onclick: () => open(one.id) });
  button.append(el("span", { class: "name", title: one.id }, one.id), el("span", { class: "faint" }, facts));
  return el("li", {}, button);
}

/** Show a conversation; none: a new one. */
export async function open(name, fresh = false) {
  leave();
  state.name = name;
  state.memory = null;
  const hash = name === null ? "" : `#${encodeURIComponent(name)}`;
  if (location.hash !== hash) history.pushState(null, "", hash || location.pathname);
  document.title = name === null ? "everlong" : `${name} · everlong`;
  $("title").textContent = name ?? "New conversation";
  $("actions").hidden = $("memory").hidden = name === null;
  $("welcome").hidden = name !== null;
  $("log").replaceChildren();
  say("");
  closeSide();
  drawSessions();
  restoreDraft();
  if (matchMedia("(pointer: fine)").matches) $("say").focus();
  if (name !== null && !fresh) await reload();
}

function leave() {
  state.follow?.abort();
  state.follow = null;
  setLive(null);
}

/** Draw the conversation anew, and follow the answer that is being written in it. */
export async function reload(follows = true) {
  const name = state.name;
  try {
    const found = await call("GET", place(name, "/messages?limit=40"));
    // What was asked meanwhile is drawn already.
    if (name !== state.name || state.live) return;
    $("log").replaceChildren(...found.data.map(entry));
    olderButton(found);
    await refreshMemory();
    toNewest();
  } catch (error) {
    if (error.status === 404) return open(null);
    say(error.message);
  }
  if (follows && name === state.name && !state.live) follow(name).catch((error) => say(error.message));
}

/** Make a conversation that is called by the beginning of a text; its name. */
export async function made(text) {
  const plain = text.replace(/[\p{C}\p{Z}/]+/gu, " ").replace(/^[\s.-]+/, "").trim() || "Conversation";
  const letters = [...plain];
  const called = letters.length > 48 ? letters.slice(0, 48).join("").replace(/\s\S*$/, "") : plain;
  for (let n = 1; ; n += 1) {
    const name = n === 1 ? called : `${called} ${n}`;
    if (state.sessions.some((one) => one.id === name)) continue;
    try {
      return (await call("POST", "v1/sessions", { name })).id;
    } catch (error) {
      if (error.status !== 400 || n > state.sessions.length + 20) throw error;
    }
  }
}
