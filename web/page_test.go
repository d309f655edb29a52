package web_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestScreens draws every state at three widths and in both schemes, without a
// complaint and without a request to elsewhere.
func TestScreens(t *testing.T) {
	s, ctx := newStage(t), browser(t)
	w := watchPage(t, ctx, s.URL)
	for _, scene := range []struct {
		name   string
		status object
		past   bool
		title  string
		state  string
	}{
		{"healthy", healthy(), true, "All is well.", "ok"},
		{"empty", empty(), false, "Ready, and waiting for the first message.", "ok"},
		{"database-down", databaseDown(), true, "The database is down.", "bad"},
		{"backlog-growing", backlogGrowing(), true, "Low-priority messages are refused.", "bad"},
		{"member-away", memberAway(), true, "Node 2 is away.", "warn"},
	} {
		t.Run(scene.name, func(t *testing.T) {
			s.play(scene.status, scene.past)
			run(t, ctx, chromedp.Navigate(s.URL+"/"))
			for _, size := range []struct {
				name          string
				width, height int64
			}{{"phone", 390, 844}, {"tablet", 820, 1180}, {"wide", 1440, 900}} {
				for _, scheme := range []string{"light", "dark"} {
					if scene.name != "healthy" && (size.name == "wide") != (scheme == "light") {
						continue // every picture of every state takes a minute and shows no more
					}
					run(t, ctx, look(size.width, size.height, scheme))
					await(t, ctx, `innerWidth === `+fmt.Sprint(size.width)+` && document.getElementById("verdict").textContent === "`+scene.title+`" && document.querySelectorAll(".plot").length === 4 && document.querySelector(".plot").childElementCount > 3`)
					state := value[string](t, ctx, `document.documentElement.dataset.state`)
					overflow := value[bool](t, ctx, `document.documentElement.scrollWidth > innerWidth || [...document.querySelectorAll(".part .scroll")].some((e) => e.scrollWidth > e.clientWidth)`)
					lie := value[bool](t, ctx, `(getComputedStyle(document.documentElement).backgroundColor === "rgb(11, 20, 19)") !== `+fmt.Sprint(scheme == "dark"))
					if state != scene.state || overflow || lie {
						t.Errorf("%s %s: state %q (want %q), wider than the window or its card: %v, wrong scheme: %v", size.name, scheme, state, scene.state, overflow, lie)
					}
					shoot(t, ctx, scene.name+"-"+size.name+"-"+scheme)
				}
			}
			w.check(t)
		})
	}
}

// TestChannelsSayWhyNothingGoes: a channel that has stopped by itself, or whose service
// asks for a pause, says so, and the line still fits on a phone.
func TestChannelsSayWhyNothingGoes(t *testing.T) {
	s, ctx := newStage(t), browser(t)
	w := watchPage(t, ctx, s.URL)
	status := healthy()
	channels := status["channels"].([]object)
	channels[0]["stopped_for"] = "channel_auth"
	channels[2]["throttled_until"] = time.Now().Add(20 * time.Minute).UTC()
	s.play(status, true)
	run(t, ctx, look(390, 844, "light"), chromedp.Navigate(s.URL+"/"))
	await(t, ctx, `/^email stopped channel_auth,webhook closed,whatsapp closed throttled until .*\d\d:\d\d/.test([...document.querySelectorAll("#channels tr")].map((row) => row.firstElementChild.innerText.replace(/\s+/g, " ").trim()).join())`)
	for _, words := range []string{"email stopped", "webhook closed"} { // apart for who listens, too
		if row := value[string](t, ctx, `document.getElementById("channels").textContent`); !strings.Contains(row, words) {
			t.Errorf("%q is not in %q", words, row)
		}
	}
	if value[bool](t, ctx, `document.documentElement.scrollWidth > innerWidth || document.querySelector("#part-channels .scroll").scrollWidth > document.querySelector("#part-channels .scroll").clientWidth`) {
		t.Error("the page is wider than its window, or the channels than their card")
	}
	shoot(t, ctx, "channel-throttled-phone-light")
	w.check(t)
}

// TestHeaders: what is served says that it may be nothing else.
func TestHeaders(t *testing.T) {
	s := newStage(t)
	for path, kind := range map[string]string{"/": "text/html; charset=utf-8", "/assets/app.js": "text/javascript; charset=utf-8", "/assets/page.css": "text/css; charset=utf-8", "/assets/icon-ok.svg": "image/svg+xml"} {
		resp, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		policy := resp.Header.Get("Content-Security-Policy")
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != kind || resp.Header.Get("ETag") == "" ||
			!strings.HasPrefix(policy, "default-src 'none'; script-src 'self'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
		again, _ := http.NewRequest(http.MethodGet, s.URL+path, nil)
		again.Header.Set("If-None-Match", resp.Header.Get("ETag"))
		if resp, err = s.Client().Do(again); err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusNotModified {
			t.Errorf("%s again: %d", path, resp.StatusCode)
		}
	}
	for _, path := range []string{"/index.html", "/assets/index.html", "/assets/../embed.go", "/assets/"} {
		resp, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

const verdict = `document.getElementById("verdict").textContent`

// TestLive: a change is on the page by itself; an appliance that goes is called
// gone while its last picture stays, greyed and with its age; and when it is
// back, so is the page, without a hand.
func TestLive(t *testing.T) {
	s, ctx := newStage(t), browser(t)
	w := watchPage(t, ctx, s.URL)
	run(t, ctx, look(1440, 900, "light"), chromedp.Navigate(s.URL+"/"))
	await(t, ctx, verdict+` === "All is well." && document.getElementById("link-text").textContent === "Live"`)
	s.play(databaseDown(), true)
	await(t, ctx, verdict+` === "The database is down." && document.title.startsWith("The database is down")`)
	s.play(healthy(), true)
	await(t, ctx, verdict+` === "All is well."`)
	w.check(t)
	s.vanish()
	await(t, ctx, verdict+` === "The appliance is gone." && document.getElementById("link-text").textContent.startsWith("No answer for")`)
	await(t, ctx, `getComputedStyle(document.querySelector(".way").parentElement).filter === "grayscale(1)" && document.getElementById("in-rate").textContent === "1,285"`)
	if spoken := value[string](t, ctx, `document.getElementById("spoken").textContent`); !strings.HasPrefix(spoken, "The appliance is gone. What to do: On its machine: systemctl status forebay") {
		t.Errorf("a screen reader is told %q", spoken)
	}
	shoot(t, ctx, "gone-wide-light")
	run(t, ctx, look(390, 844, "dark"))
	shoot(t, ctx, "gone-phone-dark")
	w.forgive() // the browser itself writes to the console that a connection failed
	s.appear()
	await(t, ctx, verdict+` === "All is well." && document.getElementById("link-text").textContent === "Live"`)
	w.forgive()
	await(t, ctx, `document.querySelectorAll(".trace").length > 3`)
	w.check(t)
}

// TestKeyboard: everything that a mouse can do here, keys can: the way into the
// page, a chart read point by point, logging in, and a breaker held open.
func TestKeyboard(t *testing.T) {
	s, ctx := newStage(t), browser(t)
	w := watchPage(t, ctx, s.URL)
	run(t, ctx, look(1440, 900, "light"), chromedp.Navigate(s.URL+"/"))
	await(t, ctx, verdict+` === "All is well."`)
	focus := func(want string) {
		t.Helper()
		if got := value[string](t, ctx, `document.activeElement.id || document.activeElement.className.baseVal || document.activeElement.className`); got != want {
			t.Fatalf("the focus is on %q, want %q", got, want)
		}
	}
	await(t, ctx, `document.querySelectorAll(".trace").length > 3`)
	run(t, ctx, chromedp.KeyEvent(kb.Tab))
	focus("skip")
	if outline := value[string](t, ctx, `getComputedStyle(document.activeElement).outlineStyle`); outline != "solid" {
		t.Errorf("the focus is not to be seen: outline %s", outline)
	}
	run(t, ctx, chromedp.KeyEvent(kb.Tab))
	focus("login")
	run(t, ctx, chromedp.KeyEvent(kb.Tab))
	focus("plot")
	run(t, ctx, chromedp.KeyEvent(kb.ArrowLeft), chromedp.KeyEvent(kb.ArrowLeft))
	if label := value[string](t, ctx, `document.activeElement.getAttribute("aria-label")`); !strings.HasPrefix(label, "Messages, at ") {
		t.Errorf("the chart says %q", label)
	}
	// Log in, first with a wrong token.
	run(t, ctx, chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(chromedp.ModifierShift)))
	focus("login")
	run(t, ctx, chromedp.KeyEvent(kb.Enter))
	await(t, ctx, `document.activeElement.id === "token"`)
	run(t, ctx, chromedp.KeyEvent("wrong"), chromedp.KeyEvent(kb.Enter))
	await(t, ctx, `document.getElementById("login-wrong").textContent === "That is not the admin token."`)
	w.forgive() // the browser notes the 401 on the console
	run(t, ctx, chromedp.KeyEvent(s.token), chromedp.KeyEvent(kb.Enter))
	await(t, ctx, `!document.getElementById("login-dialog").open && document.getElementById("login").textContent === "Log out"`)
	w.check(t)
	// The breaker's button, and the question that follows.
	await(t, ctx, `(document.querySelector('#breakers [aria-label="Hold open the breaker of whatsapp"]')?.focus(), document.activeElement.dataset.verb === "open")`)
	run(t, ctx, chromedp.KeyEvent(kb.Enter))
	await(t, ctx, `document.getElementById("sure-dialog").open`)
	shoot(t, ctx, "sure-wide-light")
	run(t, ctx, chromedp.KeyEvent(kb.Escape))
	await(t, ctx, `!document.getElementById("sure-dialog").open`)
	if calls := s.changes(); len(calls) != 0 {
		t.Fatalf("Escape was taken for yes: %v", calls)
	}
	run(t, ctx, chromedp.KeyEvent(kb.Enter))
	await(t, ctx, `document.getElementById("sure-dialog").open`)
	run(t, ctx, chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
	await(t, ctx, `document.getElementById("toast").textContent.startsWith("Done")`)
	if calls := s.changes(); len(calls) != 1 || calls[0] != "POST /breakers/whatsapp/open null" {
		t.Errorf("calls: %v", calls)
	}
	w.check(t)
}

// TestHostileText: what comes from outside is text on the page, whatever it says.
func TestHostileText(t *testing.T) {
	s, ctx := newStage(t), browser(t)
	w := watchPage(t, ctx, s.URL)
	const attack = `<img src=x onerror="document.title='owned'"><script>document.title="owned"</script>`
	status := memberAway()
	status["alerts"].([]object)[0]["summary"] = attack
	status["breakers"].([]object)[0]["name"] = attack
	status["limiter"].(object)["top_accounts"].([]object)[0]["account"] = attack
	s.play(status, true)
	s.mu.Lock()
	s.messages = []object{{"id": "019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f", "account": attack, "channel": "email", "to": attack, "client_ref": attack, "status": "failed", "accepted_at": ago(0), "error": object{"code": "x", "message": attack}}}
	s.mu.Unlock()
	run(t, ctx, look(1440, 900, "dark"), chromedp.Navigate(s.URL+"/"))
	await(t, ctx, verdict+` === "Node 2 is away."`)
	run(t, ctx, chromedp.Click("#login"), chromedp.SendKeys("#token", s.token+kb.Enter))
	await(t, ctx, `document.querySelectorAll("#failed tr").length === 1`)
	if n := value[int](t, ctx, `document.querySelectorAll("img, script:not([src])").length`); n != 0 {
		t.Errorf("%d elements were made of text", n)
	}
	if title := value[string](t, ctx, `document.title`); strings.Contains(title, "owned") {
		t.Error("a script ran")
	}
	shoot(t, ctx, "logged-in-wide-dark")
	run(t, ctx, chromedp.Click("#failed button"))
	await(t, ctx, `document.getElementById("sure-dialog").open`)
	run(t, ctx, chromedp.Click("#sure-yes"))
	await(t, ctx, `document.querySelector("#failed button").textContent === "Requeued"`)
	w.check(t)
}
