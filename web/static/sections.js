// What each part of the page shows of a picture.
import { $, el, facts, list, mark, say, withCode } from "./dom.js";
import { bytes, brief, count, moment, past, percent, plural, rate, sum, took } from "./words.js";
import { alertTitle, headOf } from "./verdict.js";

const lanes = ["critical", "high", "normal", "low"];
const severityClass = { critical: "bad", warning: "warn", notice: "" };
const show = (id, there) => mark($(id), "hidden", !there);

/** alerts lists those beside the one that the sentence at the top is about. */
export function alerts(s) {
  const all = (s.alerts ?? []).filter((a) => a !== headOf(s));
  show("alerts-section", all.length > 0);
  list($("alerts"), all, (a) => a.name + " " + (a.subject ?? ""), () =>
    el("li", { class: "alert new" }, el("span", { class: "tag" }), el("span", { class: "alert-name" }), el("span", { class: "alert-since" }), el("p"), el("p", { class: "do" })),
  (e, a) => {
    const [tag, name, since, summary, todo] = e.children;
    tag.className = "tag " + (severityClass[a.severity] ?? "");
    say(tag, a.severity);
    say(name, alertTitle(s, a));
    say(since, "for " + past(a.since, s.at));
    say(summary, a.summary);
    withCode(todo, a.what_to_do);
  });
}

export function way(s) {
  const waiting = sum(s.log.backlog), refused = s.intake.refused_rate;
  say($("in-rate"), rate(s.intake.rate));
  say($("in-note"), refused >= 0.05 ? `${rate(refused)}/s refused` : s.intake.latency.p99 > 0 ? `99 of 100 safe on disk within ${took(s.intake.latency.p99)}` : `${count(s.intake.accepted_total)} since the start`);
  $("stop-in").classList.toggle("tense", refused >= 0.05);
  say($("log-waiting"), brief(waiting));
  say($("log-note"), waiting === 0 ? (s.log.parked > 0 ? `${count(s.log.parked)} parked for later` : "nothing waits") : `the oldest for ${took(s.log.oldest_age_seconds)}${s.log.backpressure ? "; backpressure is on" : ""}`);
  // The basin is full at the capacity of the window; a root makes small amounts visible.
  const fill = s.log.capacity ? Math.min(1, Math.sqrt(waiting / s.log.capacity)) : 0;
  $("water-level").style.transform = `translateY(${(98 - 88 * fill).toFixed(1)}px)`;
  say($("store-rate"), rate(s.store.rate));
  say($("store-note"), s.store.up && s.store.batch_size === 0 ? "nothing yet" : s.store.up ? `a batch of ${count(s.store.batch_size)} in ${took(s.store.latency.p50)}` : "the database is down" + (s.store.down_since ? " for " + past(s.store.down_since, s.at) : ""));
  $("stop-store").classList.toggle("down", !s.store.up);
  const channels = s.channels ?? [];
  say($("out-rate"), rate(channels.reduce((n, c) => n + c.rate, 0)));
  const closed = channels.filter((c) => c.breaker && c.breaker !== "closed").map((c) => c.name);
  say($("out-note"), channels.length === 0 ? "no channel is switched on" : closed.length ? "waiting for " + closed.join(", ") : channels.map((c) => c.name).join(", "));
  $("stop-out").classList.toggle("tense", closed.length > 0);
}

export function lanesPart(s) {
  const all = sum(s.log.backlog);
  list($("lanes"), lanes, (l) => l, (l) =>
    el("tr", {}, el("td", {}, l), el("td", {}, el("span", { class: "track" }, el("span", { class: "c-" + l }))), el("td", { class: "n" })),
  (e, l) => {
    const n = s.log.backlog[l] ?? 0;
    e.children[1].firstElementChild.firstElementChild.style.transform = `scaleX(${all ? n / all : 0})`;
    say(e.children[2], count(n));
  });
  facts($("lanes-more"), [
    ["Oldest waits for", all ? took(s.log.oldest_age_seconds) : "–"], ["Parked", count(s.log.parked)],
    ["On disk", s.log.disk_limit_bytes ? `${bytes(s.log.disk_bytes)} of ${bytes(s.log.disk_limit_bytes)}` : bytes(s.log.disk_bytes)],
    ["Disk free", s.log.free_bytes ? bytes(s.log.free_bytes) : ""], ["Append, p99", took(s.log.append_latency.p99)],
  ]);
}

const rungs = [["normal", ""], ["elevated", ""], ["high", "warn"], ["critical", "bad"]];
export function pressure(s) {
  show("part-pressure", s.pressure || s.memory);
  const level = s.pressure ? rungs.findIndex(([name]) => name === s.pressure.level) : -1;
  show("ladder", s.pressure);
  list($("ladder"), rungs, ([name]) => name, ([name]) => el("li", {}, name), (e, [name]) => {
    const at = rungs.findIndex(([n]) => n === name);
    e.className = at <= level ? "on " + rungs[level][1] : "";
    mark(e, "aria-current", at === level ? "step" : false);
  });
  const signals = s.pressure?.signals?.length ? s.pressure.signals : s.memory?.limit_bytes ? [{ name: "memory", value: s.memory.used_bytes / s.memory.limit_bytes }] : [];
  list($("signals"), signals, (g) => g.name, (g) => el("div", { class: "signal" }, el("span", {}, g.name), el("span", { class: "track" }, el("span")), el("b")), (e, g) => {
    // In the colour of the rung that it asks for: a full window stands on a lower one.
    const bar = e.children[1].firstElementChild;
    bar.className = "c-" + (rungs.find(([name]) => name === g.level)?.[1] || "water");
    bar.style.transform = `scaleX(${Math.min(1, Math.max(0, g.value))})`;
    say(e.children[2], g.value < 9.995 ? percent(g.value) : brief(Math.round(g.value)) + " ×");
    mark(e, "title", g.detail);
  });
}

export function store(s) {
  const p = s.store.pool;
  facts($("store"), [
    ["Kind", s.store.kind === "postgres" ? "PostgreSQL" : "embedded"], ["State", s.store.up ? "up" : "down"],
    ["Down for", s.store.down_since ? past(s.store.down_since, s.at) : ""], ["Why", s.store.up ? "" : s.store.detail],
    ["Rows", rate(s.store.rate) + "/s"], ["Last batch", count(s.store.batch_size)], ["A batch, p99", s.store.latency.p99 > 0 ? took(s.store.latency.p99) : "–"],
    ["Connections", p ? `${p.acquired} busy, ${p.idle} idle, of ${p.max}` : ""],
  ]);
  $("store").classList.toggle("down", !s.store.up);
}

export function intake(s) {
  const refused = Object.entries(s.intake.refused ?? {}).sort((a, b) => b[1] - a[1]);
  facts($("intake"), [
    ["Accepted since the start", count(s.intake.accepted_total)], ["Answer, p50", took(s.intake.latency.p50)], ["Answer, p90", took(s.intake.latency.p90)],
    ["Answer, p99", took(s.intake.latency.p99)], ["Server errors, lately", percent(s.intake.error_rate)],
    ...refused.slice(0, 6).map(([code, n]) => ["Refused: " + code, count(n)]),
  ]);
}

const stateTag = { closed: ["ok", "closed"], "half-open": ["warn", "half-open"], open: ["bad", "open"], stopped: ["bad", "stopped"] };
function breakerTag(e, state) {
  const [kind, text] = stateTag[state] ?? ["", state || "–"];
  e.className = "tag " + kind;
  say(e, text);
}

export function channels(s) {
  show("part-channels", s.channels?.length);
  list($("channels"), s.channels ?? [], (c) => c.name, (c) => el("tr", {}, el("th", { scope: "row" }, c.name, " ", el("span"), el("small")), ...Array.from({ length: 4 }, () => el("td", { class: "n" }))), (e, c) => {
    say(e.firstElementChild.lastElementChild, c.stopped_for || (c.throttled_until ? "throttled until " + moment(c.throttled_until) : ""));
    [rate(c.rate), count(c.queued + c.in_flight), count(c.parked), count(c.failed)].forEach((text, i) => say(e.children[i + 1], text));
    breakerTag(e.firstElementChild.firstElementChild, c.stopped_for ? "stopped" : c.breaker);
  });
}

/** breakers lists those that are not simply closed first, and with buttons for an admin. */
export function breakers(s, admin) {
  const all = [...(s.breakers ?? [])].sort((a, b) => (a.state === "closed") - (b.state === "closed") || a.name.localeCompare(b.name)).slice(0, 40);
  show("part-breakers", s.breakers);
  show("breakers-empty", all.length === 0);
  list($("breakers"), all, (b) => b.name, (b) => {
    const force = (verb, text, label) => el("button", { class: "button", type: "button", "data-verb": verb, "aria-label": label + b.name, onclick: () => admin.force(b.name, verb) }, text);
    return el("li", {}, el("span", { class: "tag" }), el("span", { class: "grow" }, b.name, el("small")), el("span", { class: "buttons" }, force("open", "Hold open", "Hold open the breaker of "), force("close", "Hold closed", "Hold closed the breaker of "), force("auto", "Automatic", "Automatic again: the breaker of ")));
  }, (e, b) => {
    breakerTag(e.children[0], b.state);
    say(e.children[1].lastElementChild, [
      b.forced ? `held ${b.forced}${b.forced_by ? " by " + b.forced_by : ""} since ${moment(b.forced_at)}` : "", b.open_on?.length ? "on node " + b.open_on.join(", ") : "", b.state !== "closed" && b.since ? "for " + past(b.since, s.at) : "",
      b.waiting ? plural(b.waiting, "message waits", "messages wait") : "", b.next_probe ? "probe at " + moment(b.next_probe) : "", b.reason, b.host_note,
    ].filter(Boolean).join(" · "));
    mark(e.children[2], "hidden", !admin.loggedIn);
    for (const button of e.children[2].children) {
      const verb = button.dataset.verb;
      button.disabled = verb === "auto" ? !b.forced : (b.forced === "open" && verb === "open") || (b.forced === "closed" && verb === "close");
    }
  });
}

export function limiter(s) {
  show("part-limiter", s.limiter);
  if (!s.limiter) return;
  facts($("limiter"), [["Counting", s.limiter.degraded ? "on reserve: no quorum" : s.limiter.mode], ["Leases held", count(s.limiter.leases)], ["Group commands", rate(s.limiter.commands_per_second) + "/s"], ["Limited since the start", count(s.limiter.limited)]]);
  const top = s.limiter.top_accounts ?? [];
  show("top-table", top.length);
  list($("top"), top, (a) => a.account, (a) => el("tr", {}, el("td"), el("td", { class: "n" }), el("td", { class: "n" })), (e, a) => {
    say(e.children[0], a.account + " (" + a.tier + ")"); say(e.children[1], count(a.rate)); say(e.children[2], count(a.limit));
  });
}

export function raft(s) {
  list($("members"), s.raft.members ?? [], (m) => m.node, (m) => el("li", {}, el("span", { class: "tag" }), el("span", { class: "grow" }, `Node ${m.node}` + (m.node === s.node ? ", this one" : ""), el("small"))), (e, m) => {
    const away = m.reachable === false;
    e.children[0].className = "tag " + (away ? "bad" : m.role === "leader" ? "ok" : "");
    say(e.children[0], away ? "away" : m.role);
    say(e.children[1].lastElementChild, m.address + (m.lag > 0 ? ` · ${plural(m.lag, "entry", "entries")} behind` : ""));
  });
  const alone = (s.raft.members ?? []).length <= 1;
  say($("raft-more"), s.raft.leader === 0 ? "No leader." : alone ? "A cluster of one." : `Node ${s.raft.leader} leads, term ${s.raft.term}.`);
}

export function config(s, admin) {
  facts($("config"), [["Version", String(s.config.version)], ["Loaded", moment(s.config.loaded_at)], ["Differs", s.config.drift?.join(", ")], ["Last reload", s.config.last_error ? "failed: " + s.config.last_error : ""]]);
  list($("versions"), (s.config.history ?? []).slice(0, 6), (v) => v.version + v.outcome, (v) =>
    el("li", {}, el("span", { class: "grow" }, "Version " + v.version, el("small", {}, [moment(v.at), v.who, v.changed?.join(", "), v.outcome.replaceAll("_", " ")].filter(Boolean).join(" · "))),
      el("button", { class: "button", type: "button", "aria-label": "Go back to version " + v.version, onclick: () => admin.rollback(v.version) }, "Go back to it")),
  (e, v) => mark(e.lastElementChild, "hidden", !admin.loggedIn || v.version === s.config.version));
}
