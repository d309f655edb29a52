package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"forebay/sink"
	"forebay/sink/sinktest"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// kind names the outcome that an error stands for.
func kind(err error) string {
	for name, is := range map[string]func() bool{
		"permanent": func() bool { _, ok := errors.AsType[*sink.Permanent](err); return ok },
		"after":     func() bool { _, ok := errors.AsType[*sink.RetryAfter](err); return ok },
		"throttled": func() bool { _, ok := errors.AsType[*sink.Throttled](err); return ok },
		"stop":      func() bool { _, ok := errors.AsType[*sink.StopChannel](err); return ok },
		"unknown":   func() bool { _, ok := errors.AsType[*sink.Unknown](err); return ok },
		"transient": func() bool { _, ok := errors.AsType[*sink.Transient](err); return ok },
	} {
		if is() {
			return name
		}
	}
	if err == nil {
		return "sent"
	}
	return fmt.Sprintf("%T", err)
}

func TestSendIsWhatReceiversExpect(t *testing.T) {
	for name, test := range map[string]struct{ body, contentType string }{
		"json": {`{"type":"message.sent","data":{"ä":1}}`, "application/json"},
		"text": {"plain { text", "text/plain; charset=utf-8"},
	} {
		t.Run(name, func(t *testing.T) {
			r := sinktest.NewWebhookReceiver(t, true, nil, oldSecret)
			c := newChannel(t, Settings{Allow: loopback, TLS: r.TLS()}, nil, newSecret, oldSecret)
			d := delivery(r.URL()+"/hook?x=1", test.body)
			d.Record.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
			sent, err := c.Send(t.Context(), d)
			if err != nil || !sent.Delivered || sent.ChannelCode != "204" {
				t.Fatalf("got %+v, %v, wrong: %q", sent, err, r.Wrong())
			}
			call := r.Calls()[0]
			for header, want := range map[string]string{"Webhook-Id": d.Record.ID.String(), "Content-Type": test.contentType,
				"Traceparent": d.Record.TraceParent, "User-Agent": "Forebay", "Accept-Encoding": "", "Idempotency-Key": ""} {
				if got := call.Header.Get(header); got != want {
					t.Errorf("%s: got %q, want %q", header, got, want)
				}
			}
			if call.Body != test.body || r.Times(d.Record.ID.String()) != 1 {
				t.Errorf("got body %q, accepted %d times", call.Body, r.Times(d.Record.ID.String()))
			}
		})
	}
}

// TestAnswers has a row for each class of answer, and the attempt where it counts.
func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		fault   sinktest.Fault
		attempt int
		want    string
		code    string
		neutral bool
	}{
		{"", 1, "sent", "", false},
		{"200", 1, "sent", "", false},
		{"302", 1, "transient", "recipient_refused", true},
		{sinktest.FaultRedirect, 2, "transient", "recipient_refused", true},
		{sinktest.FaultRedirect, 3, "permanent", "recipient_refused", true},
		{"400", 1, "transient", "recipient_refused", true},
		{"401", 3, "permanent", "recipient_refused", true},
		{"404", 7, "permanent", "recipient_refused", true},
		{"408", 7, "transient", "channel_unavailable", true},
		{"409", 7, "transient", "channel_unavailable", true},
		{"410", 1, "permanent", "recipient_refused", true},
		{"413", 1, "permanent", "too_large", true},
		{"425", 7, "transient", "channel_unavailable", true},
		{"429", 1, "throttled", "recipient_rate_limited", true},
		{"429 7", 1, "throttled", "recipient_rate_limited", true},
		{"500", 7, "transient", "channel_unavailable", false},
		{"502", 7, "transient", "channel_unavailable", false},
		{"503", 7, "transient", "channel_unavailable", false},
		{"503 9", 7, "after", "channel_unavailable", false},
		{"504 Fri, 31 Dec 1999 23:59:59 GMT", 7, "transient", "channel_unavailable", false},
		{sinktest.FaultCut, 1, "unknown", "channel_unavailable", false},
		{sinktest.FaultRefuse, 1, "unknown", "channel_unavailable", false},
		{sinktest.FaultGarbage, 1, "unknown", "channel_unavailable", false},
		{sinktest.FaultHeader, 1, "unknown", "channel_unavailable", false},
		{sinktest.FaultHang, 1, "unknown", "channel_timeout", false},
		{sinktest.FaultHuge, 1, "sent", "", false},
		{sinktest.FaultTrickle, 1, "sent", "", false},
	} {
		t.Run(fmt.Sprintf("%s at attempt %d", test.fault, test.attempt), func(t *testing.T) {
			t.Parallel()
			rules := sinktest.NewRules(t, 1)
			if test.fault != "" {
				rules.Every(1, test.fault)
			}
			r := sinktest.NewWebhookReceiver(t, false, rules, oldSecret)
			c := newChannel(t, Settings{Allow: loopback, AllowHTTP: true, Timeout: 2 * time.Second}, nil, oldSecret)
			d := delivery(r.URL()+"/hook", "{}")
			d.Attempt = test.attempt
			_, err := c.Send(t.Context(), d)
			if got := kind(err); got != test.want {
				t.Fatalf("got %s (%v), want %s", got, err, test.want)
			}
			if test.fault != "" && rules.Met(test.fault) != 1 {
				t.Fatalf("the receiver met the fault %d times, want once", rules.Met(test.fault))
			}
			if wrong := r.Wrong(); len(wrong) > 0 {
				t.Errorf("a real receiver would refuse: %q", wrong)
			}
			if test.want == "sent" {
				return
			}
			f := faultOf(t, err)
			if f.Failure.Code != test.code || f.Neutral != test.neutral || f.Failure.Message == "" {
				t.Errorf("got %s, neutral %v, %q; want %s, neutral %v", f.Failure.Code, f.Neutral, f.Failure.Message, test.code, test.neutral)
			}
		})
	}
}

func faultOf(t *testing.T, err error) sink.Fault {
	t.Helper()
	switch e := err.(type) {
	case *sink.Permanent:
		return e.Fault
	case *sink.RetryAfter:
		if e.After != 9*time.Second {
			t.Errorf("got a wait of %s, want 9s", e.After)
		}
		return e.Fault
	case *sink.Throttled:
		if e.After != 0 && e.After != 7*time.Second || e.Scope != sink.ScopeRecipient {
			t.Errorf("got a wait of %s for the %s", e.After, e.Scope)
		}
		return e.Fault
	case *sink.Unknown:
		return e.Fault
	case *sink.Transient:
		return e.Fault
	}
	t.Fatalf("%T carries no fault", err)
	return sink.Fault{}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "-5": 0, "1.5": 0, "soon": 0, "99999999999999999999": 0,
		"2000000000":                    maxRetryAfter,
		"Tue, 24 Nov 2026 12:00:30 GMT": 30 * time.Second, "Tue, 24 Nov 2026 11:00:00 GMT": 0, "Tue, 24 Nov 2099 11:00:00 GMT": maxRetryAfter,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// TestAHugeAnswerIsCutShort: of 10 MB next to nothing is taken.
func TestAHugeAnswerIsCutShort(t *testing.T) {
	r := sinktest.NewWebhookReceiver(t, false, sinktest.NewRules(t, 1).Every(1, sinktest.FaultHuge), oldSecret)
	c := newChannel(t, Settings{Allow: loopback, AllowHTTP: true}, nil, oldSecret)
	if _, err := c.Send(t.Context(), delivery(r.URL()+"/", "{}")); err != nil {
		t.Fatal(err)
	}
	if got := r.Sent(); got == 0 || got > 6<<20 { // what lay in sockets' buffers, too
		t.Errorf("the receiver got rid of %d bytes of its 10 MB", got)
	}
}

func TestLoopbackIsRefused(t *testing.T) {
	r := sinktest.NewWebhookReceiver(t, false, nil, oldSecret)
	c := newChannel(t, Settings{AllowHTTP: true}, nil, oldSecret)
	for _, to := range []string{r.URL(), "http://localhost" + r.URL()[len("http://127.0.0.1"):]} {
		_, err := c.Send(t.Context(), delivery(to, "{}"))
		if kind(err) != "permanent" || faultOf(t, err).Failure.Code != "invalid_recipient" {
			t.Errorf("%s: got %v", to, err)
		}
	}
	if len(r.Calls()) > 0 {
		t.Error("the receiver was reached")
	}
	// The control: the same call gets through where the network is allowed.
	if err := c.Apply(Settings{AllowHTTP: true, Allow: loopback}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(t.Context(), delivery(r.URL(), "{}")); err != nil {
		t.Error(err)
	}
}

func TestNobodyListens(t *testing.T) {
	r := sinktest.NewWebhookReceiver(t, true, nil, oldSecret)
	c := newChannel(t, Settings{Allow: loopback, AllowHTTP: true}, nil, oldSecret)
	for to, want := range map[string]string{
		"http://127.0.0.1:1/": "transient",
		r.URL():               "transient", // its certificate is not trusted: nothing left
	} {
		if _, err := c.Send(t.Context(), delivery(to, "{}")); kind(err) != want {
			t.Errorf("%s: got %s (%v), want %s", to, kind(err), err, want)
		}
	}
}

func TestSendWithoutASecret(t *testing.T) {
	c := newChannel(t, Settings{Allow: loopback, AllowHTTP: true}, nil)
	if _, err := c.Send(t.Context(), delivery("http://127.0.0.1:1/", "{}")); kind(err) != "permanent" {
		t.Errorf("of an account that is gone: got %v", err)
	}
}

func TestCanceledIsNoEvidence(t *testing.T) {
	rules := sinktest.NewRules(t, 1).Every(1, sinktest.FaultHang)
	r := sinktest.NewWebhookReceiver(t, false, rules, oldSecret)
	c := newChannel(t, Settings{Allow: loopback, AllowHTTP: true}, nil, oldSecret)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		look := time.NewTicker(time.Millisecond)
		defer look.Stop()
		for r.Times(delivery("", "").Record.ID.String()) == 0 {
			<-look.C
		}
	}()
	_, err := c.Send(ctx, delivery(r.URL(), "{}"))
	if kind(err) != "unknown" || !faultOf(t, err).Neutral {
		t.Errorf("got %v", err)
	}
}

// TestConnectionsAreUsedAgain: not one for each call, and not more than PerHost.
func TestConnectionsAreUsedAgain(t *testing.T) {
	r := sinktest.NewWebhookReceiver(t, false, nil, oldSecret)
	c := newChannel(t, Settings{Allow: loopback, AllowHTTP: true, PerHost: 4}, nil, oldSecret)
	var group sync.WaitGroup
	errs := make([]error, 200)
	for i := range errs {
		group.Go(func() { _, errs[i] = c.Send(t.Context(), delivery(r.URL(), "{}")) })
	}
	group.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		t.Fatal(errs[i])
	}
	if got := r.Connections(); got < 1 || got > 4 {
		t.Errorf("200 calls over %d connections, want at most 4", got)
	}
}
