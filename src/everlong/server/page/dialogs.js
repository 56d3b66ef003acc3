// What is asked, and what is said below the conversation.

import { $ } from "./dom.js";

/** What is entered, "" for a mere yes, null where it was closed. */
export function dialog({ title, text = "", label = "", value = "", ok = "OK", danger = false, secret = false, error = "", check }) {
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

export function say(words) {
  $("status").textContent = words;
}
