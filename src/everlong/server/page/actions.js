// What is done with a conversation: renamed, copied, removed, rewound.

import { call, place } from "./api.js";
import { loadSessions, open, reload } from "./conversations.js";
import { dialog, say } from "./dialogs.js";
import { $ } from "./dom.js";
import { grow } from "./drafts.js";
import { attempt, state, tellOthers } from "./state.js";

// What is done with one.

function free() {
  if (state.live) throw new Error("An answer is being written here: stop it first, or wait for its end.");
}

export async function rename() {
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

export async function fork() {
  free();
  const { id } = await call("POST", place(state.name, "/fork"), {});
  await loadSessions();
  tellOthers("sessions");
  await open(id);
  say("This is a copy: it goes on by itself.");
}

export async function remove() {
  free();
  const name = state.name;
  const text = `“${name}” and all that only it holds is removed from the server's disk.`;
  if ((await dialog({ title: "Delete this conversation?", text, ok: "Delete", danger: true })) === null) return;
  await call("DELETE", place(name));
  tellOthers("sessions");
  await open(null);
  await loadSessions();
}

export async function rewind(turns) {
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
export async function rewindTo(node, text) {
  const after = [...$("log").querySelectorAll(".entry.user:not(.failed)")];
  await attempt(async () => {
    await rewind(after.length - after.indexOf(node));
    if (!$("say").value) $("say").value = text;
    grow();
    $("say").focus();
  });
}

/** The button is there where the server has the route. */
export async function lookForRewind() {
  const { paths } = await call("GET", "openapi.json");
  showRewind(Object.keys(paths).some((path) => path.endsWith("/rewind")));
}

function showRewind(can) {
  document.body.classList.toggle("rewinds", can);
  $("rewind").hidden = !can;
}
