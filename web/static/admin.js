// What an operator does from the page. The admin token is kept in this module
// alone and sent with each request by hand: without a cookie there is nothing that
// another site could make the browser send.
import { $, el, mark, say } from "./dom.js";
import { count, moment, plural } from "./words.js";

let token = "", name = "";

/** authorization shows the token; with a name beside it, so that the history says who it was and not only "token". */
function authorization(token, name) {
  if (!name) return "Bearer " + token;
  return "Basic " + btoa(String.fromCharCode(...new TextEncoder().encode(name + ":" + token)));
}

/** call sends one request to /admin/v1 and returns its JSON, or throws an Error with the refusal's words. */
async function call(method, path, body, shown = authorization(token, name)) {
  let answer;
  try {
    answer = await fetch("/admin/v1" + path, {
      method, cache: "no-store", credentials: "omit", redirect: "error",
      headers: { Authorization: shown, ...(body ? { "Content-Type": "application/json" } : {}) },
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch {
    throw new Error("The appliance does not answer.");
  }
  const text = await answer.text();
  let value;
  try { value = text ? JSON.parse(text) : {}; } catch { value = {}; }
  if (answer.ok) return value;
  const refused = new Error(value.detail || reasons(value.rejected) || value.title || `The appliance answers ${answer.status}.`);
  refused.status = answer.status;
  throw refused;
}

/** reasons says what is wrong with a configuration, the first three things of it. */
function reasons(rejected) {
  const said = (rejected ?? []).slice(0, 3).map((p) => [p.key, p.reason].filter(Boolean).join(" "));
  return said.join("; ") + (rejected?.length > 3 ? `; and ${rejected.length - 3} more` : "");
}

/** cameOf says what a rollback to a version has done: also what it could not do yet. */
function cameOf(version, answer) {
  const waits = (answer.needs_restart ?? []).map((k) => k.key).join(", ");
  return [
    answer.outcome === "unchanged" ? `Nothing to change: what runs says the same as version ${version}.` : `Configuration ${version} runs again, as version ${answer.version}.`,
    waits ? `Wait for a restart: ${waits}.` : "",
    answer.detail ? answer.detail[0].toUpperCase() + answer.detail.slice(1) + "." : "",
  ].filter(Boolean).join(" ");
}

export class Admin {
  constructor(onChange) {
    this.onChange = onChange;
    this.cursor = "";
    for (const id of ["login", "login-failed"]) $(id).addEventListener("click", () => (this.loggedIn ? this.logOut() : this.ask()));
    $("login-cancel").addEventListener("click", () => $("login-dialog").close());
    $("login-form").addEventListener("submit", (e) => { e.preventDefault(); this.logIn($("token").value.trim(), $("name").value.replaceAll(":", " ").trim()); });
    $("login-dialog").addEventListener("close", () => { $("token").value = ""; });
    $("failed-search").addEventListener("submit", (e) => { e.preventDefault(); this.search(false); });
    $("failed-more").addEventListener("click", () => this.search(true));
    $("failed-all").addEventListener("click", () => this.requeueShown());
  }

  get loggedIn() { return token !== ""; }

  ask() {
    say($("login-wrong"), "");
    $("login-dialog").showModal();
    $("token").focus();
  }

  async logIn(text, who) {
    try {
      await call("GET", "/status", undefined, authorization(text, who));
    } catch (e) {
      say($("login-wrong"), e.status === 401 ? "That is not the admin token." : e.message);
      $("token").select();
      return;
    }
    [token, name] = [text, who];
    $("login-dialog").close();
    this.changed();
    this.search(false);
  }

  logOut() { token = name = ""; $("failed").replaceChildren(); this.changed(); }

  changed() {
    say($("login"), this.loggedIn ? "Log out" : "Log in");
    mark($("failed-closed"), "hidden", this.loggedIn);
    mark($("failed-open"), "hidden", !this.loggedIn);
    this.onChange();
  }

  /** act does one change, after the operator has said yes, and says what came of it. */
  async act(title, text, verb, method, path, body, done) {
    if (!(await sure(title, text, verb))) return false;
    try {
      const answer = await call(method, path, body);
      toast(typeof done === "function" ? done(answer) : done);
      return true;
    } catch (e) {
      toast("Not done: " + e.message);
      if (e.status === 401) this.logOut();
      return false;
    }
  }

  force(name, verb) {
    const what = {
      open: ["Hold the breaker of " + name + " open?", "Nothing is sent to it until it is automatic again; its messages wait.", "Hold open"],
      close: ["Hold the breaker of " + name + " closed?", "Every message is tried, whatever comes back, until it is automatic again.", "Hold closed"],
      auto: ["Let the breaker of " + name + " decide by itself?", "It starts closed and opens after failures.", "Automatic"],
    }[verb];
    return this.act(...what, "POST", `/breakers/${encodeURIComponent(name)}/${verb}`, undefined, "Done; all nodes follow.");
  }

  rollback(version) {
    return this.act(`Go back to configuration ${version}?`, "It is validated and applied as a new version; what needs a restart is said.", "Go back", "POST", `/config/rollback`, { version }, (answer) => cameOf(version, answer));
  }

  async requeue(id, button) {
    let refused;
    const done = await this.act("Send this message again?", "It is accepted anew, in the lane low, with a fresh count of attempts.", "Requeue", "POST", "/messages/requeue", { ids: [id] }, (answer) => {
      refused = answer.refused?.length;
      return refused ? "Not done: it has not failed, or is not there any more." : answer.repeated ? "It was requeued before." : "It is in the queue again.";
    });
    if (done && !refused) settled(button);
  }

  /** requeueShown requeues every message of the list that has not been; a thousand is what one order may name. */
  async requeueShown() {
    const buttons = [...$("failed").querySelectorAll("button:not([disabled])")].slice(0, 1000);
    if (buttons.length === 0) return;
    const n = plural(buttons.length, "message", "messages");
    let refused = new Set();
    const done = await this.act(`Send ${n} again?`, "All that the list shows and that were not requeued yet. They are accepted anew, in the lane low, with a fresh count of attempts.", "Requeue " + n, "POST", "/messages/requeue", { ids: buttons.map((b) => b.dataset.id) }, (answer) => {
      refused = new Set((answer.refused ?? []).map((r) => r.id));
      return [`${plural(answer.requeued, "message is", "messages are")} in the queue again.`, answer.repeated ? `${count(answer.repeated)} had been requeued before.` : "", refused.size ? `${count(refused.size)} were left: they have not failed, or are not there any more.` : ""].filter(Boolean).join(" ");
    });
    if (!done) return;
    buttons.filter((b) => !refused.has(b.dataset.id)).forEach(settled);
    mark($("failed-all"), "hidden", !$("failed").querySelector("button:not([disabled])"));
  }

  async search(more) {
    const query = new URLSearchParams({ status: $("failed-status").value, limit: "20" });
    const text = $("failed-text").value.trim();
    if (text) query.set($("failed-by").value, text);
    if ($("failed-channel").value) query.set("channel", $("failed-channel").value);
    if (more) query.set("cursor", this.cursor);
    let page;
    try {
      page = await call("GET", "/messages?" + query);
    } catch (e) {
      say($("failed-note"), "Not found out: " + e.message);
      if (e.status === 401) this.logOut();
      return;
    }
    const rows = (page.data ?? []).map((m) => this.row(m));
    if (more) $("failed").append(...rows);
    else $("failed").replaceChildren(...rows);
    this.cursor = page.next_cursor ?? "";
    mark($("failed-more"), "hidden", !page.has_more);
    const shown = $("failed").children.length;
    mark($("failed-table"), "hidden", shown === 0);
    mark($("failed-all"), "hidden", shown < 2);
    say($("failed-all"), `Requeue all ${shown} shown`);
    say($("failed-note"), shown === 0 ? (query.size > 2 ? "None that matches." : `None is ${$("failed-status").value}.`) : `${shown} shown, the newest first${page.has_more ? "; there are more" : ""}.`);
  }

  row(m) {
    const why = m.error ? [m.error.code, m.error.message].filter(Boolean).join(": ") : m.status;
    const again = el("button", { class: "button", type: "button", "data-id": m.id, "aria-label": "Requeue message " + m.id, onclick: (e) => this.requeue(m.id, e.currentTarget) }, "Requeue");
    return el("tr", {}, el("td", {}, moment(m.accepted_at), el("code", { class: "id" }, m.id)), el("td", {}, m.account), el("td", {}, m.channel), el("td", {}, m.to ?? ""), el("td", {}, m.client_ref ?? ""), el("td", {}, why), el("td", {}, again));
  }
}

function settled(button) { button.disabled = true; say(button, "Requeued"); }

let questions = 0;
function sure(title, text, verb) {
  const mine = ++questions;
  const dialog = $("sure-dialog");
  say($("sure-title"), title); say($("sure-text"), text); say($("sure-yes"), verb);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", function closed() {
      if (dialog.open) return; // told late, of the question before this one
      dialog.removeEventListener("close", closed);
      resolve(mine === questions && dialog.returnValue === "yes");
    });
  });
}

let hide;
function toast(text) {
  say($("toast"), text);
  mark($("toast"), "hidden", false);
  clearTimeout(hide);
  hide = setTimeout(() => mark($("toast"), "hidden", true), 5000 + 70 * text.length); // long enough to be read
}
