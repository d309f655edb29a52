package appliance_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// Each rung of the ladder is raised here by each signal that can be caused, and
// seen where clients see it; the window's are in pressure_test.go.

// rung is what a client meets on one.
type rung struct {
	Pressure string // the header
	Accepted string // priorities, by their first letters
	Code     string // of the others' refusal
	Lists    bool   // they are answered
}

// The ladder as API.md and DESIGN §4 have it.
var (
	normal   = rung{"", "chnl", "", true}
	elevated = rung{"elevated", "chnl", "", true}
	high     = rung{"high", "chn", "overloaded", false}
	critical = rung{"critical", "c", "overloaded", false}
	full     = rung{"critical", "", "storage_full", false}
)

// climb is where a client stands: what its messages and lists are answered.
func climb(t *testing.T, target appliancetest.Target) (r rung) {
	t.Helper()
	call := func(method, path, body string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), method, target.URL+path, strings.NewReader(body))
		must(t, "make a request", err)
		req.Header.Set("Authorization", "Bearer "+target.Key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := target.Client.Do(req)
		must(t, "ask", err)
		resp.Body.Close()
		return resp
	}
	for p := range message.Priority(message.Lanes) {
		resp := call(http.MethodPost, "/v1/messages", `{"channel":"store","body":"b","priority":"`+p.String()+`"}`)
		r.Pressure = resp.Header.Get("Forebay-Pressure")
		switch resp.StatusCode {
		case http.StatusAccepted:
			r.Accepted += p.String()[:1]
		case http.StatusServiceUnavailable:
			if resp.Header.Get("Retry-After") == "" {
				t.Errorf("%s is refused without Retry-After", p)
			}
		default:
			t.Errorf("%s: got %d", p, resp.StatusCode)
		}
	}
	if len(r.Accepted) < message.Lanes { // low goes first
		a := appliancetest.NewLedger().Submit(target, appliancetest.Submission{Ref: "refused", Priority: message.Low, Body: "b"})
		r.Code = a.Code
	}
	r.Lists = call(http.MethodGet, "/v1/messages?limit=1", "").StatusCode == http.StatusOK
	return r
}

// stands waits until clients meet that rung, and the signal is the reason.
func stands(t *testing.T, target appliancetest.Target, c operator, want rung, signal string) {
	t.Helper()
	var got rung
	var top string
	deadline := time.Now().Add(20 * time.Second)
	for got, top = climb(t, target), topSignal(t, c); got != want || signal != "" && top != signal; got, top = climb(t, target), topSignal(t, c) {
		if time.Now().After(deadline) {
			t.Fatalf("for %s (-want +got):\n%stop signal %s", signal, cmp.Diff(want, got), top)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func topSignal(t *testing.T, c operator) string {
	t.Helper()
	s, err := c.Status(t.Context())
	must(t, "ask for the status", err)
	return s.Pressure.Signals[0].Name
}

// signalValue is a signal now.
func signalValue(t *testing.T, c operator, signal string) float64 {
	t.Helper()
	s, err := c.Status(t.Context())
	must(t, "ask for the status", err)
	i := slices.IndexFunc(s.Pressure.Signals, func(s admin.PressureSignal) bool { return s.Name == signal })
	return s.Pressure.Signals[i].Value
}

// TestRungsOfTheDisk fills a real file system rung by rung, and frees it: each
// rung holds until it is clearly left.
func TestRungsOfTheDisk(t *testing.T) {
	t.Parallel()
	const mib, kept = 1 << 20, 256.0 // MiB that buffer.min_free_disk_bytes keeps free
	disk := appliancetest.NewDisk(t, 1536)
	p := appliancetest.StartProcess(t, filepath.Join(disk.Path, "data"))
	c := p.Admin()
	defer c.Close()
	fill := func(fraction float64) { // so that the signal has this value
		disk.Empty()
		disk.Fill(int64(kept / fraction * mib))
	}
	disk.Fill(1 << 30)
	stands(t, p.Target(), c, normal, "")
	for _, step := range []struct {
		value float64
		want  rung
	}{
		{0.77, elevated}, {0.90, high}, {0.975, critical}, {1.05, full},
		{0.92, critical}, // under its rung by less than the relief
		{0.83, high}, {0.68, elevated}, {0.5, normal},
	} {
		fill(step.value)
		stands(t, p.Target(), c, step.want, "disk")
	}
}

// TestRungsOfTheLog lets the log grow to its limit while the store takes nothing,
// and lets the store go: what it held is given back, and the pressure with it.
func TestRungsOfTheLog(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), func(c *config.Config) { c.Buffer.MaxDiskBytes = 400 * config.MiB })
	_, err := n.Admin.ForceBreaker(t.Context(), "database", "open")
	must(t, "hold the store back", err)
	r := rand.New(rand.NewPCG(seedOf(t), 0))
	text := letters(r, 200_000)
	ledger := appliancetest.NewLedger()
	sent := 0
	for _, step := range []struct {
		value float64
		want  rung
	}{{0.7, elevated}, {0.85, high}, {0.95, critical}} {
		appliancetest.Eventually(t, time.Minute, fmt.Sprintf("the log fills %v of its limit", step.value), func() bool {
			sent++ // critical, so that none is refused on the way
			ledger.Submit(n.Target(), appliancetest.Submission{Ref: fmt.Sprint("log-", sent), Priority: message.Critical, Body: text[r.IntN(1000):]})
			return signalValue(t, n.Admin, "log") >= step.value+0.01
		})
		stands(t, n.Target(), n.Admin, step.want, "log")
	}
	// The last rung is near the limit, and between two measurements the log counts
	// more than it uses: it may touch the limit itself on the way.
	must(t, "the answers to critical messages", checkOutcomes(ledger, "202", "503 storage_full"))
	_, err = n.Admin.ForceBreaker(t.Context(), "database", "auto")
	must(t, "let the store go", err)
	awaitDrained(t, n.Admin)
	appliancetest.Eventually(t, time.Minute, "the log's pressure clears by itself", func() bool { return levelOf(t, n.Target()) == "normal" })
	must(t, "look up all", ledger.LookUp(n.Target(), ledger.Acked(), "stored"))
}

// TestRungsOfMemory moves the rungs, live, under and over what the process uses.
func TestRungsOfMemory(t *testing.T) {
	t.Parallel()
	// The process of the tests uses more than 16 MiB and less than 4 GiB.
	rungs := func(elevated, high, critical float64) string {
		return fmt.Sprintf("memory: {limit: 8GiB, elevated: %v, high: %v, critical: %v}\n", elevated, high, critical)
	}
	f := appliancetest.NewFile(t, rungs(.9, .95, .99))
	n := appliancetest.StartFile(t, f, nil)
	stands(t, n.Target(), n.Admin, normal, "")
	for _, step := range []struct {
		text string
		want rung
	}{{rungs(.001, .95, .99), elevated}, {rungs(.0005, .001, .99), high}, {rungs(.0005, .001, .002), critical}, {rungs(.9, .95, .99), normal}} {
		f.Write(step.text)
		reload(t, n)
		signal := "memory"
		if step.want == normal {
			signal = ""
		}
		stands(t, n.Target(), n.Admin, step.want, signal)
	}
}

// TestRungsOfConnections opens connections that do nothing. They stop at high,
// and a rung holds until it is clearly left.
func TestRungsOfConnections(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, func(c *config.Config) { c.HTTP.MaxConnections = 100 })
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	hold := func(open int) { // beside the one that the test asks through
		for len(idle) < open-1 {
			c, err := net.Dial("tcp", n.Addr().String())
			must(t, "connect", err)
			idle = append(idle, c)
		}
		for len(idle) > open-1 {
			idle[len(idle)-1].Close()
			idle = idle[:len(idle)-1]
		}
	}
	for _, step := range []struct {
		open int
		want rung
	}{{50, normal}, {71, elevated}, {67, elevated}, {88, high}, {98, high}, {82, high}, {67, elevated}, {60, normal}} {
		hold(step.open)
		stands(t, n.Target(), n.Admin, step.want, "connections")
	}
}

// TestRungsOfAge: messages that wait long make the appliance say so, and refuse
// nothing, for the log is what an outage of the store is for.
func TestRungsOfAge(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), func(c *config.Config) { c.Alerts.BacklogAge = 200 * time.Millisecond })
	stands(t, n.Target(), n.Admin, normal, "")
	_, err := n.Admin.ForceBreaker(t.Context(), "database", "open")
	must(t, "hold the store back", err)
	stands(t, n.Target(), n.Admin, elevated, "age")
	appliancetest.Eventually(t, 20*time.Second, "they wait for longer than all rungs", func() bool { return signalValue(t, n.Admin, "age") > 1.2 })
	stands(t, n.Target(), n.Admin, elevated, "age")
	_, err = n.Admin.ForceBreaker(t.Context(), "database", "auto")
	must(t, "let the store go", err)
	stands(t, n.Target(), n.Admin, normal, "")
}

// TestRungsOfTheStore: a database whose every insert takes seconds.
func TestRungsOfTheStore(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()))
	stands(t, n.Target(), n.Admin, normal, "")
	awaitDrained(t, n.Admin)
	pg.ExecSQL("CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3.6); RETURN NULL; END $$")
	pg.ExecSQL("CREATE TRIGGER dawdle BEFORE INSERT ON messages FOR EACH STATEMENT EXECUTE FUNCTION dawdle()")
	stands(t, n.Target(), n.Admin, elevated, "store")
	pg.ExecSQL("DROP TRIGGER dawdle ON messages")
	awaitDrained(t, n.Admin)
	stands(t, n.Target(), n.Admin, normal, "")
}
