// Markdown, as nodes.

import { el } from "./dom.js";

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

export function copyButton(text, label) {
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
export class Rendered {
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
