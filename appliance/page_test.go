package appliance_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"forebay/appliance"
	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// page is the status page of a real appliance in a real browser.
type page struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex // guards complaints
	complaints []string   // exceptions, and requests to elsewhere
}

func openPage(t *testing.T, url string) *page {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(context.Background(), chromedp.WithAllocatorOptions(append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-dev-shm-usage", true))...))
	p := &page{t: t, ctx: ctx}
	t.Cleanup(func() {
		chromedp.Cancel(ctx)
		closeTab()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium (see `make deps`): %v", err)
	}
	must(t, "listen to the browser", chromedp.Listen(ctx, func(event any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			p.complaints = append(p.complaints, fmt.Sprintf("%+v", e.ExceptionDetails))
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, url+"/") {
				p.complaints = append(p.complaints, "asks elsewhere: "+e.Request.URL)
			}
		}
	}))
	p.do("open the page", chromedp.EmulateViewport(1440, 900), chromedp.Navigate(url+"/"))
	return p
}

func (p *page) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	limit, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	must(p.t, what, chromedp.Do(limit, steps...))
}

// await waits until the JavaScript expression is true.
func (p *page) await(expression string) {
	p.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		limit, cancel := context.WithTimeout(p.ctx, 30*time.Second)
		ok, err := chromedp.Run(limit, chromedp.Evaluate[bool](expression))
		cancel()
		must(p.t, "ask the page", err)
		if ok {
			return
		}
		if time.Now().After(deadline) {
			text, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.getElementById("toast").textContent + " | " + document.body.innerText`))
			p.t.Fatalf("not in time: %s; the page says: %s", expression, text)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// says waits until the page's passing message begins so.
func (p *page) says(text string) {
	p.t.Helper()
	p.await(fmt.Sprintf(`document.getElementById("toast").textContent.startsWith(%q)`, text))
}

// sure clicks a button and says yes to the question that follows.
func (p *page) sure(selector string) {
	p.t.Helper()
	p.do("click "+selector, chromedp.Click(selector), chromedp.WaitVisible("#sure-yes"), chromedp.Click("#sure-yes"))
}

// shoot keeps a picture in FOREBAY_TEST_SCREENSHOTS, if that is set.
func (p *page) shoot(name string) {
	p.t.Helper()
	dir := os.Getenv("FOREBAY_TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	must(p.t, "take a picture", err)
	must(p.t, "keep the picture", os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600))
}

// check fails the test for what the page did wrong.
func (p *page) check() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, what := range p.complaints {
		p.t.Error(what)
	}
}

const verdict = `document.getElementById("verdict").textContent`

// TestStatusPage opens the page of a real appliance in a real browser: it shows
// what is sent, and says when the appliance goes and finds it when it is back.
func TestStatusPage(t *testing.T) {
	t.Parallel()
	c := appliancetest.Config(t.TempDir())
	n := appliancetest.StartIn(t, c)
	c.HTTP.OpsListen = n.OpsAddr().String() // the browser must find it again
	p := openPage(t, n.OpsURL)
	p.await(verdict + ` === "Ready, and waiting for the first message."`)
	p.do("try to log in", chromedp.Click("#login"), chromedp.SendKeys("#token", "anything"), chromedp.Click("#login-form .primary"))
	p.await(`document.getElementById("login-wrong").textContent.includes("no admin token is configured (http.admin_token_file)")`)
	p.do("leave it", chromedp.Click("#login-cancel"))
	submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=10")
	p.await(verdict + ` === "All is well." && document.getElementById("intake").textContent.includes("Accepted since the start1")`)

	must(t, "stop", n.Stop())
	p.await(verdict + `.startsWith("The appliance ") && document.documentElement.dataset.link === "gone"`)
	appliancetest.StartIn(t, c)
	p.await(`document.documentElement.dataset.link === "live" && document.getElementById("who-node").textContent.startsWith("Node 1, version test, up ")`)
	p.check()
}

// TestPageOfAnAdmin does on the page of a real appliance all that an operator can
// do there, and looks at the appliance for what came of it: a failed message is
// sent again and arrives; a breaker is held, with the operator's name, and what
// it holds back goes out when it is let go; the configuration goes back.
func TestPageOfAnAdmin(t *testing.T) {
	t.Parallel()
	hooks := newHookReceiver(t)
	hooks.fail["/down"] = 2
	dir := t.TempDir()
	token, meta := filepath.Join(dir, "admin.token"), filepath.Join(dir, "meta.token")
	must(t, "write the token", os.WriteFile(token, []byte("correct-horse\n"), 0o600))
	must(t, "write the other token", os.WriteFile(meta, []byte("EAAG-of-Meta\n"), 0o600))
	base := fmt.Sprintf("http: {admin_token_file: %q, max_body_bytes: %%s}\ndelivery: {max_attempts: 1}\nchannels:\n  webhook: {allow_http: true, allow_cidrs: [127.0.0.0/8]}\n", token)
	f := appliancetest.NewFile(t, fmt.Sprintf(base, "2KiB"))
	n := appliancetest.StartFile(t, f, func(o *appliance.Options) { o.Unwatched = true })
	first := running(t, n).Version

	p := openPage(t, n.OpsURL)
	p.await(verdict + ` === "Ready, and waiting for the first message." && getComputedStyle(document.querySelector("#breakers .buttons")).display === "none"`)
	p.do("log in wrongly", chromedp.Click("#login"), chromedp.SendKeys("#token", "wrong-horse"), chromedp.Click("#login-form .primary"))
	p.await(`document.getElementById("login-wrong").textContent === "That is not the admin token." && document.activeElement.id === "token"`)
	p.do("log in", chromedp.KeyEvent("correct-horse"), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent("Anna Müller"), chromedp.KeyEvent(kb.Enter))
	p.await(`document.getElementById("login").textContent === "Log out" && document.getElementById("failed-note").textContent === "None is failed."`)

	adminRequeues(t, p, n, hooks)
	adminHoldsABreaker(t, p, n, hooks)
	adminGoesBack(t, p, n, f, base, meta, first)

	// The token is changed: the page says so and forgets the old one.
	must(t, "change the token", os.WriteFile(token, []byte("battery-staple\n"), 0o600))
	if r := reload(t, n); len(r.Applied) != 1 || r.Applied[0].Key != "http.admin_token_file" {
		t.Fatalf("reload of a new token: %+v", r)
	}
	p.sure(`#breakers [aria-label="Hold open the breaker of database"]`)
	p.says("Not done: show the admin token")
	p.await(`document.getElementById("login").textContent === "Log in" && document.getElementById("failed-open").hidden`)
	if b := breakerOf(t, n, "database"); b.Forced != "" {
		t.Errorf("the old token forced a breaker: %+v", b)
	}
	p.check()
}

// TestPageUnderPressure: the page of a real appliance under high pressure says
// what is refused, where it comes from and what to do, and when it is over, that
// all is well.
func TestPageUnderPressure(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, func(c *config.Config) { c.HTTP.MaxConnections = 100 })
	submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=10")
	p := openPage(t, n.OpsURL)
	p.await(verdict + ` === "All is well."`)
	idle := hold(t, n.Addr().String(), 88)
	stands(t, n.Target(), n.Admin, high, "connections")
	p.await(verdict + ` === "Low-priority messages are refused." && document.querySelector("#ladder [aria-current]").textContent === "high"`)
	p.await(`document.getElementById("verdict-do-text").textContent.startsWith("It comes from the open connections, at ") && document.getElementById("verdict-do-text").textContent.includes(" of 100 connections. Look for a client that opens too many")`)
	p.await(`/Refused: overloaded[1-9]/.test(document.getElementById("intake").textContent) && document.querySelector("#signals .c-warn").closest(".signal").textContent.startsWith("connections")`)
	if level := breakdown(t, n)["connections"]; level != "high" {
		t.Errorf("the signal's own level is %q in /status.json", level)
	}
	for _, size := range []struct {
		name          string
		width, height int64
	}{{"wide", 1440, 900}, {"phone", 390, 844}} {
		p.do("resize", chromedp.EmulateViewport(size.width, size.height))
		p.await(`innerWidth === ` + fmt.Sprint(size.width) + ` && document.documentElement.scrollWidth <= innerWidth`)
		p.shoot("real-pressure-" + size.name)
	}
	for _, c := range idle {
		c.Close()
	}
	p.await(verdict + ` === "All is well." && document.querySelector("#ladder [aria-current]").textContent === "normal"`)
	p.check()
}

// hold opens connections to an address and does nothing with them.
func hold(t *testing.T, addr string, count int) (idle []net.Conn) {
	t.Helper()
	for range count {
		c, err := net.Dial("tcp", addr)
		must(t, "connect", err)
		t.Cleanup(func() { c.Close() })
		idle = append(idle, c)
	}
	return idle
}

// breakdown is the level that each signal asks for.
func breakdown(t *testing.T, n *appliancetest.Node) map[string]string {
	t.Helper()
	s, err := n.Admin.Status(t.Context())
	must(t, "ask for the status", err)
	levels := map[string]string{}
	for _, signal := range s.Pressure.Signals {
		levels[signal.Name] = signal.Level
	}
	return levels
}

func adminRequeues(t *testing.T, p *page, n *appliancetest.Node, hooks *hookReceiver) {
	t.Helper()
	var ids []string
	for range 2 {
		id := post(t, n, map[string]any{"channel": "webhook", "to": hooks.URL + "/down", "body": "again", "client_ref": "order-7"})
		awaitStatus(t, n, id, "failed")
		ids = append(ids, id)
	}
	p.do("search", chromedp.SendKeys("#failed-text", "order-7"+kb.Enter))
	p.await(`document.querySelectorAll("#failed tr").length === 2 && document.getElementById("failed").textContent.includes("` + ids[0] + `")`)
	p.shoot("real-failed")
	button := `#failed button[data-id="` + ids[0] + `"]`
	p.do("think better of it", chromedp.Click(button), chromedp.WaitVisible("#sure-yes"), chromedp.KeyEvent(kb.Escape))
	p.await(`!document.getElementById("sure-dialog").open && !document.querySelector('` + button + `').disabled`)
	if got := hooks.got("/down"); len(got) != 0 {
		t.Fatalf("Escape was taken for yes: %q", got)
	}
	p.sure(button)
	p.says("It is in the queue again.")
	appliancetest.Eventually(t, 30*time.Second, "the receiver has the message", func() bool { return len(hooks.got("/down")) == 1 })
	p.sure("#failed-all")
	p.says("1 message is in the queue again.")
	appliancetest.Eventually(t, 30*time.Second, "the receiver has the other message", func() bool { return len(hooks.got("/down")) == 2 })
	p.await(`[...document.querySelectorAll("#failed button")].every((b) => b.disabled && b.textContent === "Requeued")`)
}

func adminHoldsABreaker(t *testing.T, p *page, n *appliancetest.Node, hooks *hookReceiver) {
	t.Helper()
	// By keyboard: the button, the question's second button, yes.
	p.await(`(document.querySelector('#breakers [aria-label="Hold open the breaker of webhook"]')?.focus(), document.activeElement.dataset.verb === "open")`)
	p.do("press Enter", chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible("#sure-yes"), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
	p.says("Done")
	p.await(`document.getElementById("breakers").textContent.includes("held open by token(Anna Müller) since")`)
	if b := breakerOf(t, n, "webhook"); b.Forced != "open" || b.ForcedBy != "token(Anna Müller)" {
		t.Errorf("the breaker is %+v", b)
	}
	held := post(t, n, map[string]any{"channel": "webhook", "to": hooks.URL + "/held", "body": "b"})
	appliancetest.Eventually(t, 30*time.Second, "the message waits for the breaker", func() bool { return show(t, n, held).Hold == "breaker_open" })
	appliancetest.Eventually(t, 30*time.Second, "the alert breaker_forced fires", func() bool { return fires(n.Admin, "breaker_forced") })
	p.await(verdict + ` === "The breaker of webhook is held open by hand." && document.getElementById("verdict-more").textContent.startsWith("The breaker of webhook is held open by token(Anna Müller); its messages wait.")`)
	p.shoot("real-held")
	if got := hooks.got("/held"); len(got) != 0 {
		t.Errorf("an open breaker lets %q through", got)
	}
	p.sure(`#breakers [aria-label="Hold closed the breaker of webhook"]`)
	appliancetest.Eventually(t, 30*time.Second, "the breaker is held closed", func() bool { return breakerOf(t, n, "webhook").Forced == "closed" })
	awaitStatus(t, n, held, "delivered")
	p.await(`document.getElementById("breakers").textContent.includes("held closed by token(Anna Müller)")`)
	p.sure(`#breakers [aria-label="Automatic again: the breaker of webhook"]`)
	appliancetest.Eventually(t, 30*time.Second, "the breaker is let go", func() bool {
		b := breakerOf(t, n, "webhook")
		return b.Forced == "" && b.State == "closed"
	})
	appliancetest.Eventually(t, time.Minute, "the alert breaker_forced is over", func() bool { return !fires(n.Admin, "breaker_forced") })
	if len(hooks.got("/held")) != 1 {
		t.Errorf("the held message came %d times", len(hooks.got("/held")))
	}
}

func adminGoesBack(t *testing.T, p *page, n *appliancetest.Node, f *appliancetest.File, base, meta string, first uint64) {
	t.Helper()
	f.Write(fmt.Sprintf(base, "8KiB") + fmt.Sprintf("  whatsapp: {enabled: true, api_version: v23.0, phone_number_id: \"1\", access_token_file: %q}\n", meta))
	if r := reload(t, n); r.Outcome != admin.ConfigApplied {
		t.Fatalf("reload: %+v", r)
	}
	back := func(version uint64) string {
		return fmt.Sprintf(`#versions [aria-label="Go back to version %d"]`, version)
	}
	p.await(`document.getElementById("config").textContent.includes("Version` + fmt.Sprint(first+1) + `")`)
	p.sure(back(first))
	p.says(fmt.Sprintf("Configuration %d runs again, as version %d. The configuration file still says otherwise", first, first+2))
	c := running(t, n)
	if c.Version != first+2 {
		t.Errorf("version %d runs", c.Version)
	}
	if got := bodyOf(t, n, 4000); got != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d after the rollback", got)
	}
	list, err := n.Admin.ConfigHistory(t.Context())
	must(t, "history", err)
	if list[0].Who != "token(Anna Müller)" || list[0].Source != "rollback" || list[0].Of != first {
		t.Errorf("the history has %+v", list[0])
	}
	p.await(verdict + ` === "The configuration has drifted." || document.getElementById("config").textContent.includes("channels.whatsapp")`)
	p.shoot("real-drift")
	// A version that names a file that is gone is refused, and why is said.
	must(t, "remove the file", os.Remove(meta))
	p.sure(back(first + 1))
	p.says("Not done: channels.whatsapp.access_token_file " + meta + " does not exist")
	if c := running(t, n); c.Version != first+2 {
		t.Errorf("version %d runs after a refused rollback", c.Version)
	}
	f.Write(fmt.Sprintf(base, "2KiB"))
	reload(t, n)
}
