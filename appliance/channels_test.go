package appliance_test

import (
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
)

// TestWebhookSecretsAndEndpoints: what operators see signs what is sent, two
// secrets sign after a rotation, and an address that is gone stays switched off
// over a restart until an operator switches it on.
func TestWebhookSecretsAndEndpoints(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, withWebhooks)
	first, err := n.Admin.WebhookSecret(t.Context(), "acme")
	must(t, "ask for the secret", err)
	second, err := n.Admin.RotateWebhookSecret(t.Context(), "acme")
	must(t, "rotate the secret", err)
	if !strings.HasPrefix(first.Secret, "whsec_") || second.Previous != first.Secret || second.Secret == first.Secret {
		t.Fatalf("got %+v, then %+v", first, second)
	}
	rules := sinktest.NewRules(t, 1).To("/gone", "410")
	for _, good := range []string{first.Secret, second.Secret} {
		r := sinktest.NewWebhookReceiver(t, false, rules, good)
		awaitStatus(t, n, post(t, n, map[string]any{"channel": "webhook", "to": r.URL() + "/a", "body": "{}"}), "delivered")
	}
	r := sinktest.NewWebhookReceiver(t, false, rules, second.Secret)
	gone := func(want string) {
		t.Helper()
		id := post(t, n, map[string]any{"channel": "webhook", "to": r.URL() + "/gone", "body": "{}"})
		if v := awaitStatus(t, n, id, "failed"); v.Error.Code != want {
			t.Errorf("got %s, want %s", v.Error.Code, want)
		}
	}
	gone("recipient_refused")
	gone("endpoint_disabled")
	var list []admin.Endpoint
	appliancetest.Eventually(t, 10*time.Second, "the address is on the list", func() bool {
		list, err = n.Admin.Endpoints(t.Context(), "acme")
		must(t, "list addresses", err)
		return len(list) == 1 && list[0].Reason == "gone"
	})
	n = n.Restart()
	gone("endpoint_disabled")
	must(t, "switch it on", n.Admin.EnableEndpoint(t.Context(), "acme", list[0].ID))
	rules.Clear()
	appliancetest.Eventually(t, 10*time.Second, "it is sent to again", func() bool {
		id := post(t, n, map[string]any{"channel": "webhook", "to": r.URL() + "/gone", "body": "{}"})
		v := show(t, n, id)
		for v.Status != "delivered" && v.Status != "failed" {
			v = show(t, n, id)
		}
		return v.Status == "delivered"
	})
}
