package appliance_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
)

// breakerOf is what an appliance says of one breaker.
func breakerOf(t *testing.T, n *appliancetest.Node, name string) admin.BreakerStatus {
	t.Helper()
	list, err := n.Admin.Breakers(context.Background())
	must(t, "list the breakers", err)
	for _, b := range list {
		if b.Name == name {
			return b
		}
	}
	t.Fatalf("there is no breaker %s in %+v", name, list)
	return admin.BreakerStatus{}
}

// TestDatabaseBreaker: an outage opens the database's breaker, everything shows
// it, messages are accepted and wait, and when the database is back the breaker
// closes at once, not after the recovery time.
func TestDatabaseBreaker(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), func(c *config.Config) {
		c.CircuitBreaker = config.CircuitBreaker{FailureThreshold: 3, Timeout: 10 * time.Second, RecoveryTime: time.Hour}
	})
	ledger := appliancetest.NewLedger()
	loadWhile(ledger, n.Target(), 4, "breaker-", 1, func() {
		appliancetest.Eventually(t, time.Minute, "messages are taken, and the store is up", func() bool {
			_, r := readiness(t, n)
			return ledger.Count("202") > 20 && r.Checks["store"].Status == "ok"
		})
		pg.Kill()
		appliancetest.Eventually(t, time.Minute, "the breaker opens", func() bool { return breakerOf(t, n, "database").State == "open" })
		var r struct {
			Status string
			Checks struct {
				Breakers map[string]struct{ State string }
			}
		}
		status, err := n.Target().Get("/readyz", &r)
		must(t, "ask /readyz", err)
		if got := r.Checks.Breakers["database"].State; status != http.StatusOK || r.Status != admin.Degraded || got != "open" {
			t.Errorf("/readyz: got %d %s and the breaker %q, want 200 degraded and open", status, r.Status, got)
		}
		before := ledger.Count("202")
		appliancetest.Eventually(t, time.Minute, "messages are accepted meanwhile", func() bool { return ledger.Count("202") > before+50 })
		pg.Start()
		appliancetest.Eventually(t, time.Minute, "the breaker closes", func() bool { return breakerOf(t, n, "database").State == "closed" })
	})
	must(t, "the answers", checkOutcomes(ledger, "202"))
	awaitDrained(t, n.Admin)
	checkAudit(t, n.Admin)
	must(t, "look up all", ledger.LookUp(n.Target(), ledger.Acked(), "stored"))
	must(t, "stop", n.Stop())
}

// TestForcedBreaker: an operator holds the database's breaker open; nothing is
// stored, all is accepted, and a restart does not forget it.
func TestForcedBreaker(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()))
	_, err := n.Admin.ForceBreaker(t.Context(), "database", "open")
	must(t, "force it open", err)
	ledger := appliancetest.NewLedger()
	submitSome := func(ref string) {
		if a := ledger.Submit(n.Target(), appliancetest.Submission{Ref: ref, Body: ref}); a.Status != http.StatusAccepted {
			t.Fatalf("submit: %+v", a)
		}
	}
	submitSome("held-1")
	n = n.Restart()
	b := breakerOf(t, n, "database")
	if b.State != "open" || b.Forced != "open" || b.ForcedBy == "" {
		t.Fatalf("after a restart: got %+v, want it forced open by who did it", b)
	}
	submitSome("held-2")
	must(t, "look up what waits", ledger.LookUp(n.Target(), ledger.Acked(), "accepted"))
	_, err = n.Admin.ForceBreaker(t.Context(), "database", "auto")
	must(t, "let it go", err)
	awaitDrained(t, n.Admin)
	must(t, "look up what is stored", ledger.LookUp(n.Target(), ledger.Acked(), "stored"))
	must(t, "stop", n.Stop())
}
