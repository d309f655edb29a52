package appliance_test

import (
	"net/http"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink/sinktest"
)

// TestDeliveryWithoutDatabase: while the database is stopped, messages without an
// idempotency key go out, retries and all, and their senders see how far they are,
// also after a restart in the middle; one with a key waits. When the database is
// back it has everything, and nothing was sent twice.
func TestDeliveryWithoutDatabase(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), withWebhooks, func(c *config.Config) {
		c.Delivery.MaxDelay = time.Hour
	})
	r := newHookReceiver(t)
	first := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/first", "body": "x"})
	awaitStatus(t, n, first, "delivered")
	pg.Stop(sinktest.Fast)
	appliancetest.Eventually(t, time.Minute, "/readyz says that the store is down", func() bool {
		_, ready := readiness(t, n)
		return ready.Checks["store"].Status == "degraded"
	})

	r.mu.Lock()
	r.fail["/twice"], r.fail["/never"] = 2, 1<<30
	r.mu.Unlock()
	plain := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/plain", "body": "x", "priority": "critical"})
	twice := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/twice", "body": "x"})
	never := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/never", "body": "x", "priority": "low"})
	status, keyed := submit(t, n, `{"channel":"webhook","to":"`+r.URL+`/keyed","body":"x"}`, "Idempotency-Key", "one")
	if status != http.StatusAccepted {
		t.Fatalf("submit with a key: %d", status)
	}
	seen := func(n *appliancetest.Node) {
		t.Helper()
		if v := awaitStatus(t, n, plain, "delivered"); !v.Final || len(v.Attempts) != 1 {
			t.Errorf("without the database: %+v", v)
		}
		if v := awaitStatus(t, n, twice, "delivered"); len(v.Attempts) != 3 {
			t.Errorf("after two faults and without the database: %+v", v)
		}
		var v view
		appliancetest.Eventually(t, time.Minute, "attempts show", func() bool {
			v = show(t, n, never)
			return len(v.Attempts) >= 2
		})
		if v.Final || v.Error.Code == "" {
			t.Errorf("what is being tried, without the database: %+v", v)
		}
		if v := show(t, n, keyed.ID); v.Final || len(v.Attempts) != 0 || len(r.got("/keyed")) != 0 {
			t.Errorf("with a key and without the database: %+v, sent %d times", v, len(r.got("/keyed")))
		}
	}
	seen(n)
	key := n.Key
	n = n.Restart()
	n.Key = key
	seen(n)

	pg.Start()
	r.mu.Lock()
	r.fail["/never"] = 0
	r.mu.Unlock()
	awaitStatus(t, n, keyed.ID, "delivered")
	awaitStatus(t, n, never, "delivered")
	appliancetest.Eventually(t, time.Minute, "all is in the database, and final", func() bool {
		a, err := n.Admin.Audit(t.Context(), time.Time{})
		return err == nil && a.Waiting == 0 && a.Missing == 0 && a.Final == 5
	})
	for id, path := range map[string]string{first: "/first", plain: "/plain", twice: "/twice", never: "/never", keyed.ID: "/keyed"} {
		if got := len(r.got(path)); got != 1 {
			t.Errorf("%s was sent %d times", path, got)
		}
		if v := show(t, n, id); v.Status != "delivered" || !v.Final {
			t.Errorf("%s is %+v in the database", path, v)
		}
	}
}
