package appliance_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// levelOf is the rung an appliance stands on, as its answers say it.
func levelOf(t *testing.T, target appliancetest.Target) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, target.URL+"/v1/messages", strings.NewReader(`{}`)) // counts for nothing: refused
	must(t, "make a request", err)
	req.Header.Set("Authorization", "Bearer "+target.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := target.Client.Do(req)
	must(t, "ask", err)
	resp.Body.Close()
	if level := resp.Header.Get("Forebay-Pressure"); level != "" {
		return level
	}
	return "normal"
}

// TestProperty05_BackpressureShows: fills below, at and over 80 % of a real
// appliance whose store is held back, in random order: from the threshold on
// backpressure is on, in the header, in the status and in the log; when the
// backlog has drained it is off.
func TestProperty05_BackpressureShows(t *testing.T) {
	t.Parallel()
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 5))
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), withCapacity(100))
	ledger := appliancetest.NewLedger()
	sent := 0
	for round, fill := range []int{80 + r.IntN(60), 1 + r.IntN(60), 80, 79} {
		_, err := n.Admin.ForceBreaker(t.Context(), "database", "open")
		must(t, "hold the store back", err)
		for range fill {
			sent++
			if a := ledger.Submit(n.Target(), appliancetest.Submission{Ref: fmt.Sprint("p05-", sent), Priority: message.Priority(sent % message.Lanes), Body: "b"}); a.Status != http.StatusAccepted {
				t.Fatalf("round %d: %+v", round, a)
			}
		}
		want := "normal"
		if fill >= 80 {
			want = "elevated"
		}
		appliancetest.Eventually(t, 10*time.Second, fmt.Sprintf("seed %d: %s at a fill of %d", seed, want, fill), func() bool {
			status, err := n.Admin.Status(t.Context())
			must(t, "ask for the status", err)
			return status.Pressure.Level == want && levelOf(t, n.Target()) == want && status.Log.Backpressure == (want == "elevated") &&
				status.Pressure.Signals[0].Name == "window" && status.Pressure.Signals[0].Value >= float64(fill)/100
		})
		_, err = n.Admin.ForceBreaker(t.Context(), "database", "auto")
		must(t, "let the store go", err)
		awaitDrained(t, n.Admin)
		appliancetest.Eventually(t, 10*time.Second, "normal again", func() bool { return levelOf(t, n.Target()) == "normal" })
	}
	must(t, "look up all", ledger.LookUp(n.Target(), ledger.Acked(), "stored"))
	checkAudit(t, n.Admin)
}

// TestSignalsAreThere: all seven signals are measured, in the status and in the
// metrics, beside those of the breakers.
func TestSignalsAreThere(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t)
	var status admin.Status
	appliancetest.Eventually(t, 10*time.Second, "all signals are measured", func() bool {
		var err error
		status, err = n.Admin.Status(t.Context())
		must(t, "ask for the status", err)
		measured := 0
		for _, s := range status.Pressure.Signals {
			if s.Detail != "" {
				measured++
			}
		}
		return measured == 7
	})
	// A limit that comes from the machine's memory is no round number of bytes.
	for _, s := range status.Pressure.Signals {
		if s.Name == "memory" && !regexp.MustCompile(`^\d+([MG]iB)? of \d+[MG]iB \(memory\.limit\)$`).MatchString(s.Detail) {
			t.Errorf("memory: %s", s.Detail)
		}
	}
	text := scrape(t, n)
	for _, name := range []string{"forebay_pressure_level 0", `forebay_pressure_signal{signal="memory"}`, `forebay_breaker_state{name="database"} 0`, `forebay_breaker_transitions_total{name="whatsapp",to="open"} 0`} {
		if !strings.Contains(text, name) {
			t.Errorf("metrics lack %s", name)
		}
	}
}
