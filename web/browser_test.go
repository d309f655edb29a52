package web_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// chromium is the one that all tests share, each with a page of its own: to start
// one takes longer than most tests.
var chromium struct {
	ctx   context.Context
	close func()
}

// browser opens an empty page in a Chromium that reaches nothing but what the
// tests tell it to, and closes it with the test.
func browser(t *testing.T) context.Context {
	t.Helper()
	if chromium.ctx == nil {
		startChromium(t)
	}
	ctx, closePage := chromedp.NewContext(chromium.ctx)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("close the page: %v", err)
		}
		closePage()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a page: %v", err)
	}
	return ctx
}

func startChromium(t *testing.T) {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // it refuses to run as root with one
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-domain-reliability", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
	)
	ctx, cancel := chromedp.NewContext(context.Background(), chromedp.WithAllocatorOptions(options...))
	chromium.ctx, chromium.close = ctx, func() {
		_ = chromedp.Cancel(ctx) // it waits for the process and removes its files
		cancel()
	}
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium (see `make deps`): %v", err)
	}
}

// witness notes what a page does that it must not: errors on the console, and
// requests to anywhere but its own appliance.
type witness struct {
	mu        sync.Mutex // guards what follows
	errors    []string
	elsewhere []string
	requests  int
}

func watchPage(t *testing.T, ctx context.Context, own string) *witness {
	t.Helper()
	w := &witness{}
	err := chromedp.Listen(ctx, func(event any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			w.errors = append(w.errors, fmt.Sprintf("%+v", e.ExceptionDetails))
		case *runtime.EventConsoleAPICalled:
			if e.Type == "error" || e.Type == "warning" {
				w.errors = append(w.errors, fmt.Sprint("console: ", e.Args))
			}
		case *log.EventEntryAdded:
			if e.Entry.Level == "error" {
				w.errors = append(w.errors, e.Entry.Text+" "+e.Entry.URL)
			}
		case *network.EventRequestWillBeSent:
			w.requests++
			if !strings.HasPrefix(e.Request.URL, own+"/") {
				w.elsewhere = append(w.elsewhere, e.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatalf("listen to the browser: %v", err)
	}
	return w
}

// check fails the test for what the page did wrong so far, and forgets it.
func (w *witness) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.errors {
		t.Errorf("the page complains: %s", e)
	}
	for _, url := range w.elsewhere {
		t.Errorf("the page asks elsewhere: %s", url)
	}
	if w.requests == 0 {
		t.Error("no request of the page was seen at all: the witness is blind")
	}
	w.errors, w.elsewhere = nil, nil
}

// forgive forgets what a test has provoked, as the console's line for an
// appliance that is gone.
func (w *witness) forgive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors = nil
}

type step = chromedp.Action[chromedp.Void]

func run(t *testing.T, ctx context.Context, steps ...step) {
	t.Helper()
	limit, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := chromedp.Do(limit, steps...); err != nil {
		t.Fatalf("in the browser: %v", err)
	}
}

// value is what the JavaScript expression says now.
func value[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	v, err := chromedp.Run(limit, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("in the browser: %s: %v", expression, err)
	}
	return v
}

// look sets size and scheme of the window.
func look(width, height int64, scheme string) step {
	return chromedp.Steps(chromedp.EmulateViewport(width, height), chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
		return err
	}))
}

// await waits until the JavaScript expression is true, and says what the page
// shows when it does not become so.
func await(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	deadline := time.Now().Add(45 * time.Second)
	for !value[bool](t, ctx, expression) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s\nthe page says: %s", expression, value[string](t, ctx, `document.body.innerText.slice(0, 600)`))
		}
		<-time.After(30 * time.Millisecond)
	}
}

// shoot checks that there is something to see. With FOREBAY_TEST_SCREENSHOTS it
// keeps a picture of the whole page there, which takes four times as long.
func shoot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	dir := os.Getenv("FOREBAY_TEST_SCREENSHOTS")
	shot := chromedp.CaptureScreenshot()
	if dir != "" {
		shot = chromedp.FullScreenshot(100)
	}
	picture, err := chromedp.Run(limit, shot)
	if err != nil {
		t.Fatalf("take the picture %s: %v", name, err)
	}
	if len(picture) < 10_000 {
		t.Errorf("the picture %s is empty: %d bytes", name, len(picture))
	}
	if dir == "" {
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		t.Fatal(err)
	}
}
