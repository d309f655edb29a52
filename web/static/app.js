// The page: it gets a picture each second, keeps the last hour, and draws.
import { $, mark, say, withCode } from "./dom.js";
import { Feed } from "./feed.js";
import { Chart } from "./chart.js";
import { Admin } from "./admin.js";
import { signOf, verdictOf } from "./verdict.js";
import { brief, percent, took } from "./words.js";
import * as sections from "./sections.js";

const hour = 3600;
let picture;          // the last status
let points = [];      // of the last hour: {t, v: {column: value}}
let columns = [];
let link = "late", age, spoken;

const admin = new Admin(() => draw());
const perSecond = (v, axis) => brief(v) + (axis ? "" : "/s");
const charts = [
  new Chart({ title: "Messages", format: perSecond, series: [{ column: "accepted_rate", name: "accepted", colour: "water", area: true }, { column: "stored_rate", name: "stored", colour: "normal" }, { column: "refused_rate", name: "refused", colour: "bad" }] }),
  new Chart({ title: "Time to a durable answer", format: (v) => (v === 0 ? "0" : took(v)), floor: 0.004, series: [{ column: "p50", name: "p50", colour: "water", area: true }, { column: "p99", name: "p99", colour: "critical" }] }),
  new Chart({ title: "Waiting in the log", format: (v) => brief(v), stacked: true, series: ["critical", "high", "normal", "low"].map((l) => ({ column: "backlog_" + l, name: l, colour: l, area: true })) }),
  new Chart({ title: "Pressure and memory", format: (v) => percent(v), floor: 0.2, series: [{ column: "pressure", name: "highest signal", colour: "water", area: true }, { column: "memory", name: "memory", colour: "normal" }] }),
];
$("charts").append(...charts.map((c) => c.node));

function addPoint(row) {
  const p = { t: row[0], v: Object.fromEntries(columns.map((name, i) => [name, row[i + 1]])) };
  if (points.length && p.t <= points.at(-1).t) return;
  points.push(p);
  while (points.length && points[0].t < p.t - hour) points.shift();
}

/** fetchHistory gets what the charts do not have yet: all of it at first, later what a gap hid. */
let fetching = false;
async function fetchHistory() {
  if (fetching) return;
  fetching = true;
  try {
    const since = points.length ? Math.floor(points.at(-1).t) : 0;
    const answer = await fetch("/history.json?since=" + since, { cache: "no-store" });
    if (!answer.ok) return;
    const h = await answer.json();
    columns = h.columns;
    h.points.forEach(addPoint);
    drawCharts();
  } catch { /* it is gone; the feed says so */ } finally { fetching = false; }
}

function drawCharts() {
  const now = points.length ? Math.max(points.at(-1).t, picture ? Date.parse(picture.at) / 1000 : 0) : Date.now() / 1000;
  for (const c of charts) c.show(points, now);
}

function drawVerdict() {
  const v = verdictOf(picture, link);
  mark(document.documentElement, "data-state", v.state);
  mark(document.documentElement, "data-link", link);
  const [shape, sign] = signOf(v.state);
  mark($("sign-shape"), "d", shape);
  mark($("sign-mark"), "d", sign);
  say($("verdict"), v.title);
  withCode($("verdict-more"), v.more);
  withCode($("verdict-do-text"), v.todo);
  say($("verdict-do-title"), v.label ?? "What to do");
  mark($("verdict-do"), "hidden", !v.todo);
  // A screen reader is told when the sentence changes, not each second with every figure.
  if (v.title !== spoken) { spoken = v.title; say($("spoken"), v.title + (v.todo ? " What to do: " + v.todo.replaceAll("`", "") : "")); }
  const title = v.title.replace(/\.$/, "") + " · Forebay" + (picture ? " " + picture.node : "");
  if (document.title !== title) document.title = title;
  mark($("icon"), "href", `/assets/icon-${v.state}.svg`);
  say($("link-text"), { live: "Live", late: picture ? "Waiting for news" : "Connecting", gone: picture ? `No answer for ${took(Math.max(1, age))}` : "No answer" }[link]);
}

function draw() {
  drawVerdict();
  if (!picture) return;
  const s = picture;
  say($("who-node"), `Node ${s.node}, version ${s.version}, up ${took(s.uptime)}`);
  sections.alerts(s);
  sections.way(s);
  sections.lanesPart(s);
  sections.pressure(s);
  sections.store(s);
  sections.intake(s);
  sections.channels(s);
  sections.breakers(s, admin);
  sections.limiter(s);
  sections.raft(s);
  sections.config(s, admin);
}

const feed = new Feed({
  onOpen: fetchHistory,
  onLink: (now, seconds) => { link = now; age = seconds; drawVerdict(); },
  onStatus: (status) => {
    picture = status;
    if (status.point && columns.length) addPoint(status.point);
    if (points.length && Date.parse(status.at) / 1000 - points.at(-1).t > 15) fetchHistory();
    draw();
    drawCharts();
  },
});
addEventListener("pagehide", () => feed.source?.close());
