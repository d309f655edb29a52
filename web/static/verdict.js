// One sentence: is it well, and if not, what is to be done.
import { count, moment, past, plural, rate, sum, took } from "./words.js";

const signs = {
  ok: ["M32 2a30 30 0 1 0 0 60 30 30 0 0 0 0-60z", "M19 33l9 9 17-19"],
  warn: ["M32 4a5 5 0 0 1 4.4 2.6l25 46A5 5 0 0 1 57 60H7a5 5 0 0 1-4.4-7.4l25-46A5 5 0 0 1 32 4z", "M32 22v17M32 49v.5"],
  bad: ["M20.5 2h23a3 3 0 0 1 2.1.9l15.5 15.5a3 3 0 0 1 .9 2.1v23a3 3 0 0 1-.9 2.1L45.6 61.1a3 3 0 0 1-2.1.9h-23a3 3 0 0 1-2.1-.9L2.9 45.6a3 3 0 0 1-.9-2.1v-23a3 3 0 0 1 .9-2.1L18.4 2.9A3 3 0 0 1 20.5 2z", "M22 22l20 20M42 22L22 42"],
  wait: ["M32 2a30 30 0 1 0 0 60 30 30 0 0 0 0-60z", "M18 32h28"],
};
export const signOf = (state) => signs[state];

// What an alert's name means, said large.
const headlines = {
  acceptance_latency: () => "Answers are slow.",
  error_rate: () => "Submissions are failing.",
  backlog_age: () => "Messages are waiting too long.",
  database_down: (s) => (s.store.kind === "embedded" ? "The store takes no messages." : "The database is down."),
  breaker_open: (s, a) => a.subject + " cannot be reached.",
  breaker_forced: (s, a) => "The breaker of " + a.subject + " is held " + (s.breakers?.find((b) => b.name === a.subject)?.forced ?? "") + " by hand.",
  channel_stopped: (s, a) => "Channel " + a.subject + " has stopped.",
  channel_throttled: (s, a) => "The service of channel " + a.subject + " wants a pause.",
  webhook_host_off: (s, a) => "A webhook address at " + a.subject + " is switched off.",
  webhook_host_failing: (s, a) => "A webhook address at " + a.subject + " keeps failing.",
  disk: (s) => (s.log.full ? "The disk is full." : "Disk space runs low."),
  memory: () => "Memory runs low.",
  pressure: (s, a) => (a.severity === "critical" ? "Only critical messages get in." : "Low-priority messages are refused."),
  raft_no_leader: () => "The cluster has no leader.",
  raft_member_away: (s, a) => a.subject.replace(/^n/, "N") + " is away.",
  limits_degraded: () => "Limits run on reserve.",
  config_drift: () => "The configuration has drifted.",
  config_reload_failed: () => "The last reload failed.",
  certificate_ends: () => "A certificate is about to end.",
  messages_missing: () => "Messages are missing.",
};
export const alertTitle = (s, a) => (headlines[a.name]?.(s, a) ?? a.name.replaceAll("_", " ")).replace(/\.$/, "");

const worstOf = (s) => (s.draining ? undefined : (s.alerts ?? []).find((a) => a.severity !== "notice"));

/** headOf is the alert that the sentence is about: the worst, if it is more than a
 *  notice. That submissions fail is said by what has them fail, where that is known. */
export function headOf(s) {
  const worst = worstOf(s);
  if (worst?.name !== "error_rate") return worst;
  return (s.log.full && s.alerts.find((a) => a.name === "disk")) || s.alerts.find((a) => a.name === "pressure") || worst;
}

/** verdictOf returns {state, title, more, todo} for a picture, or for none. */
export function verdictOf(s, link) {
  if (!s) {
    return link === "gone"
      ? { state: "bad", title: "The appliance does not answer.", more: "This page tries again by itself.", todo: "On its machine: `systemctl status forebay`, then `journalctl -u forebay -n 50`." }
      : { state: "wait", title: "Looking …", more: "", todo: "" };
  }
  if (link === "gone") {
    const was = `The figures below are from ${moment(s.at)}. This page tries again by itself.`;
    return s.draining
      ? { state: "warn", title: "The appliance has stopped.", more: "It went in good order; nothing accepted is lost. " + was, todo: "If it is not about to start again: `systemctl start forebay`." }
      : { state: "bad", title: "The appliance is gone.", more: was + " What it accepted is on its disk.", todo: "On its machine: `systemctl status forebay`, then `journalctl -u forebay -n 50`." };
  }
  if (s.draining) {
    return { state: "warn", title: "Stopping in good order.", more: "New messages are refused; what was accepted is being brought to safety.", todo: "" };
  }
  const head = headOf(s);
  if (head) {
    const others = s.alerts.length - 1;
    return {
      state: worstOf(s).severity === "critical" ? "bad" : "warn", title: headlines[head.name]?.(s, head) ?? alertTitle(s, head) + ".",
      more: [head.summary, head.name === "database_down" ? safe(s) : "", others > 0 ? plural(others, "more alert", "more alerts") + " below." : ""].filter(Boolean).join(" "),
      label: "What to do (so for " + past(head.since, s.at) + " now)", todo: head.what_to_do,
    };
  }
  if (s.health === "unready") return { state: "bad", title: "Submissions are refused.", more: "A part is not ready yet.", todo: "If it stays so: `forebay status`, and `journalctl -u forebay -n 50`." };
  if (s.intake.accepted_total === 0 && waiting(s) === 0) {
    return { state: "ok", title: "Ready, and waiting for the first message.", more: "Everything is in place. Make an account and a key, and send something.",
      label: "To begin", todo: "`forebay account create acme --tier premium`, `forebay key create acme`, and with that key in FOREBAY_KEY `forebay send Hello`." };
  }
  return { state: "ok", title: "All is well.", more: flow(s), todo: "" };
}

const waiting = (s) => sum(s.log.backlog);
const safe = (s) => `${plural(waiting(s), "message waits", "messages wait")} safely in the log.`;

function flow(s) {
  const out = waiting(s);
  const held = out === 0 ? "nothing waits" : `${plural(out, "message is", "messages are")} on the way to the database`;
  if (s.intake.rate < 0.05) return `It is quiet: ${held}. ${count(s.intake.accepted_total)} accepted since the start.`;
  return `${rate(s.intake.rate)} messages a second come in, each safe on disk in ${took(s.intake.latency.p50)}; ${held}.`;
}
