package web_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
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
		{"backlog-growing", backlogGrowing(), true, "Low-priority messages are refused.", "warn"},
		{"member-away", memberAway(), true, "Node 2 is away.", "warn"},
	} {
		t.Run(scene.name, func(t *testing.T) {
			s.play(scene.status, scene.past)
			for _, size := range []struct {
				name          string
				width, height int64
			}{{"phone", 390, 844}, {"tablet", 820, 1180}, {"wide", 1440, 900}} {
				for _, scheme := range []string{"light", "dark"} {
					run(t, ctx, look(size.width, size.height, scheme), chromedp.Navigate(s.URL+"/"))
					await(t, ctx, `document.getElementById("verdict").textContent === "`+scene.title+`" && document.querySelectorAll(".plot").length === 4 && document.querySelector(".plot").childElementCount > 3`)
					state := value[string](t, ctx, `document.documentElement.dataset.state`)
					overflow := value[bool](t, ctx, `document.documentElement.scrollWidth > innerWidth`)
					lie := value[bool](t, ctx, `(getComputedStyle(document.documentElement).backgroundColor === "rgb(11, 20, 19)") !== `+fmt.Sprint(scheme == "dark"))
					if state != scene.state || overflow || lie {
						t.Errorf("%s %s: state %q (want %q), wider than the window: %v, wrong scheme: %v", size.name, scheme, state, scene.state, overflow, lie)
					}
					shoot(t, ctx, scene.name+"-"+size.name+"-"+scheme)
				}
			}
			w.check(t)
		})
	}
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
