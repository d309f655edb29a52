// Small tools for the document. Nothing here takes markup as text: what comes
// from outside (a host, a recipient) can only ever become text.

export const $ = (id) => document.getElementById(id);

/** el makes an element; children are elements or text. */
export function el(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") e.className = value;
    else if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined) e.setAttribute(key, value === true ? "" : value);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

const space = "http://www.w3.org/2000/svg";
export function svg(name, attributes = {}, ...children) {
  const e = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  e.append(...children);
  return e;
}

/** say changes a text only where it differs, so that a screen reader is not told again. */
export function say(e, text) {
  text = String(text ?? "");
  if (e.textContent !== text) e.textContent = text;
}

/** mark sets or takes away an attribute, only where it differs. */
export function mark(e, name, value) {
  if (value === null || value === undefined || value === false) { if (e.hasAttribute(name)) e.removeAttribute(name); return; }
  const text = value === true ? "" : String(value);
  if (e.getAttribute(name) !== text) e.setAttribute(name, text);
}

/**
 * list keeps the children of parent in step with items: each is made once, by its
 * key, and then changed, so that the focus and the reading position stay.
 */
export function list(parent, items, key, make, change) {
  const old = new Map([...parent.children].map((c) => [c.dataset.key, c]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const k = String(key(item));
    let e = old.get(k);
    if (e) old.delete(k);
    else { e = make(item); e.dataset.key = k; }
    change?.(e, item);
    if (e === at) at = at.nextElementSibling;
    else parent.insertBefore(e, at);
  }
  for (const e of old.values()) e.remove();
}

/** facts fills a description list with [term, value] pairs; a pair without a value is left out. */
export function facts(dl, pairs) {
  const wanted = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  if (dl.children.length !== wanted.length * 2 || wanted.some(([term], i) => dl.children[2 * i].textContent !== term)) {
    dl.replaceChildren(...wanted.flatMap(([term]) => [el("dt", {}, term), el("dd")]));
  }
  wanted.forEach(([, value], i) => say(dl.children[2 * i + 1], value));
}

// A line of code breaks between words, never behind the hyphen of an option.
const code = (line) => el("code", {}, ...line.split(/( )/).map((word) => (word === " " ? word : el("span", { class: "word" }, word))));

/** withCode turns `text in backticks` into code elements. */
export function withCode(e, text) {
  if (e.dataset.text === text) return;
  e.dataset.text = text;
  e.replaceChildren(...text.split("`").map((part, i) => (i % 2 ? code(part) : part)));
}
