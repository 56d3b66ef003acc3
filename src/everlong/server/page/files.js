// Files on their way into a conversation.

import { dataOf, key, place } from "./api.js";
import { loadSessions, made, open, reload } from "./conversations.js";
import { say } from "./dialogs.js";
import { $, duration, el, several, size } from "./dom.js";
import { refreshMemory } from "./memory.js";
import { state, tellOthers } from "./state.js";

export const uploads = [];

export async function addFiles(files) {
  const given = [...files];
  if (!given.length) return;
  if (state.name === null) {
    const name = await made(given[0].name);
    await loadSessions();
    tellOthers("sessions");
    await open(name);
  }
  uploads.push(...given.map((file) => new Upload(file, state.name)));
  nextUpload();
}

function nextUpload() {
  if (uploads.some((one) => one.active)) return;
  uploads.find((one) => one.waits)?.start();
}

/** A file on its way: sent, then read by the server, which says how far it is. */
class Upload {
  constructor(file, session) {
    this.file = file;
    this.session = session;
    this.waits = true;
    this.active = false;
    this.words = el("span", { class: "faint" }, "waits");
    this.bar = el("progress", { max: "1", "aria-label": `Progress of ${file.name}` });
    this.button = el("button", { type: "button", onclick: () => this.press() }, "Cancel");
    this.node = el("li", {}, el("span", { class: "name" }, file.name), this.button, this.bar, this.words);
    $("uploads").append(this.node);
  }

  start() {
    Object.assign(this, { waits: false, active: true, seen: 0, failed: "", result: null });
    this.words.classList.remove("failed");
    this.button.textContent = "Cancel";
    const form = new FormData();
    form.append("stream", "true");
    form.append("file", this.file, this.file.name);
    const request = (this.request = new XMLHttpRequest());
    request.open("POST", place(this.session, "/documents"));
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    this.clock = new Clock();
    request.upload.onprogress = (event) => this.sent(event.loaded / Math.max(1, event.total));
    request.upload.onload = () => this.sentAll();
    request.onprogress = () => this.take(request.responseText);
    request.onloadend = () => this.end();
    request.send(form);
  }

  sent(share) {
    this.tell(share, `sending ${Math.round(100 * share)} % of ${size(this.file.size)}`);
  }

  sentAll() {
    this.clock = new Clock();
    this.bar.removeAttribute("value");
    this.words.textContent = "sent; the server opens it …";
  }

  take(text) {
    const end = text.lastIndexOf("\n\n") + 2;
    if (end <= this.seen + 1) return;
    for (const event of text.slice(this.seen, end).replaceAll("\r", "").split("\n\n").flatMap(dataOf)) this.event(event);
    this.seen = end;
  }

  event(event) {
    if (event.type === "error") this.failed = event.error.message;
    if (event.type === "documents.read") this.result = event;
    if (event.type !== "document.progress") return;
    this.tell(event.share, `reading ${Math.round(100 * event.share)} % · ${several(event.tokens, "token")}`);
    if (this.session === state.name && this.clock.due(2)) refreshMemory().catch(() => {});
  }

  tell(share, words) {
    this.bar.value = share;
    const left = this.clock.left(share);
    this.words.textContent = left === null ? words : `${words} · about ${duration(left)} left`;
  }

  async end() {
    this.active = false;
    this.take(this.request.responseText);
    if (this.result) {
      this.node.remove();
      uploads.splice(uploads.indexOf(this), 1);
      const skipped = this.result.documents.every((one) => one.already_read);
      say(skipped ? `${this.file.name} was read before.` : `${this.file.name} is read: ${several(this.result.read_tokens, "token")}.`);
      tellOthers("live");
    } else {
      this.fail();
    }
    nextUpload();
    await loadSessions().catch(() => {});
    if (this.session === state.name && !state.live) await reload();
  }

  fail() {
    const told = this.failed || errorIn(this.request);
    const why = this.cancelled ? "Cancelled; what was read is kept." : told || "The connection was lost; what was read is kept.";
    this.words.textContent = why;
    this.words.classList.add("failed");
    this.bar.value = 0;
    this.button.textContent = this.cancelled ? "Close" : "Go on";
  }

  press() {
    if (this.active) {
      this.cancelled = true;
      this.request.abort();
    } else if (this.waits || this.cancelled) {
      this.node.remove();
      uploads.splice(uploads.indexOf(this), 1);
    } else {
      this.waits = true;
      nextUpload();
    }
  }
}

function errorIn(request) {
  if (request.status < 400) return "";
  try {
    return JSON.parse(request.responseText).error.message;
  } catch {
    return `The server answered with status ${request.status}.`;
  }
}

/** How long what is left will take, by what was done so far. */
class Clock {
  constructor() {
    this.begun = performance.now();
    this.first = null;
    this.last = this.begun;
  }

  left(share) {
    const now = performance.now();
    this.first ??= { share, now };
    const done = share - this.first.share;
    const seconds = (now - this.first.now) / 1000;
    return seconds < 1 || done <= 0 ? null : (seconds * (1 - share)) / done;
  }

  due(seconds) {
    const now = performance.now();
    if (now - this.last < 1000 * seconds) return false;
    this.last = now;
    return true;
  }
}
