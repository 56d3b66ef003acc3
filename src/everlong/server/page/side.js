// The side with the list, where there is no room for both.

import { $ } from "./dom.js";

export function closeSide() {
  $("side").classList.remove("open");
  $("shade").hidden = true;
  $("open-side").setAttribute("aria-expanded", "false");
}

export function openSide() {
  $("side").classList.add("open");
  $("shade").hidden = false;
  $("open-side").setAttribute("aria-expanded", "true");
  $("search").focus();
}
