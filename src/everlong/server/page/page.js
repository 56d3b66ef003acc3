// The page of `everlong serve`: what is pressed, typed and dropped, and how it begins. Each other file has one duty.

import { fork, lookForRewind, remove, rename, rewind } from "./actions.js";
import { stop, submit } from "./answers.js";
import { askKey, call, key } from "./api.js";
import { drawSessions, loadSessions, open, reload } from "./conversations.js";
import { $ } from "./dom.js";
import { grow, keepDraft } from "./drafts.js";
import { addFiles, uploads } from "./files.js";
import { isNear, toNewest } from "./log.js";
import { refreshMemory } from "./memory.js";
import { closeSide, openSide } from "./side.js";
import { more } from "./source.js";
import { attempt, others, state } from "./state.js";

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
  // Whoever was quick has begun a conversation already.
  if (state.name === null) await open(named());
  await lookForRewind();
}

listen();
attempt(start);
setInterval(() => state.live && refreshMemory().catch(() => {}), 3000);
