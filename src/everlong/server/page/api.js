// The server: requests, their key, and streams of events.

import { dialog } from "./dialogs.js";
import { $ } from "./dom.js";

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered with status ${status}`);
    this.status = status;
    this.code = error?.code;
  }
}

export const stored = (where, name, value) => {
  try {
    if (value === undefined) return where.getItem(name);
    return value === null ? where.removeItem(name) : where.setItem(name, value);
  } catch {
    return null;
  }
};

export let key = stored(sessionStorage, "everlong-key") ?? stored(localStorage, "everlong-key") ?? "";
const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});
export const place = (name, rest = "") => `v1/sessions/${encodeURIComponent(name)}${rest}`;
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

export const call = async (...given) => (await send(...given)).json();

/** The events of a stream. */
export async function* events(path, signal) {
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

export function dataOf(part) {
  const lines = part.split("\n").filter((line) => line.startsWith("data:"));
  return lines.length ? [JSON.parse(lines.map((line) => line.slice(5)).join("\n"))] : [];
}

export async function askKey(again) {
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
