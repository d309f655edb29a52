package appliance_test

import (
	"bufio"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
)

// feed reads an account's /v1/events until the test ends.
type feed struct {
	mu   sync.Mutex // guards what follows
	text strings.Builder
}

func openFeed(t *testing.T, n *appliancetest.Node) *feed {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", n.URL+"/v1/events", nil)
	must(t, "make a request", err)
	req.Header.Set("Authorization", "Bearer "+n.Key)
	resp, err := n.Client.Do(req)
	must(t, "open the feed", err)
	f, done := &feed{}, make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewReader(resp.Body)
		for {
			line, err := lines.ReadString('\n')
			f.mu.Lock()
			f.text.WriteString(line)
			f.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done; resp.Body.Close() })
	return f
}

// event is the data of the first event of that kind; empty: none came yet.
func (f *feed) event(kind string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, rest, found := strings.Cut(f.text.String(), "event: "+kind+"\ndata: ")
	if data, _, whole := strings.Cut(rest, "\n"); found && whole {
		return data
	}
	return ""
}

// TestFailingHostsAreTold: a webhook address that answers 410 or has failed for
// days is switched off, and that it fails is said before: to operators by alert,
// status and metrics, and to its account by its feed and its callback address.
// Each alert is over when an operator switches the address on, or it works again.
func TestFailingHostsAreTold(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, withWebhooks, func(c *config.Config) {
		c.CircuitBreaker.FailureThreshold = 1000 // a host behind an open breaker fails no more
	})
	told := newHookReceiver(t)
	address := told.URL + "/account"
	_, err := n.Admin.PatchAccount(t.Context(), "acme", admin.PatchAccount{CallbackURL: &address})
	must(t, "set the callback address", err)
	rules := sinktest.NewRules(t, 3).To("/gone", "410").To("/ill", "503")
	secret, err := n.Admin.WebhookSecret(t.Context(), "acme")
	must(t, "ask for the secret", err)
	gone, ill := sinktest.NewWebhookReceiver(t, false, rules, secret.Secret), sinktest.NewWebhookReceiver(t, false, rules, secret.Secret)
	host := func(r *sinktest.WebhookReceiver) string { return strings.TrimPrefix(r.URL(), "http://") }
	events := openFeed(t, n)
	alert := func(name, subject string) (found admin.Alert) {
		s, err := n.Admin.Status(t.Context())
		must(t, "status", err)
		for _, a := range s.Alerts {
			if a.Name == name && a.Subject == subject {
				found = a
			}
		}
		return found
	}
	awaitAlert := func(name string, r *sinktest.WebhookReceiver, says string) {
		t.Helper()
		var a admin.Alert
		appliancetest.Eventually(t, 30*time.Second, name+" fires for "+host(r), func() bool { a = alert(name, host(r)); return a.Name != "" })
		if !strings.Contains(a.WhatToDo, says) || !strings.Contains(a.Summary, "acme") {
			t.Errorf("%s says %q, %q, want %q in it", name, a.Summary, a.WhatToDo, says)
		}
	}
	over := func(name string, r *sinktest.WebhookReceiver) {
		t.Helper()
		appliancetest.Eventually(t, 30*time.Second, name+" is over for "+host(r), func() bool { return alert(name, host(r)).Name == "" })
	}
	awaitTold := func(kind string, r *sinktest.WebhookReceiver) {
		t.Helper()
		appliancetest.Eventually(t, 30*time.Second, kind+" is told of "+host(r), func() bool {
			at := `"host":"` + host(r)
			return strings.Contains(events.event(kind), at) && slices.ContainsFunc(told.got("/account"), func(body string) bool {
				return strings.Contains(body, kind) && strings.Contains(body, at)
			})
		})
	}
	for _, name := range []string{"webhook_host_off", "webhook_host_failing"} {
		if fires(n.Admin, name) {
			t.Fatalf("%s fires while nothing has failed", name)
		}
	}

	awaitStatus(t, n, post(t, n, map[string]any{"channel": "webhook", "to": gone.URL() + "/gone", "body": "{}"}), "failed")
	awaitAlert("webhook_host_off", gone, "forebay account endpoint enable acme ")
	awaitTold("endpoint.disabled", gone)
	s, err := n.Admin.Status(t.Context())
	must(t, "status", err)
	if len(s.Endpoints) != 1 || s.Endpoints[0].Reason != "gone" || s.Endpoints[0].Host != host(gone) ||
		!slices.ContainsFunc(s.Breakers, func(b admin.BreakerStatus) bool {
			return b.Name == "webhook:"+host(gone) && b.HostOff && b.HostNote != ""
		}) {
		t.Errorf("status: endpoints %+v, breakers %+v", s.Endpoints, s.Breakers)
	}
	if got := metric(t, n, `forebay_webhook_endpoints{state="disabled"}`); got != 1 {
		t.Errorf("/metrics: %v addresses are off, want 1", got)
	}

	// The real patience takes five days: three are over when this one fails again.
	must(t, "look back", n.KeepEndpoint(t.Context(), "acme", ill.URL()+"/ill", time.Now().Add(-72*time.Hour), 0))
	post(t, n, map[string]any{"channel": "webhook", "to": ill.URL() + "/ill", "body": "{}"})
	awaitAlert("webhook_host_failing", ill, "forebay account endpoint list acme")
	awaitTold("endpoint.failing", ill)
	if got := metric(t, n, `forebay_webhook_endpoint_stages_total{stage="50"}`); got != 1 {
		t.Errorf("/metrics: %v addresses came to half of the patience, want 1", got)
	}
	if rules.Met("503") == 0 || rules.Met("410") == 0 {
		t.Error("no fault was seen: nothing is proved")
	}
	rules.Clear()
	post(t, n, map[string]any{"channel": "webhook", "to": ill.URL() + "/ill", "body": "{}"})
	appliancetest.Eventually(t, 30*time.Second, "one address is left in the status", func() bool {
		s, err = n.Admin.Status(t.Context())
		must(t, "status", err)
		return len(s.Endpoints) == 1
	})
	if s.Endpoints[0].Host != host(gone) {
		t.Errorf("what works now is still listed, and not what is off: %+v", s.Endpoints)
	}
	must(t, "switch it on", n.Admin.EnableEndpoint(t.Context(), "acme", s.Endpoints[0].ID))
	over("webhook_host_failing", ill)
	over("webhook_host_off", gone)

	rules.To("/ill", "503")
	must(t, "look back", n.KeepEndpoint(t.Context(), "acme", ill.URL()+"/ill", time.Now().Add(-121*time.Hour), 90))
	post(t, n, map[string]any{"channel": "webhook", "to": ill.URL() + "/ill", "body": "{}"})
	awaitAlert("webhook_host_off", ill, "forebay message requeue --status failed --channel webhook --account acme")
}

// TestCallbackOfAnAccountIsHeldToTheConfiguration: an account's callback address may
// be http exactly where those of messages may.
func TestCallbackOfAnAccountIsHeldToTheConfiguration(t *testing.T) {
	t.Parallel()
	plain := "http://127.0.0.1:1/hook"
	for _, allowed := range []bool{false, true} {
		options := []appliancetest.Option{}
		if allowed {
			options = append(options, withWebhooks)
		}
		n := appliancetest.Start(t, options...)
		_, patched := n.Admin.PatchAccount(t.Context(), "acme", admin.PatchAccount{CallbackURL: &plain})
		_, created := n.Admin.CreateAccount(t.Context(), admin.CreateAccount{ID: "other", Tier: "development", CallbackURL: plain})
		for what, err := range map[string]error{"change": patched, "create": created} {
			if allowed != (err == nil) || !allowed && !strings.Contains(err.Error(), "channels.webhook.allow_http") {
				t.Errorf("allow_http %v: %s an account with %s: %v", allowed, what, plain, err)
			}
		}
		a, err := n.Admin.Account(t.Context(), "acme")
		must(t, "show the account", err)
		if got := a.CallbackURL == plain; got != allowed {
			t.Errorf("allow_http %v: the account's address is %q", allowed, a.CallbackURL)
		}
		status, text := ask(t, n, http.MethodPost, "/v1/messages", `{"channel":"store","body":"b","callback_url":"`+plain+`"}`)
		if (status == http.StatusAccepted) != allowed {
			t.Errorf("allow_http %v: a message with that address: %d %s", allowed, status, text)
		}
	}
}
