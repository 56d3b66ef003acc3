// An answer: asked for, followed over lost connections, drawn as it comes, stopped.

import { ApiError, call, events, place } from "./api.js";
import { loadSessions, made, open, reload } from "./conversations.js";
import { say } from "./dialogs.js";
import { $, el, wait } from "./dom.js";
import { dropDraft, grow, keepDraft } from "./drafts.js";
import { answered, isNear, said, toNewest } from "./log.js";
import { refreshMemory } from "./memory.js";
import { attempt, state, tellOthers } from "./state.js";

export function setLive(live) {
  state.live = live;
  $("stop").hidden = live === null;
  $("send").hidden = live !== null;
  $("log").setAttribute("aria-busy", String(live !== null));
}

export async function submit() {
  const text = $("say").value.trim();
  if (!text || state.live || $("send").disabled) return;
  if (state.name === null) {
    $("send").disabled = true;
    const name = await made(text).finally(() => ($("send").disabled = false));
    dropDraft(null);
    await open(name, true);
    $("say").value = text;
    keepDraft();
  }
  // What was typed stays kept until the server has it.
  $("say").value = "";
  grow();
  await ask(text);
}

/** Ask; by its identity the server knows a message that is sent again because no word came back. */
async function ask(text) {
  const name = state.name;
  const identity = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const question = said(text);
  $("welcome").hidden = true;
  $("log").append(question);
  const live = begin(text, identity, question);
  toNewest();
  for (let pause = 500; ; pause = Math.min(2 * pause, 8000)) {
    try {
      await call("POST", place(name, "/live"), { id: identity, message: text });
      break;
    } catch (error) {
      if (name !== state.name) return;
      if (error instanceof ApiError || error.message === "a key is needed") {
        return failed(live, error.message);
      }
      say("No connection to the server. Trying again …");
      await wait(pause);
      if (name !== state.name) return;
    }
  }
  dropDraft(name);
  say("");
  $("actions").hidden = false;
  tellOthers("live");
  loadSessions().catch(() => {});
  await follow(name, live);
}

/** An answer that has not begun, at the end of the conversation. */
function begin(text, identity, question) {
  const waiting = el("span", { class: "waiting" }, "Reading ");
  const live = Object.assign(answered(), { said: text, identity, question, waiting, end: 0, all: "", frame: null });
  live.node.prepend(waiting);
  $("log").append(live.node);
  setLive(live);
  return live;
}

/** An answer that was begun elsewhere, or before the page was loaded. */
function joined({ message, id }) {
  const question = said(message);
  $("welcome").hidden = true;
  $("log").append(question);
  const live = begin(message, id, question);
  toNewest();
  return live;
}

function failed(live, message) {
  const again = () => {
    live.node.remove();
    live.question.remove();
    return attempt(() => ask(live.said));
  };
  live.waiting.remove();
  live.question.classList.add("failed");
  if (!live.all) live.node.querySelector(".tools")?.remove();
  const button = el("button", { type: "button", onclick: again }, "Try again");
  live.node.append(el("div", { class: "error", role: "alert" }, message, button));
  setLive(null);
  say("");
  toNewest();
}

/** Follow the answer of a session to its end, over lost connections; `live` is where it is drawn, if it is. */
export async function follow(name, live = null) {
  state.follow?.abort();
  const control = (state.follow = new AbortController());
  const run = { begun: null, live, text: "" };
  for (let pause = 500; !control.signal.aborted; pause = Math.min(2 * pause, 8000)) {
    try {
      for await (const event of events(place(name, `/live?after=${run.live?.end ?? 0}`), control.signal)) {
        pause = 500;
        if (control.signal.aborted || (await take(run, event))) return;
      }
    } catch (error) {
      if (control.signal.aborted) return;
      if (error instanceof ApiError) return run.live ? failed(run.live, error.message) : say(error.message);
    }
    say("The connection was lost; the answer goes on. Connecting again …");
    await wait(pause);
  }
}

/** Take an event of an answer; whether it was the last. */
async function take(run, event) {
  if (event.type === "live.none") {
    if (run.live) failed(run.live, "The server was started anew while it wrote this.");
    return true;
  }
  if (event.type === "live.begun") {
    run.begun = event;
    if (run.live && run.live.identity !== event.id) {
      setLive(null);
      await reload();
      return true;
    }
    if (event.running) run.live ??= joined(event);
    if (run.live) say("");
    return false;
  }
  if (event.type === "live.progress") {
    if (run.live) run.live.waiting.textContent = `Reading ${Math.round((100 * event.processed) / event.total)} % `;
    return false;
  }
  if (event.type === "live.text") {
    run.text += event.text;
    if (run.live) grown(run.live, event);
    return false;
  }
  if (!run.live && event.type === "live.ended") {
    // It ended between two looks at the conversation: then that has not been drawn.
    const last = [...$("log").querySelectorAll(".entry.user .body")].at(-1);
    if (last?.textContent !== run.begun.message.trim() && event.usage) await reload(false);
    return true;
  }
  run.live ??= Object.assign(joined(run.begun), { all: run.text });
  if (run.live.all) drawNow(run.live);
  if (event.type === "live.failed") failed(run.live, event.error.message);
  else ended(run.live, event);
  return true;
}

function grown(live, event) {
  live.all += event.text;
  live.end = event.end;
  live.frame ??= requestAnimationFrame(() => {
    live.frame = null;
    drawNow(live);
  });
}

function drawNow(live) {
  const near = isNear();
  live.waiting.remove();
  live.update(live.all);
  if (near) toNewest();
  $("newest").hidden = near;
}

function ended(live, event) {
  setLive(null);
  live.waiting.remove();
  say("");
  const tools = live.node.querySelector(".tools");
  if (event.finish === "length") tools?.append(el("span", { class: "faint" }, "Cut off at the limit of one answer."));
  if (event.finish === "cancelled") tools?.append(el("span", { class: "faint" }, "Stopped."));
  if (event.usage === null) {
    // It was stopped before it was read.
    live.node.remove();
    live.question.remove();
    if (!$("say").value) $("say").value = live.said;
    grow();
  }
  refreshMemory().catch(() => {});
  loadSessions().catch(() => {});
  tellOthers("sessions");
}

export async function stop() {
  if (!state.live) return;
  $("stop").disabled = true;
  await attempt(() => call("DELETE", place(state.name, "/live")));
  $("stop").disabled = false;
}
