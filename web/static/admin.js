// What an operator does from the page. The admin token is kept in this module
// alone and sent as a bearer: without a cookie there is nothing that another
// site could make the browser send.
import { $, el, mark, say } from "./dom.js";
import { moment } from "./words.js";

let token = "";

/** call sends one request to /admin/v1 and returns its JSON, or throws an Error with the refusal's words. */
async function call(method, path, body, shown = token) {
  let answer;
  try {
    answer = await fetch("/admin/v1" + path, {
      method, cache: "no-store", credentials: "omit", redirect: "error",
      headers: { Authorization: "Bearer " + shown, ...(body ? { "Content-Type": "application/json" } : {}) },
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch {
    throw new Error("The appliance does not answer.");
  }
  const text = await answer.text();
  let value;
  try { value = text ? JSON.parse(text) : {}; } catch { value = {}; }
  if (answer.ok) return value;
  const refused = new Error(value.detail || value.title || `The appliance answers ${answer.status}.`);
  refused.status = answer.status;
  throw refused;
}

export class Admin {
  constructor(onChange) {
    this.onChange = onChange;
    this.cursor = "";
    for (const id of ["login", "login-failed"]) $(id).addEventListener("click", () => (this.loggedIn ? this.logOut() : this.ask()));
    $("login-cancel").addEventListener("click", () => $("login-dialog").close());
    $("login-form").addEventListener("submit", (e) => { e.preventDefault(); this.logIn($("token").value.trim()); });
    $("login-dialog").addEventListener("close", () => { $("token").value = ""; });
    $("failed-search").addEventListener("submit", (e) => { e.preventDefault(); this.search(false); });
    $("failed-more").addEventListener("click", () => this.search(true));
  }

  get loggedIn() { return token !== ""; }

  ask() {
    say($("login-wrong"), "");
    $("login-dialog").showModal();
    $("token").focus();
  }

  async logIn(text) {
    try {
      await call("GET", "/status", undefined, text);
    } catch (e) {
      say($("login-wrong"), e.status === 401 ? "That is not the admin token." : e.message);
      $("token").select();
      return;
    }
    token = text;
    $("login-dialog").close();
    this.changed();
    this.search(false);
  }

  logOut() { token = ""; $("failed").replaceChildren(); this.changed(); }

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
    return this.act(`Go back to configuration ${version}?`, "It is validated and applied as a new version; what needs a restart is said.", "Go back", "POST", `/config/rollback`, { version }, "The configuration is back at version " + version + ".");
  }

  async requeue(id, button) {
    let refused;
    const done = await this.act("Send this message again?", "It is accepted anew, in the lane low, with a fresh count of attempts.", "Requeue", "POST", "/messages/requeue", { ids: [id] }, (answer) => {
      refused = answer.refused?.length;
      return refused ? "Not done: it has not failed, or is not there any more." : answer.repeated ? "It was requeued before." : "It is in the queue again.";
    });
    if (done && !refused) { button.disabled = true; say(button, "Requeued"); }
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
    say($("failed-note"), $("failed").children.length === 0 ? "None." : `${$("failed").children.length} shown, the newest first.`);
  }

  row(m) {
    const why = m.error ? [m.error.code, m.error.message].filter(Boolean).join(": ") : m.status;
    const again = el("button", { class: "button", type: "button", "aria-label": "Requeue message " + m.id, onclick: (e) => this.requeue(m.id, e.currentTarget) }, "Requeue");
    return el("tr", {}, el("td", { title: m.id }, moment(m.accepted_at)), el("td", {}, m.account), el("td", {}, m.channel), el("td", {}, m.to ?? ""), el("td", {}, m.client_ref ?? ""), el("td", {}, why), el("td", {}, again));
  }
}

function sure(title, text, verb) {
  const dialog = $("sure-dialog");
  say($("sure-title"), title); say($("sure-text"), text); say($("sure-yes"), verb);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

let hide;
function toast(text) {
  say($("toast"), text);
  mark($("toast"), "hidden", false);
  clearTimeout(hide);
  hide = setTimeout(() => mark($("toast"), "hidden", true), 7000);
}
