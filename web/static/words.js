// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en");

export function count(n) {
  n = Number(n) || 0;
  if (n >= 10_000_000) return (n / 1e6).toFixed(1) + " M";
  return whole.format(Math.round(n));
}

/** brief is count in few letters, for axes and large figures. */
export function brief(n) {
  if (n >= 1e6) return trim(n / 1e6) + "M";
  if (n >= 10_000) return trim(n / 1e3) + "k";
  return n !== 0 && n < 10 && n % 1 !== 0 ? trim(n) : whole.format(Math.round(n));
}
const trim = (n) => (n >= 100 ? n.toFixed(0) : n.toFixed(1).replace(/\.0$/, ""));

/** rate has one digit after the point where it says something. */
export const rate = (n) => (n > 0 && n < 9.95 ? n.toFixed(1) : brief(n));

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1).replace(/\.0$/, "")) + " " + units[i];
}

/** took writes a time in seconds. */
export function took(s) {
  if (!(s > 0)) return "0 ms";
  if (s < 0.001) return Math.round(s * 1e6) + " µs";
  if (s < 1) return (s < 0.01 ? trim(s * 1000) : Math.round(s * 1000)) + " ms";
  if (s < 10) return s.toFixed(1) + " s";
  if (s < 120) return Math.round(s) + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  if (s < 172800) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " days";
}

export const percent = (x) => (x > 0 && x < 0.0995 ? trim(100 * x) : Math.round(100 * x)) + " %";
export const clock = (t) => new Date(t).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
export const moment = (t) => new Date(t).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
export const plural = (n, one, many) => count(n) + " " + (Math.round(n) === 1 ? one : many);
export const sum = (o) => Object.values(o ?? {}).reduce((a, b) => a + Number(b), 0);
/** past is how long ago a time is, by the appliance's own clock. */
export function past(t, now) {
  const s = (new Date(now) - new Date(t)) / 1000;
  return s < 1 ? "a moment" : took(s);
}
