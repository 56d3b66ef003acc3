// The text around a passage, in the source it is of.

import { call, place } from "./api.js";
import { $, el } from "./dom.js";
import { attempt, state } from "./state.js";
import { whereOf } from "./strip.js";

// The source of a passage.

const AROUND = 400;
const shownSource = { first: 0, end: 0, low: 0, high: 0 };

export async function openSource(one) {
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

export async function more(earlier) {
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
