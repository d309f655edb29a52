package appliance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink/sinktest"
)

// Each alert is raised here by what it is about, in real appliances, and seen to
// be over by itself; those of an outage, a full disk and a certificate are in
// watching_test.go. TestRules of the watch holds that no alert is left out.

// none fails the test if an alert fires that must not.
func none(t *testing.T, c operator, names ...string) {
	t.Helper()
	for _, name := range names {
		if fires(c, name) {
			t.Fatalf("%s fires while all is well", name)
		}
	}
}

// TestAlertsOfACluster: three nodes, one of which has another file than the
// others. It says so, or they do, and name the keys. Then two of the three go.
func TestAlertsOfACluster(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	c := appliancetest.NewCluster(t, 3, func(c *config.Config) { c.Alerts.WebhookURL = r.URL })
	odd := func(c *config.Config) {
		c.RateLimiting.Window = 30 * time.Second
		c.CircuitBreaker.FailureThreshold, c.CircuitBreaker.RecoveryTime = 9, 90*time.Second
		c.RateLimiting.Tiers = map[string]config.Tier{"development": c.RateLimiting.Tiers["development"], "premium": c.RateLimiting.Tiers["premium"],
			"enterprise": c.RateLimiting.Tiers["enterprise"], "basic": {RequestsPerMinute: 7, Burst: 7, Concurrent: 7, Mode: "enforce"}}
	}
	c.Configure(3, odd)
	c.Start(1, 2, 3)
	var differ, agree []uint16
	appliancetest.Eventually(t, 30*time.Second, "the group has what one of the files says, and whoever has another sees it", func() bool {
		differ, agree = nil, nil
		for n := range uint16(3) {
			if drift(t, c.Nodes[n+1]) != nil {
				differ = append(differ, n+1)
			} else {
				agree = append(agree, n+1)
			}
		}
		// Node 3 is alone with its file, whichever file has won.
		return slices.Equal(differ, []uint16{3}) || slices.Equal(agree, []uint16{3})
	})
	want := []string{"rate_limiting.tiers.basic", "rate_limiting.window", "circuit_breaker.failure_threshold", "circuit_breaker.recovery_time"}
	if diff := cmp.Diff(want, drift(t, c.Nodes[differ[0]])); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
	left := c.Nodes[agree[0]]
	alertComes(t, c.Nodes[differ[0]].Admin, r, "config_drift")
	none(t, left.Admin, "config_drift", "raft_member_away", "raft_no_leader", "limits_degraded")

	var gone []uint16
	for n := range uint16(3) {
		if c.Nodes[n+1] != left {
			gone = append(gone, n+1)
		}
	}
	c.Stop(gone[0])
	alertComes(t, left.Admin, r, "raft_member_away")
	c.Stop(gone[1])
	alertComes(t, left.Admin, r, "raft_no_leader")
	alertComes(t, left.Admin, r, "limits_degraded")
	for _, n := range gone { // they come back with one mind
		c.Configure(n, func(c *config.Config) {
			c.RateLimiting, c.CircuitBreaker = left.Configuration().RateLimiting, left.Configuration().CircuitBreaker
		})
	}
	c.Start(gone...)
	for _, name := range []string{"raft_no_leader", "limits_degraded", "raft_member_away"} {
		alertGoes(t, left.Admin, r, name)
	}
	for number, n := range c.Nodes {
		if got := drift(t, n); got != nil {
			t.Errorf("node %d still shows the drift %q", number, got)
		}
	}
}

// drift are the keys in which a node differs; nil: in none.
func drift(t *testing.T, n *appliancetest.Node) []string {
	t.Helper()
	s, err := n.Admin.Status(t.Context())
	must(t, "ask for the status", err)
	if len(s.Config.Drift) == 0 {
		return nil
	}
	return s.Config.Drift
}

// TestAlertsOfDelivery: an access token that is refused stops its channel, and a
// host that fails opens its breaker, until both are mended; and a service that
// wants a pause is heard, until the pause is over.
func TestAlertsOfDelivery(t *testing.T) {
	t.Parallel()
	r, hook := newReceiver(t), newHookReceiver(t)
	rules := sinktest.NewRules(t, 4)
	meta := sinktest.NewWhatsApp(t, 4, rules)
	meta.EveryoneWrote() // within a day, so that text may be sent
	token := filepath.Join(t.TempDir(), "token")
	must(t, "write a bad token", os.WriteFile(token, []byte("revoked"), 0o600))
	text := fmt.Sprintf(`alerts: {webhook_url: %q}
circuit_breaker: {failure_threshold: 2, recovery_time: 1s}
channels:
  webhook: {allow_cidrs: [127.0.0.0/8], allow_http: true}
  whatsapp: {enabled: true, base_url: %q, phone_number_id: %q, access_token_file: %q}
`, r.URL, meta.URL(), sinktest.WhatsAppNumber, token)
	f := appliancetest.NewFile(t, text+"delivery: {base_delay: 20ms, max_delay: 100ms, max_attempts: 100}\n")
	n := appliancetest.StartFile(t, f, nil)
	none(t, n.Admin, "channel_stopped", "channel_throttled", "breaker_open")

	hook.mu.Lock()
	hook.fail["/down"] = 1_000_000
	hook.mu.Unlock()
	late := post(t, n, map[string]any{"channel": "whatsapp", "to": "+4915112345678", "body": "text"})
	waits := post(t, n, map[string]any{"channel": "webhook", "to": hook.URL + "/down", "body": "x"})
	alertComes(t, n.Admin, r, "channel_stopped")
	alertComes(t, n.Admin, r, "breaker_open")

	must(t, "write the good token", os.WriteFile(token, []byte(sinktest.WhatsAppToken), 0o600))
	f.Write(text + "delivery: {base_delay: 20ms, max_delay: 100ms, max_attempts: 99}\n")
	reload(t, n)
	hook.mu.Lock()
	hook.fail["/down"] = 0
	hook.mu.Unlock()
	alertGoes(t, n.Admin, r, "channel_stopped")
	alertGoes(t, n.Admin, r, "breaker_open")
	awaitStatus(t, n, late, "sent")
	awaitStatus(t, n, waits, "delivered")

	pause := sinktest.GraphErrorAfter(429, 130429, 20) // seconds; under ten are not worth a word
	rules.FirstTo("+4915112345679", 1, pause)
	late = post(t, n, map[string]any{"channel": "whatsapp", "to": "+4915112345679", "body": "text"})
	alertComes(t, n.Admin, r, "channel_throttled")
	alertGoes(t, n.Admin, r, "channel_throttled")
	awaitStatus(t, n, late, "sent")
	if rules.Met(pause) == 0 {
		t.Error("the pause was never asked for")
	}
}

// TestAlertsOfAConfiguration: a file that cannot be used, one that waits for a
// restart, and, with rungs under what the process uses, memory and pressure.
func TestAlertsOfAConfiguration(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	text := fmt.Sprintf("alerts: {webhook_url: %q}\n", r.URL)
	// The process of the tests uses more than 16 MiB and less than 7 GiB.
	const roomy, tight = "memory: {limit: 8GiB, elevated: 0.9, high: 0.95, critical: 0.99}\n", "memory: {limit: 8GiB, elevated: 0.001, high: 0.002, critical: 0.99}\n"
	f := appliancetest.NewFile(t, text+roomy)
	n := appliancetest.StartFile(t, f, nil)
	none(t, n.Admin, "config_reload_failed", "config_drift", "memory", "pressure")

	f.Write(text + roomy + "bufer: {}\n")
	reload(t, n)
	alertComes(t, n.Admin, r, "config_reload_failed")
	f.Write(text + tight + "node: 7\n")
	reload(t, n)
	for _, name := range []string{"pressure", "memory", "config_drift"} {
		alertComes(t, n.Admin, r, name)
	}
	alertGoes(t, n.Admin, r, "config_reload_failed")
	f.Write(text + roomy)
	reload(t, n)
	for _, name := range []string{"pressure", "memory", "config_drift"} {
		alertGoes(t, n.Admin, r, name)
	}
}

// TestAlertOfMissingMessages deletes a stored message behind the appliance's
// back. The audit misses it, and says so no longer once it is there again.
func TestAlertOfMissingMessages(t *testing.T) {
	t.Parallel()
	pg, r := sinktest.StartPostgres(t), newReceiver(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), func(c *config.Config) { c.Alerts.WebhookURL = r.URL })
	for range 3 {
		submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=30")
	}
	audit := func(missing uint64) {
		t.Helper()
		a, err := n.Admin.Audit(t.Context(), time.Time{})
		if err != nil || a.Missing != missing {
			t.Fatalf("audit: %+v %v, want %d missing", a, err, missing)
		}
	}
	audit(0)
	none(t, n.Admin, "messages_missing")
	pg.ExecSQL("CREATE TABLE kept AS SELECT * FROM messages WHERE seq = 2")
	pg.ExecSQL("DELETE FROM messages WHERE seq = 2")
	audit(1)
	alertComes(t, n.Admin, r, "messages_missing")
	if got := metric(t, n, "forebay_audit_missing_messages"); got != 1 {
		t.Errorf("/metrics says %v missing, want 1", got)
	}
	pg.ExecSQL("INSERT INTO messages SELECT * FROM kept")
	audit(0)
	alertGoes(t, n.Admin, r, "messages_missing")
}
