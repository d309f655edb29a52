package appliance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
)

// TestChannelsDeliver sends over each channel, with faults on the way, to
// stand-ins that check what they are sent as the real services do.
func TestChannelsDeliver(t *testing.T) {
	t.Parallel()
	const messages = 40
	mailRules := sinktest.NewRules(t, 7).Chance(0.1, "rcpt 451 4.3.0").Chance(0.1, sinktest.FaultCutDot).Chance(0.05, sinktest.FaultCutBody)
	mails := sinktest.NewSMTP(t, sinktest.SMTPOptions{Plain: true, NoAuth: true}, mailRules, nil)
	metaRules := sinktest.NewRules(t, 8).Chance(0.1, sinktest.GraphError(500, 131000, 0)).Chance(0.1, sinktest.FaultCut)
	meta := sinktest.NewWhatsApp(t, 8, metaRules)
	meta.EveryoneWrote()
	meta.SetPace(time.Second/10_000, 10_000)
	token := filepath.Join(t.TempDir(), "token")
	must(t, "write the token", os.WriteFile(token, []byte(sinktest.WhatsAppToken), 0o600))
	n := appliancetest.Start(t, withWebhooks, func(c *config.Config) {
		c.CircuitBreaker.FailureThreshold = 1000 // the faults are the messages' here, not the services'
		c.Delivery.MaxAttempts = 20
		e := &c.Channels.Email
		e.Enabled, e.Host, e.Port, e.TLS, e.From = true, mails.Host(), mails.Port(), "none", "Forebay <noreply@example.org>"
		w := &c.Channels.WhatsApp
		w.Enabled, w.BaseURL, w.PhoneNumberID, w.AccessTokenFile, w.MessagesPerSecond = true, meta.URL(), sinktest.WhatsAppNumber, token, 10_000
	})
	var ids []string
	for i := range messages {
		ids = append(ids, post(t, n, map[string]any{"channel": "email", "to": fmt.Sprintf("a%d@example.org", i), "subject": "Hello", "body": "text"}),
			post(t, n, map[string]any{"channel": "whatsapp", "to": fmt.Sprintf("+4915112345%03d", i), "body": "text"}))
	}
	unknown := 0
	for _, id := range ids {
		appliancetest.Eventually(t, 60*time.Second, id+" is sent", func() bool {
			v := show(t, n, id)
			if v.Final {
				t.Fatalf("%s ended as %+v", id, v)
			}
			return v.Status == "sent"
		})
		for _, a := range show(t, n, id).Attempts {
			if a.Outcome == "unknown" {
				unknown++
			}
		}
		if mails.Times(id)+meta.Times(id) == 0 {
			t.Errorf("%s is sent, and nobody took it", id)
		}
	}
	cuts := mailRules.Met(sinktest.FaultCutDot) + metaRules.Met(sinktest.FaultCut)
	// Inside a mail as short as these a cut may come after its end was on the way.
	if extra := mails.Total() + meta.Total() - len(ids); extra > cuts || extra > unknown || unknown > cuts+mailRules.Met(sinktest.FaultCutBody) || cuts == 0 {
		t.Errorf("%d messages went twice, %d attempts were unknown, %d answers were cut", extra, unknown, cuts)
	}
	if wrong := append(mails.Wrong(), meta.Wrong()...); len(wrong) > 0 {
		t.Errorf("a real service would refuse: %q", wrong)
	}
	t.Logf("%d messages, %d unknown outcomes, %d taken in all", len(ids), unknown, mails.Total()+meta.Total())
}

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
