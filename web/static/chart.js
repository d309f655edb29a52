// Charts of the last hour, drawn as SVG.
import { el, say, svg } from "./dom.js";
import { clock } from "./words.js";

const minute = 60, gap = 12; // s: points further apart are not joined
const pad = { top: 10, right: 8, bottom: 22, left: 54 };

/**
 * Chart draws series of points {t, v: {column: value}}. A series is {column, name,
 * colour, area}; stacked ones are laid upon each other. limit is an optional
 * horizontal line.
 */
export class Chart {
  constructor({ title, series, stacked = false, format, floor = 1, limit }) {
    Object.assign(this, { title, series, stacked, format, floor, limit, points: [], at: null });
    this.keys = series.map((s) => {
      const value = el("b", {}, "–");
      return { value, node: el("span", { class: "key" }, el("i", { class: "c-" + s.colour }), s.name + " ", value) };
    });
    this.when = el("span", { class: "key" });
    this.plot = svg("svg", { class: "plot", tabindex: "0", role: "img" });
    this.node = el("figure", { class: "chart" }, el("figcaption", {}, el("h3", {}, title), ...this.keys.map((k) => k.node), this.when), this.plot);
    this.plot.addEventListener("pointermove", (e) => this.point((e.clientX - this.plot.getBoundingClientRect().left - pad.left) / this.inner.w));
    this.plot.addEventListener("pointerleave", () => { this.at = null; this.draw(); });
    this.plot.addEventListener("blur", () => { this.at = null; this.draw(); });
    this.plot.addEventListener("keydown", (e) => this.key(e));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  get inner() {
    const box = this.plot.getBoundingClientRect();
    return { w: Math.max(10, box.width - pad.left - pad.right), h: Math.max(10, box.height - pad.top - pad.bottom), width: box.width, height: box.height };
  }

  point(share) {
    if (!this.points.length) return;
    const t = this.from + share * (this.to - this.from);
    let best = 0;
    this.points.forEach((p, i) => { if (Math.abs(p.t - t) < Math.abs(this.points[best].t - t)) best = i; });
    this.at = best;
    this.draw();
  }

  key(e) {
    const last = this.points.length - 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -12, PageDown: 12, Home: -Infinity, End: Infinity }[e.key];
    if (e.key === "Escape") this.at = null;
    else if (step && last >= 0) this.at = Math.min(last, Math.max(0, (this.at ?? last) + step));
    else return;
    e.preventDefault();
    this.draw();
  }

  /** show takes the points and the time that now is, in seconds. */
  show(points, now) {
    if (this.at !== null && this.points[this.at]) { // the same moment, though points have moved on
      const t = this.points[this.at].t;
      this.at = points.findIndex((p) => p.t === t);
      if (this.at < 0) this.at = null;
    }
    // A picture comes each second, a point each few, and a pixel is a few seconds, too.
    if (this.drawn && points.at(-1)?.t === this.drawn.last && now - this.to < (this.to - this.from) / this.drawn.width) return;
    this.points = points;
    this.to = now;
    const oldest = points.length ? now - points[0].t : 0;
    const span = oldest > 14 * minute ? 60 * minute : 15 * minute;
    this.from = now - span;
    this.draw();
  }

  draw() {
    const box = this.inner, points = this.points;
    if (!this.to || box.width < 60) return;
    this.drawn = { last: points.at(-1)?.t, width: box.w };
    const value = (p, i) => (this.stacked ? this.series.slice(0, i + 1).reduce((sum, s) => sum + (p.v[s.column] ?? 0), 0) : p.v[this.series[i].column] ?? 0);
    let top = this.floor;
    for (const p of points) if (p.t >= this.from) for (let i = 0; i < this.series.length; i++) top = Math.max(top, value(p, i));
    const { ceiling, ticks } = scale(top);
    const x = (t) => pad.left + ((t - this.from) / (this.to - this.from)) * box.w;
    const y = (v) => pad.top + box.h - (Math.min(v, ceiling) / ceiling) * box.h;
    const marks = ticks.flatMap((v) => [
      svg("line", { class: "grid", x1: pad.left, x2: pad.left + box.w, y1: y(v), y2: y(v) }),
      svg("text", { x: pad.left - 7, y: y(v) + 4, "text-anchor": "end" }, this.format(v, true)),
    ]);
    const every = (box.w < 380 ? 2 : 1) * (this.to - this.from > 20 * minute ? 15 * minute : 5 * minute);
    for (let t = Math.ceil(this.from / every) * every; t <= this.to; t += every) {
      if (x(t) < pad.left + 14 || x(t) > pad.left + box.w - 14) continue;
      marks.push(svg("text", { x: x(t), y: box.height - 5, "text-anchor": "middle" }, clock(t * 1000)));
    }
    const runs = runsOf(points.filter((p) => p.t >= this.from));
    const shapes = [];
    for (let i = this.series.length - 1; i >= 0; i--) {
      const s = this.series[i];
      if (!points.some((p) => p.v[s.column] > 0)) continue; // a line along the floor says nothing
      for (const run of runs) {
        const line = run.map((p, n) => (n ? "L" : "M") + x(p.t).toFixed(1) + " " + y(value(p, i)).toFixed(1)).join("");
        if (s.area) {
          const under = this.stacked && i > 0 ? [...run].reverse().map((p) => "L" + x(p.t).toFixed(1) + " " + y(value(p, i - 1)).toFixed(1)).join("")
            : `L${x(run.at(-1).t).toFixed(1)} ${y(0)}L${x(run[0].t).toFixed(1)} ${y(0)}`;
          shapes.push(svg("path", { class: `area ${this.stacked ? "full" : ""} c-${s.colour}`, d: line + under + "Z" }));
        }
        if (!this.stacked) shapes.push(svg("path", { class: "trace c-" + s.colour, d: line }));
      }
    }
    if (this.limit && this.limit() <= ceiling) shapes.push(svg("line", { class: "limit", x1: pad.left, x2: pad.left + box.w, y1: y(this.limit()), y2: y(this.limit()) }));
    const shown = points[this.at ?? points.length - 1];
    if (this.at !== null && shown) shapes.push(svg("line", { class: "cursor", x1: x(shown.t), x2: x(shown.t), y1: pad.top, y2: pad.top + box.h }));
    if (!points.length) marks.push(svg("text", { x: pad.left + box.w / 2, y: pad.top + box.h / 2 + 4, "text-anchor": "middle" }, "The first points come in a few seconds."));
    this.plot.replaceChildren(...marks, ...shapes);
    this.series.forEach((s, i) => say(this.keys[i].value, shown ? this.format(shown.v[s.column] ?? 0) : "–"));
    say(this.when, this.at !== null && shown ? "at " + clock(shown.t * 1000) : "");
    this.plot.setAttribute("aria-label", this.spoken(shown));
  }

  spoken(shown) {
    if (!shown) return this.title + ": nothing yet.";
    const highest = (c) => this.points.reduce((m, p) => Math.max(m, p.v[c] ?? 0), 0);
    return `${this.title}, ${this.at === null ? "now" : "at " + clock(shown.t * 1000)}: ` +
      this.series.map((s) => `${s.name} ${this.format(shown.v[s.column] ?? 0)} (highest ${this.format(highest(s.column))})`).join(", ") + ".";
  }
}

/** runsOf parts points where the appliance was not there. */
function runsOf(points) {
  const runs = [];
  for (const p of points) {
    const run = runs.at(-1);
    if (run && p.t - run.at(-1).t <= gap) run.push(p);
    else runs.push([p]);
  }
  return runs;
}

/** scale returns a round ceiling over top, and two to four round ticks. */
function scale(top) {
  const power = 10 ** Math.floor(Math.log10(top / 3));
  const unit = [1, 2, 2.5, 5, 10].map((m) => m * power).find((u) => u * 3.9 >= top) ?? 10 * power;
  const n = Math.max(2, Math.ceil(top / unit));
  return { ceiling: n * unit, ticks: Array.from({ length: n + 1 }, (_, i) => i * unit) };
}
