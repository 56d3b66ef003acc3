// What the page shows now, and what other tabs are told.

import { say } from "./dialogs.js";
import { $ } from "./dom.js";

export const state = { name: null, sessions: [], memory: null, follow: null, live: null, oldest: 0 };
export const others = "BroadcastChannel" in window ? new BroadcastChannel("everlong") : null;
export const tellOthers = (kind) => others?.postMessage({ kind, session: state.name });

/** Do it, and say what went wrong. */
export async function attempt(work) {
  say("");
  $("actions").open = false;
  try {
    await work();
  } catch (error) {
    say(error.message);
  }
}
