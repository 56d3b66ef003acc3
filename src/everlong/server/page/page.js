// The page of `everlong serve`. Texts become text nodes and known elements; nothing is ever parsed as HTML.

const $ = (id) => document.getElementById(id);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const count = (n) => n.toLocaleString("en");
const several = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

function el(tag, fields = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let n = 0;
  while (bytes >= 1000 && n < units.length - 1) {
    bytes /= 1000;
    n += 1;
  }
  return `${n && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${units[n]}`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// ---- Markdown, as nodes -------------------------------------------------------------------------------------------

const DEEPEST = 8;
const WRAPPED = 60;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const DIVIDER = /^ *\|?(?: *:?-+:? *\|)+ *(?::?-+:? *)?$/;

/** The blocks of a text, each as its kind and its lines. */
function blocks(lines) {
  const found = [];
  for (let at = 0; at < lines.length; ) {
    const block = blockAt(lines, at);
    if (block.kind !== "blank") found.push(block);
    at += block.lines.length;
  }
  return found;
}

function blockAt(lines, at) {
  const line = lines[at];
  const run = (kind, goesOn) => {
    let end = at + 1;
    while (end < lines.length && goesOn(lines[end], end)) end += 1;
    return { kind, lines: lines.slice(at, end) };
  };
  if (!line.trim()) return { kind: "blank", lines: [line] };
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence[1]);
  if (RULE.test(line)) return { kind: "rule", lines: [line] };
  if (HEADING.test(line)) return { kind: "heading", lines: [line] };
  if (QUOTE.test(line)) return run("quote", (next) => QUOTE.test(next));
  if (ITEM.test(line)) return run("list", (next, n) => inList(lines, n));
  if (line.includes("|") && at + 1 < lines.length && DIVIDER.test(lines[at + 1])) {
    return run("table", (next) => next.includes("|"));
  }
  return run("paragraph", (next) => next.trim() && ![FENCE, RULE, HEADING, QUOTE, ITEM].some((e) => e.test(next)));
}

function fenced(lines, at, mark) {
  let end = at + 1;
  const closes = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  while (end < lines.length && !closes(lines[end])) end += 1;
  return { kind: "code", lines: lines.slice(at, end + 1), closed: end < lines.length };
}

function inList(lines, n) {
  if (ITEM.test(lines[n]) || /^ {2,}\S/.test(lines[n])) return true;
  if (lines[n].trim()) return Boolean(lines[n - 1].trim()) && ![FENCE, RULE, HEADING, QUOTE].some((e) => e.test(lines[n]));
  const next = lines.slice(n).find((line) => line.trim());
  return next !== undefined && (ITEM.test(next) || /^ {2,}\S/.test(next));
}

function drawn(block, depth = 0) {
  const { kind, lines } = block;
  if (depth > DEEPEST) return el("p", {}, lines.join("\n"));
  if (kind === "code") return code(lines, block.closed);
  if (kind === "rule") return el("hr");
  if (kind === "heading") {
    const [, marks, said] = HEADING.exec(lines[0]);
    return el(`h${marks.length}`, {}, ...inline(said.trim()));
  }
  if (kind === "quote") return el("blockquote", {}, ...all(lines.map((line) => QUOTE.exec(line)[1]), depth + 1));
  if (kind === "list") return list(lines, depth);
  if (kind === "table") return table(lines);
  return el("p", {}, ...inline(lines.join("\n")));
}

const all = (lines, depth) => blocks(lines).map((block) => drawn(block, depth));

function code(lines, closed) {
  const said = lines.slice(1, closed ? -1 : undefined).join("\n");
  const head = el("div", { class: "code-head" }, el("span", {}, FENCE.exec(lines[0])[2] || "code"));
  if (navigator.clipboard) head.append(copyButton(() => said, "Copy the code"));
  return el("div", { class: "code" }, head, el("pre", { tabindex: "0" }, el("code", {}, said)));
}

function copyButton(text, label) {
  const copy = async (event) => {
    const button = event.currentTarget;
    await navigator.clipboard.writeText(text());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  return el("button", { type: "button", "aria-label": label, onclick: copy }, "Copy");
}

function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const inner = new RegExp(`^ {0,${indent.length + mark.length + 1}}`);
  const items = [];
  for (const line of lines) {
    const begun = ITEM.exec(line);
    if (begun && begun[1].length <= indent.length + 1) items.push([begun[3]]);
    else items.at(-1).push(line.replace(inner, ""));
  }
  const ordered = /\d/.test(mark);
  const start = ordered ? { start: String(parseInt(mark, 10)) } : {};
  const node = el(ordered ? "ol" : "ul", start);
  for (const item of items) {
    const parts = blocks(item);
    const plain = parts[0]?.kind === "paragraph";
    const first = plain ? inline(parts[0].lines.join("\n")) : [];
    node.append(el("li", {}, ...first, ...parts.slice(plain ? 1 : 0).map((block) => drawn(block, depth + 1))));
  }
  return node;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => inline(cell.trim()));
  const row = (tag, line) => el("tr", {}, ...cells(line).map((cell) => el(tag, {}, ...cell)));
  const body = el("tbody", {}, ...lines.slice(2).map((line) => row("td", line)));
  return el("div", { class: "table" }, el("table", {}, el("thead", {}, row("th", lines[0])), body));
}

/** The nodes of a text within a block. A mark that is opened and never closed stays as it is. */
function inline(text, depth = 0) {
  const found = [];
  const never = new Set();
  let plain = "";
  const push = (node) => {
    if (plain) found.push(plain);
    plain = "";
    found.push(node);
  };
  for (let at = 0; at < text.length; ) {
    const span = depth > DEEPEST ? null : spanAt(text, at, never, depth);
    if (span) {
      push(span.node);
      at = span.end;
    } else if (text[at] === "\n") {
      // A short line was ended there on purpose, a long one where its writer's page did.
      if (at - text.lastIndexOf("\n", at - 1) > WRAPPED) plain += " ";
      else push(el("br"));
      at += 1;
    } else if (text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else if (text[at] === "`") {
      const ticks = /^`+/.exec(text.slice(at, at + 64))[0];
      plain += ticks;
      at += ticks.length;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  return plain ? [...found, plain] : found;
}

function spanAt(text, at, never, depth) {
  const sign = text[at];
  if (sign === "`") return codeSpan(text, at, never);
  if (sign === "[" || (sign === "!" && text[at + 1] === "[")) return linkSpan(text, sign === "!" ? at + 1 : at);
  if (sign === "h" && !/\w/.test(text[at - 1] ?? "")) return bareLink(text, at);
  for (const [mark, tag] of [["**", "strong"], ["__", "strong"], ["~~", "s"], ["*", "em"], ["_", "em"]]) {
    if (!text.startsWith(mark, at) || never.has(mark)) continue;
    const end = closing(text, at, mark);
    if (end < 0) never.add(mark);
    else if (end > at + mark.length) {
      return { node: el(tag, {}, ...inline(text.slice(at + mark.length, end), depth + 1)), end: end + mark.length };
    }
  }
  return null;
}

/** Where a mark is closed: 0 where none opens here, -1 where none closes it anywhere behind. */
function closing(text, at, mark) {
  const first = text[at + mark.length] ?? " ";
  if (/\s/.test(first) || (mark[0] === "_" && /\w/.test(text[at - 1] ?? ""))) return 0;
  for (let end = text.indexOf(mark, at + mark.length); end >= 0; end = text.indexOf(mark, end + 1)) {
    const doubled = mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark);
    if (doubled || /\s/.test(text[end - 1]) || (mark[0] === "_" && /\w/.test(text[end + mark.length] ?? ""))) continue;
    return end;
  }
  return -1;
}

function codeSpan(text, at, never) {
  const ticks = /^`+/.exec(text.slice(at, at + 64))[0];
  if (never.has(ticks)) return null;
  let end = text.indexOf(ticks, at + ticks.length);
  while (end >= 0 && text[end + ticks.length] === "`") {
    end += ticks.length;
    while (text[end] === "`") end += 1;
    end = text.indexOf(ticks, end);
  }
  if (end < 0) {
    never.add(ticks);
    return null;
  }
  const said = text.slice(at + ticks.length, end);
  return { node: el("code", {}, said.replace(/^ (.*) $/s, "$1")), end: end + ticks.length };
}

function linkSpan(text, at) {
  const found = /^\[([^\]\n]{0,500})\]\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)?)>?(?:\s+"[^"\n]*")?\s*\)/.exec(
    text.slice(at, at + 3000),
  );
  if (!found) return null;
  const node = link(found[2], found[1] ? inline(found[1], DEEPEST + 1) : [found[2]]);
  return node && { node, end: at + found[0].length };
}

function bareLink(text, at) {
  const found = /^https?:\/\/[^\s<>"'`|\\]+/.exec(text.slice(at, at + 2000));
  if (!found) return null;
  const shown = found[0].replace(/[.,;:!?*_~)\]]+$/, "");
  const node = link(shown, [shown]);
  return node && { node, end: at + shown.length };
}

/** A link to elsewhere; null for an address that may do anything but lead there. */
function link(address, children) {
  if (!/^(https?:\/\/|mailto:)/i.test(address) || !URL.canParse(address)) return null;
  return el("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

/** A text that grows: only the blocks that have changed are drawn again. */
class Rendered {
  constructor(node) {
    this.node = node;
    this.shown = [];
  }

  update(text) {
    const found = blocks(text.split(/\r\n?|\n/)).map((block) => ({ block, key: `${block.closed}${block.lines.join("\n")}` }));
    let same = 0;
    while (same < found.length && this.shown[same] === found[same].key) same += 1;
    while (this.node.childNodes.length > same) this.node.lastChild.remove();
    this.node.append(...found.slice(same).map(({ block }) => drawn(block)));
    this.shown = found.map(({ key }) => key);
  }
}

// ---- The server ---------------------------------------------------------------------------------------------------

class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered with status ${status}`);
    this.status = status;
    this.code = error?.code;
  }
}

const stored = (where, name, value) => {
  try {
    if (value === undefined) return where.getItem(name);
    return value === null ? where.removeItem(name) : where.setItem(name, value);
  } catch {
    return null;
  }
};

let key = stored(sessionStorage, "everlong-key") ?? stored(localStorage, "everlong-key") ?? "";
const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});
const place = (name, rest = "") => `v1/sessions/${encodeURIComponent(name)}${rest}`;
let asking = null;

async function send(method, path, body, signal) {
  const given = body === undefined ? undefined : JSON.stringify(body);
  for (;;) {
    const used = key;
    const answer = await fetch(path, { method, body: given, signal, headers: headers(), cache: "no-store" });
    if (answer.ok) return answer;
    if (answer.status !== 401) throw new ApiError(answer.status, (await answer.json().catch(() => ({}))).error);
    // Whoever asks while another request waits for a key waits for the same one.
    if (used === key) await (asking ??= askKey(used !== "").finally(() => (asking = null)));
  }
}

const call = async (...given) => (await send(...given)).json();

/** The events of a stream. */
async function* events(path, signal) {
  const answer = await send("GET", path, undefined, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value.replaceAll("\r", "")).split("\n\n");
      rest = parts.pop();
      yield* parts.flatMap(dataOf);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function dataOf(part) {
  const lines = part.split("\n").filter((line) => line.startsWith("data:"));
  return lines.length ? [JSON.parse(lines.map((line) => line.slice(5)).join("\n"))] : [];
}

async function askKey(again) {
  $("key-button").hidden = false;
  const given = await dialog({
    title: "API key",
    text: "This server answers to those who have a key.",
    label: "Key",
    secret: true,
    error: again ? "That key was not accepted." : "",
    check: (value) => (value ? "" : "Enter a key."),
  });
  if (given === null) throw new Error("a key is needed");
  setKey(given, $("ask-keep").checked);
}

function setKey(given, keep) {
  key = given;
  stored(sessionStorage, "everlong-key", given);
  stored(localStorage, "everlong-key", keep ? given : null);
}

// ---- Dialogs ------------------------------------------------------------------------------------------------------

/** What is entered, "" for a mere yes, null where it was closed. */
function dialog({ title, text = "", label = "", value = "", ok = "OK", danger = false, secret = false, error = "", check }) {
  const box = $("ask");
  const field = $("ask-value");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-label").textContent = label;
  $("ask-error").textContent = error;
  $("ask-ok").textContent = ok;
  $("ask-ok").classList.toggle("danger-fill", danger);
  field.type = secret ? "password" : "text";
  field.value = value;
  field.hidden = $("ask-label").hidden = !label;
  $("ask-keep-row").hidden = !secret;
  box.returnValue = "";
  box.showModal();
  (label ? field : $("ask-cancel")).focus();
  field.select();
  return new Promise((answer) => {
    $("ask-form").onsubmit = (event) => {
      event.preventDefault();
      const wrong = check?.(field.value.trim()) ?? "";
      $("ask-error").textContent = wrong;
      if (!wrong) box.close("ok");
    };
    $("ask-cancel").onclick = () => box.close("");
    box.onclose = () => answer(box.returnValue === "ok" ? field.value.trim() : null);
  });
}

function say(words) {
  $("status").textContent = words;
}

// ---- Conversations ------------------------------------------------------------------------------------------------

const state = { name: null, sessions: [], memory: null, follow: null, live: null, oldest: 0 };
const others = "BroadcastChannel" in window ? new BroadcastChannel("everlong") : null;
const tellOthers = (kind) => others?.postMessage({ kind, session: state.name });

async function loadSessions() {
  state.sessions = (await call("GET", "v1/sessions")).data;
  drawSessions();
}

function drawSessions() {
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
async function open(name, fresh = false) {
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
async function reload(follows = true) {
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

function olderButton(found) {
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

function entry(one) {
  if (one.role === "document") {
    const part = one.done ? "" : ", in part: read the file again to go on";
    return el("div", { class: "entry document" }, `Read ${one.text} · ${several(one.end - one.first, "token")}${part}`);
  }
  const cut = one.chars > one.text.length ? `\n\n(${several(one.chars - one.text.length, "more character")})` : "";
  return one.role === "user" ? said(one.text, cut) : answered(one.text + cut).node;
}

function said(text, cut = "") {
  const node = el("div", { class: "entry user" }, el("div", { class: "body" }, text + cut));
  const again = el("button", { type: "button", class: "rewind", onclick: () => rewindTo(node, text) }, "Rewind to here");
  node.append(el("div", { class: "tools" }, again));
  return node;
}

function answered(text = "") {
  const body = el("div", { class: "body" });
  const node = el("div", { class: "entry assistant" }, body);
  const rendered = new Rendered(body);
  const found = { node, body, text, rendered, update: (now) => rendered.update((found.text = now)) };
  found.update(text);
  if (navigator.clipboard) node.append(el("div", { class: "tools" }, copyButton(() => found.text, "Copy the answer")));
  return found;
}

/** Make a conversation that is called by the beginning of a text; its name. */
async function made(text) {
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

// What is done with one.

function free() {
  if (state.live) throw new Error("An answer is being written here: stop it first, or wait for its end.");
}

async function rename() {
  free();
  const old = state.name;
  const check = (value) => (value ? "" : "Enter a name.");
  const name = await dialog({ title: "Rename", label: "Name", value: old, ok: "Rename", check });
  if (name === null || name === old) return;
  const { id } = await call("PATCH", place(old), { name });
  await loadSessions();
  tellOthers("sessions");
  await open(id);
}

async function fork() {
  free();
  const { id } = await call("POST", place(state.name, "/fork"), {});
  await loadSessions();
  tellOthers("sessions");
  await open(id);
  say("This is a copy: it goes on by itself.");
}

async function remove() {
  free();
  const name = state.name;
  const text = `“${name}” and all that only it holds is removed from the server's disk.`;
  if ((await dialog({ title: "Delete this conversation?", text, ok: "Delete", danger: true })) === null) return;
  await call("DELETE", place(name));
  tellOthers("sessions");
  await open(null);
  await loadSessions();
}

async function rewind(turns) {
  free();
  try {
    await call("POST", place(state.name, "/rewind"), { turns });
  } catch (error) {
    if (error.status === 405 || error.code === "unknown_url") showRewind(false);
    throw error;
  }
  tellOthers("live");
  await reload(false);
  await loadSessions();
}

/** Take back a message with all that came after it, and put it into the field to be changed. */
async function rewindTo(node, text) {
  const after = [...$("log").querySelectorAll(".entry.user:not(.failed)")];
  await attempt(async () => {
    await rewind(after.length - after.indexOf(node));
    if (!$("say").value) $("say").value = text;
    grow();
    $("say").focus();
  });
}

/** The button is there where the server has the route. */
async function lookForRewind() {
  const { paths } = await call("GET", "openapi.json");
  showRewind(Object.keys(paths).some((path) => path.endsWith("/rewind")));
}

function showRewind(can) {
  document.body.classList.toggle("rewinds", can);
  $("rewind").hidden = !can;
}

/** Do it, and say what went wrong. */
async function attempt(work) {
  say("");
  $("actions").open = false;
  try {
    await work();
  } catch (error) {
    say(error.message);
  }
}

// ---- Answers ------------------------------------------------------------------------------------------------------

function setLive(live) {
  state.live = live;
  $("stop").hidden = live === null;
  $("send").hidden = live !== null;
  $("log").setAttribute("aria-busy", String(live !== null));
}

async function submit() {
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
async function follow(name, live = null) {
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

async function stop() {
  if (!state.live) return;
  $("stop").disabled = true;
  await attempt(() => call("DELETE", place(state.name, "/live")));
  $("stop").disabled = false;
}

const isNear = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 120;

function toNewest() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
  $("newest").hidden = true;
}

// ---- Memory -------------------------------------------------------------------------------------------------------

async function refreshMemory() {
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

function drawStrip({ report, dropped, read }) {
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

const whereOf = (one) => [
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

function withTip(button, one) {
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

const short = (text, most) => (text.length > most ? `${text.slice(0, most)} …` : text);

/** Under the last answer, what was read for it. */
function cite(read) {
  for (const old of document.querySelectorAll(".cites")) old.remove();
  const answers = [...$("log").querySelectorAll(".entry.assistant")];
  if (!read.length || !answers.length || state.live) return;
  const best = [...read].sort((a, b) => b.mass - a.mass).slice(0, 4);
  const chips = best.map((one) => withTip(el("button", { type: "button", onclick: () => openSource(one) }, short(whereOf(one), 60)), one));
  answers.at(-1).append(el("div", { class: "cites" }, el("span", { class: "faint" }, "Read for this:"), ...chips));
}

// The source of a passage.

const AROUND = 400;
const shownSource = { first: 0, end: 0, low: 0, high: 0 };

async function openSource(one) {
  await attempt(async () => {
    const found = await call("GET", place(state.name, `/text?first=${one.first}&end=${one.last}&around=${AROUND}`));
    Object.assign(shownSource, { first: found.first, end: found.end, low: found.source_first, high: found.source_end });
    $("source-title").textContent = found.name || found.source;
    $("source-place").textContent = whereOf({ ...one, name: "", source: "" });
    const mark = el("mark", {}, found.text);
    $("source-body").replaceChildren(found.before, mark, found.after);
    sourceButtons();
    if (!$("source").open) $("source").showModal();
    mark.scrollIntoView({ block: "center" });
    $("source-text").focus({ preventScroll: true });
  });
}

function sourceButtons() {
  $("source-earlier").hidden = shownSource.first <= shownSource.low;
  $("source-later").hidden = shownSource.end >= shownSource.high;
}

async function more(earlier) {
  const from = earlier ? Math.max(shownSource.low, shownSource.first - 2 * AROUND) : shownSource.end;
  const to = earlier ? shownSource.first : Math.min(shownSource.high, shownSource.end + 2 * AROUND);
  await attempt(async () => {
    const found = await call("GET", place(state.name, `/text?first=${from}&end=${to}`));
    const height = $("source-text").scrollHeight;
    if (earlier) {
      $("source-body").prepend(found.text);
      shownSource.first = from;
    } else {
      $("source-body").append(found.text);
      shownSource.end = to;
    }
    sourceButtons();
    if (earlier) $("source-text").scrollTop += $("source-text").scrollHeight - height;
  });
}

// ---- Files --------------------------------------------------------------------------------------------------------

const uploads = [];

async function addFiles(files) {
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

// ---- Drafts, keys, beginning --------------------------------------------------------------------------------------

const draftOf = (name) => `everlong-draft ${name ?? ""}`;
const keepDraft = () => stored(sessionStorage, draftOf(state.name), $("say").value || null);
const dropDraft = (name) => stored(sessionStorage, draftOf(name), null);

function restoreDraft() {
  $("say").value = stored(sessionStorage, draftOf(state.name)) ?? "";
  grow();
}

function grow() {
  const field = $("say");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function closeSide() {
  $("side").classList.remove("open");
  $("shade").hidden = true;
  $("open-side").setAttribute("aria-expanded", "false");
}

function openSide() {
  $("side").classList.add("open");
  $("shade").hidden = false;
  $("open-side").setAttribute("aria-expanded", "true");
  $("search").focus();
}

function keys(event) {
  const typing = /^(INPUT|TEXTAREA)$/.test(event.target.tagName);
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    if (matchMedia("(max-width: 46rem)").matches) openSide();
    $("search").focus();
  } else if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    attempt(() => open(null));
  } else if (event.key === "Escape") {
    if ($("side").classList.contains("open")) closeSide();
    else if ($("actions").open) $("actions").open = false;
    else stop();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && $("side").contains(event.target)) {
    const all = [$("search"), ...$("sessions").querySelectorAll("button")];
    const at = all.indexOf(event.target);
    if (at < 0) return;
    event.preventDefault();
    all[at + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
  }
}

function dragging() {
  let depth = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const on = (name, work) => addEventListener(name, (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    work(event);
    $("drop").hidden = depth <= 0;
  });
  on("dragenter", () => (depth += 1));
  on("dragleave", () => (depth -= 1));
  on("dragover", () => {});
  on("drop", (event) => {
    depth = 0;
    attempt(() => addFiles(event.dataTransfer.files));
  });
}

function listen() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(submit);
  });
  $("say").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    attempt(submit);
  });
  $("say").addEventListener("input", () => {
    grow();
    keepDraft();
  });
  const clicks = {
    new: () => open(null), stop, rename, fork, delete: remove, rewind: () => rewind(1), newest: toNewest,
    attach: () => $("file").click(), "key-button": () => askKey(false).then(start), "source-earlier": () => more(true),
    "source-later": () => more(false), "source-close": () => $("source").close(), "open-side": openSide,
    "close-side": closeSide,
  };
  for (const [id, work] of Object.entries(clicks)) $(id).addEventListener("click", () => attempt(work));
  $("shade").addEventListener("click", closeSide);
  $("search").addEventListener("input", drawSessions);
  $("file").addEventListener("change", () => {
    const given = [...$("file").files];
    $("file").value = "";
    attempt(() => addFiles(given));
  });
  $("scroll").addEventListener("scroll", () => ($("newest").hidden = isNear()));
  document.addEventListener("click", (event) => {
    if (!$("actions").contains(event.target)) $("actions").open = false;
  });
  addEventListener("keydown", keys);
  addEventListener("popstate", () => attempt(() => open(named())));
  addEventListener("beforeunload", (event) => {
    if (uploads.some((one) => one.active || one.waits)) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && lookAgain().catch(() => {}));
  others?.addEventListener("message", ({ data }) => {
    loadSessions().catch(() => {});
    if (data.kind === "live" && data.session === state.name && !state.live) attempt(reload);
  });
  dragging();
}

/** What has changed elsewhere while nobody looked. */
async function lookAgain() {
  await loadSessions();
  const here = state.sessions.find((one) => one.id === state.name);
  if (here && !state.live && here.tokens !== state.memory?.report.seen_tokens) await reload();
}

const named = () => (location.hash.length > 1 ? decodeURIComponent(location.hash.slice(1)) : null);

async function start() {
  $("key-button").hidden = !key;
  const [model] = (await call("GET", "v1/models")).data;
  $("model").textContent = `${model.id} · ${model.method}`;
  await loadSessions();
  await lookForRewind();
  await open(named());
}

listen();
attempt(start);
setInterval(() => state.live && refreshMemory().catch(() => {}), 3000);

export { Rendered };
