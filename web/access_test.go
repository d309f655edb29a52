package web_test

import (
	"testing"

	"github.com/chromedp/chromedp"
)

// audit is what this project asks of the page for people who see little, or
// nothing, or use no mouse. It returns a sentence for each breach. Contrast is
// computed from the colours that the browser really uses (WCAG 2.2, 1.4.3).
const audit = `(() => {
  const wrong = [], named = (e) => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "") + " '" + e.textContent.trim().slice(0, 30) + "'";
  const visible = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && e.getClientRects().length > 0 && !e.closest(".sr, .skip");
  const x = document.createElement("canvas").getContext("2d", { willReadFrequently: true }), known = new Map(); // to read a colour back takes long
  const parse = (c) => known.get(c) ?? known.set(c, read(c)).get(c);
  const read = (c) => { x.clearRect(0, 0, 1, 1); x.fillStyle = c; x.fillRect(0, 0, 1, 1); return [...x.getImageData(0, 0, 1, 1).data].map((v, i) => i === 3 ? v / 255 : v); };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const ground = (e) => { const layers = []; for (let n = e; n; n = n.parentElement) { const c = parse(getComputedStyle(n).backgroundColor); layers.push(c); if (c[3] === 1) break; } return layers.reverse().reduce((b, a) => over(a, b), [255, 255, 255, 1]); };
  const light = (c) => { const f = c.slice(0, 3).map((v) => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  let looked = 0;
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !visible(e) || e.disabled) continue;
    const style = getComputedStyle(e), size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const back = e.closest(".plot") ? ground(e.closest(".chart")) : ground(e), front = over(parse(e.closest("svg") ? style.fill : style.color), back);
    looked++;
    const r = ratio(front, back);
    if (r < (large ? 3 : 4.5)) wrong.push(named(e) + " has a contrast of " + r.toFixed(2));
  }
  if (looked < 60) wrong.push("only " + looked + " texts were looked at");
  for (const e of document.querySelectorAll("button, a[href], input, select, [tabindex='0'], dialog, [role=img], [role=region]")) {
    const by = (e.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("");
    const label = e.getAttribute("aria-label") || by || e.labels?.[0]?.textContent || (e.matches("button, a") ? e.textContent : "");
    if (!label?.trim()) wrong.push(named(e) + " has no name");
    const box = e.getBoundingClientRect();
    if (e.matches("button, input, select") && visible(e) && (box.width < 24 || box.height < 24)) wrong.push(named(e) + " is too small to hit");
  }
  const levels = [...document.querySelectorAll("h1, h2, h3")].filter((h) => h.checkVisibility()).map((h) => +h.tagName[1]);
  levels.forEach((l, i) => { if (i && l > levels[i - 1] + 1) wrong.push("a heading of level " + l + " follows one of level " + levels[i - 1]); });
  if (document.querySelectorAll("h1").length !== 1 || !document.documentElement.lang || !document.title) wrong.push("one h1, a language and a title are wanted");
  for (const mark of ["header", "main", "footer"]) if (document.querySelectorAll(mark).length !== 1) wrong.push("one " + mark + " is wanted");
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id is there twice");
  for (const e of document.querySelectorAll("[aria-labelledby], [for]")) for (const id of (e.getAttribute("aria-labelledby") ?? e.getAttribute("for")).split(" ")) if (!document.getElementById(id)) wrong.push(named(e) + " points at #" + id);
  for (const e of document.querySelectorAll("[style]")) if (e.closest("head")) wrong.push("a style in the head");
  return wrong;
})()`

// TestAccessible holds every state in both schemes against the audit, which must
// itself see a breach that is made for it.
func TestAccessible(t *testing.T) {
	s, ctx := newStage(t), browser(t)
	for name, status := range map[string]object{"healthy": healthy(), "database down": databaseDown(), "member away": memberAway(), "backlog growing": backlogGrowing(), "empty": empty()} {
		for _, scheme := range []string{"light", "dark"} {
			if (name == "empty" || name == "healthy") && scheme == "light" {
				continue // the others show all that these do
			}
			s.play(status, name != "empty")
			run(t, ctx, look(1280, 900, scheme), chromedp.Navigate(s.URL+"/"))
			await(t, ctx, `document.documentElement.dataset.link === "live" && document.querySelector(".plot").childElementCount > 3`)
			if name == "member away" {
				run(t, ctx, chromedp.Click("#login"), chromedp.SendKeys("#token", s.token), chromedp.Click("#login-form .primary"))
				await(t, ctx, `!document.getElementById("failed-open").hidden`)
			}
			for _, breach := range value[[]string](t, ctx, audit) {
				t.Errorf("%s, %s: %s", name, scheme, breach)
			}
		}
	}
	breaches := value[[]string](t, ctx, `(() => { document.getElementById("verdict").style.color = getComputedStyle(document.body).backgroundColor; document.getElementById("verdict").style.color = getComputedStyle(document.documentElement).backgroundColor; document.getElementById("login").textContent = ""; return `+audit+`; })()`)
	if len(breaches) < 2 {
		t.Errorf("the audit is blind: it finds %v", breaches)
	}
}
