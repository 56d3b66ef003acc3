// What is typed, kept until the server has it.

import { stored } from "./api.js";
import { $ } from "./dom.js";
import { state } from "./state.js";

const draftOf = (name) => `everlong-draft ${name ?? ""}`;
export const keepDraft = () => stored(sessionStorage, draftOf(state.name), $("say").value || null);
export const dropDraft = (name) => stored(sessionStorage, draftOf(name), null);

export function restoreDraft() {
  $("say").value = stored(sessionStorage, draftOf(state.name)) ?? "";
  grow();
}

export function grow() {
  const field = $("say");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}
