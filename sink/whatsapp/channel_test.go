package whatsapp

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	*Channel
	meta  *sinktest.WhatsApp
	rules *sinktest.Rules
	file  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	rules := sinktest.NewRules(t, 1)
	w := &world{meta: sinktest.NewWhatsApp(t, 1, rules), rules: rules, file: filepath.Join(t.TempDir(), "token")}
	w.meta.EveryoneWrote()
	w.setToken(t, sinktest.WhatsAppToken)
	token, err := NewTokenFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	w.Channel, err = New(Config{BaseURL: w.meta.URL(), PhoneNumberID: sinktest.WhatsAppNumber, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) setToken(t *testing.T, token string) {
	t.Helper()
	if err := os.WriteFile(w.file+".new", []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.file+".new", w.file); err != nil {
		t.Fatal(err)
	}
}

func text(to, body string) *sink.Delivery {
	return &sink.Delivery{Attempt: 1, Record: message.Record{ID: message.NewID(1_800_000_000_000, 1, 1, message.Normal, 7), Seq: 1,
		Message: message.Message{Account: "acme", Channel: message.ChannelWhatsApp, To: to, Body: body}}}
}

const someone = "+4915112345678"

// outcome is what a test expects of an error.
type outcome struct {
	Kind    string
	Neutral bool
	After   time.Duration
	Scope   sink.Scope
}

func outcomeOf(t *testing.T, err error) (outcome, message.Failure) {
	t.Helper()
	switch e := err.(type) {
	case nil:
		return outcome{Kind: "sent"}, message.Failure{}
	case *sink.Permanent:
		return outcome{Kind: "permanent", Neutral: e.Neutral}, e.Failure
	case *sink.RetryAfter:
		return outcome{Kind: "after", Neutral: e.Neutral, After: e.After}, e.Failure
	case *sink.Throttled:
		return outcome{Kind: "throttled", Neutral: e.Neutral, After: e.After, Scope: e.Scope}, e.Failure
	case *sink.StopChannel:
		return outcome{Kind: "stop", Neutral: e.Neutral}, e.Failure
	case *sink.Unknown:
		return outcome{Kind: "unknown", Neutral: e.Neutral}, e.Failure
	case *sink.Transient:
		return outcome{Kind: "transient", Neutral: e.Neutral}, e.Failure
	}
	t.Fatalf("%T: %v", err, err)
	return outcome{}, message.Failure{}
}

func TestSendText(t *testing.T) {
	w := newWorld(t)
	d := text(someone, `ä "quoted" 😀`)
	d.Record.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	sent, err := w.Send(t.Context(), d)
	if err != nil || !strings.HasPrefix(sent.ProviderID, "wamid.") || sent.Delivered {
		t.Fatalf("got %+v, %v, wrong %q", sent, err, w.meta.Wrong())
	}
	want := `{"messaging_product":"whatsapp","recipient_type":"individual","to":"+4915112345678","type":"text",` +
		`"text":{"preview_url":false,"body":"ä \"quoted\" 😀"},"biz_opaque_callback_data":"` + d.Record.ID.String() + `"}`
	if diff := cmp.Diff(want, string(w.meta.Last())); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	if got := w.meta.LastTrace(); got != d.Record.TraceParent {
		t.Errorf("traceparent %q, want %q", got, d.Record.TraceParent)
	}
	if w.meta.Times(d.Record.ID.String()) != 1 {
		t.Error("not in the ledger under our id")
	}
}

func TestSendTemplate(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]struct {
		template message.Template
		want     string
	}{
		"with parameters": {message.Template{Name: "order_shipped", Language: "en_US", Parameters: []string{"4711", "Tuesday"}}, "sent"},
		"without":         {message.Template{Name: "hello", Language: "en"}, "sent"},
		"too few":         {message.Template{Name: "order_shipped", Language: "en_US", Parameters: []string{"4711"}}, "permanent"},
		"not there":       {message.Template{Name: "order_shipped", Language: "de"}, "permanent"},
	} {
		d := text(someone, "")
		d.Record.Template = &test.template
		_, err := w.Send(t.Context(), d)
		got, failure := outcomeOf(t, err)
		if got.Kind != test.want || got.Kind == "permanent" && failure.Code != "template_error" {
			t.Errorf("%s: got %+v %+v, want %s", name, got, failure, test.want)
		}
	}
}

// TestEveryCode sends a message for every row of the table, by each HTTP status
// that Meta is known to answer it with: the status must not matter.
func TestEveryCode(t *testing.T) {
	kinds := map[class]outcome{
		permanent: {Kind: "permanent", Neutral: true}, later: {Kind: "permanent", Neutral: true},
		transient: {Kind: "transient"}, brief: {Kind: "transient"},
		throttleNumber: {Kind: "throttled", Neutral: true, Scope: sink.ScopeNumber},
		throttlePair:   {Kind: "throttled", Neutral: true, Scope: sink.ScopeRecipient, After: time.Second},
		accountStop:    {Kind: "stop"},
	}
	special := map[int]outcome{
		4: {"throttled", true, accountWait, sink.ScopeAccount}, 80007: {"throttled", true, accountWait, sink.ScopeAccount},
		133016: {"throttled", true, accountWait, sink.ScopeAccount}, 131064: {"throttled", true, misuseWait, sink.ScopeAccount},
		131057: {"after", true, time.Minute, 0}, 134101: {"after", true, 2 * time.Minute, 0},
	}
	all := append([]row{}, rows...)
	for code := 200; code < 300; code += 33 {
		all = append(all, row{code: code, class: accountStop, ours: auth})
	}
	for _, row := range all {
		for _, status := range []int{400, 401, 429, 500, 503} {
			w := newWorld(t)
			w.rules.Every(1, sinktest.GraphError(status, row.code, 0))
			_, err := w.Send(t.Context(), text(someone, "x"))
			want, ok := special[row.code]
			if !ok {
				want = kinds[row.class]
			}
			got, failure := outcomeOf(t, err)
			if got != want || failure.Code != row.ours || failure.ChannelCode != fmt.Sprint(row.code) || failure.Message == "" || failure.Category == "" {
				t.Errorf("code %d as %d: got %+v %+v, want %+v, %s", row.code, status, got, failure, want, row.ours)
			}
			if w.meta.Total() != 0 {
				t.Errorf("code %d: the stand-in took it", row.code)
			}
		}
	}
	for i := range rows[1:] {
		if rows[i].code >= rows[i+1].code {
			t.Errorf("row %d is out of order", rows[i+1].code)
		}
	}
}

// TestAnswersBesideTheTable: what is no known code.
func TestAnswersBesideTheTable(t *testing.T) {
	for _, test := range []struct {
		fault   sinktest.Fault
		attempt int
		want    outcome
		taken   int
	}{
		{sinktest.GraphError(400, 100, 33), 1, outcome{Kind: "stop"}, 0},
		{sinktest.GraphError(400, 1, 0), 2, outcome{Kind: "transient"}, 0},
		{sinktest.GraphError(400, 1, 0), 3, outcome{Kind: "permanent", Neutral: true}, 0},
		{sinktest.GraphError(400, 999999, 0), 1, outcome{Kind: "permanent", Neutral: true}, 0},
		{sinktest.GraphError(429, 999999, 0), 1, outcome{Kind: "throttled", Neutral: true, Scope: sink.ScopeNumber}, 0},
		{sinktest.GraphError(500, 999999, 0), 1, outcome{Kind: "transient"}, 0},
		{sinktest.GraphError(401, 999999, 0), 1, outcome{Kind: "stop"}, 0},
		{sinktest.FaultHTML, 1, outcome{Kind: "transient"}, 0},
		{sinktest.FaultEmpty, 1, outcome{Kind: "sent"}, 1}, // taken, with no id
		{sinktest.FaultNoID, 1, outcome{Kind: "sent"}, 1},
		{sinktest.FaultHeld, 1, outcome{Kind: "sent"}, 1},
		{sinktest.FaultHuge, 1, outcome{Kind: "sent"}, 1},
		{sinktest.FaultTrickle, 1, outcome{Kind: "sent"}, 1}, // its header was whole
		{sinktest.FaultRedirect, 1, outcome{Kind: "transient"}, 0},
		{sinktest.GraphErrorAfter(429, 130429, 7), 1, outcome{Kind: "throttled", Neutral: true, Scope: sink.ScopeNumber, After: 7 * time.Second}, 0},
		{sinktest.GraphErrorAfter(503, 2, 7), 1, outcome{Kind: "after", After: 7 * time.Second}, 0},
		{sinktest.FaultCut, 1, outcome{Kind: "unknown"}, 1},
		{sinktest.FaultHang, 1, outcome{Kind: "unknown"}, 1},
		{sinktest.FaultRefuse, 1, outcome{Kind: "unknown"}, 0},
	} {
		t.Run(fmt.Sprint(test.fault, " at ", test.attempt), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.rules.Every(1, test.fault)
			d := text(someone, "x")
			d.Attempt = test.attempt
			limit := time.Minute
			if test.fault == sinktest.FaultHang || test.fault == sinktest.FaultTrickle {
				limit = 3 * time.Second // it never ends by itself
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := w.Send(ctx, d)
			if got, _ := outcomeOf(t, err); got != test.want {
				t.Errorf("got %+v (%v), want %+v", got, err, test.want)
			}
			if got := w.meta.Times(d.Record.ID.String()); got != test.taken || w.rules.Met(test.fault) != 1 {
				t.Errorf("taken %d times, want %d; met the fault %d times", got, test.taken, w.rules.Met(test.fault))
			}
		})
	}
}

// TestLimitsOfTheStandIn: it holds its callers to what Meta does, and the channel
// understands each refusal.
func TestLimitsOfTheStandIn(t *testing.T) {
	rules := sinktest.NewRules(t, 1)
	w := newWorld(t)
	w.meta = sinktest.NewWhatsApp(t, 1, rules)
	var err error
	if w.Channel, err = New(Config{BaseURL: w.meta.URL(), PhoneNumberID: sinktest.WhatsAppNumber, Token: w.token}); err != nil {
		t.Fatal(err)
	}
	send := func(to string) (outcome, message.Failure) {
		t.Helper()
		_, err := w.Send(t.Context(), text(to, "x"))
		return outcomeOf(t, err)
	}
	template := text(someone, "")
	template.Record.Template = &message.Template{Name: "hello", Language: "en"}
	w.meta.Wrote("+4915112345679", time.Now().Add(-25*time.Hour))
	for _, to := range []string{someone, "+4915112345679"} {
		if got, f := send(to); got != (outcome{Kind: "permanent", Neutral: true}) || f.Code != "window_closed" {
			t.Errorf("text outside the window: got %+v %+v", got, f)
		}
	}
	if _, err := w.Send(t.Context(), template); err != nil {
		t.Errorf("a template outside the window: %v", err)
	}
	w.meta.Wrote(someone, time.Now().Add(-time.Hour))
	if got, f := send(someone); got.Kind != "sent" {
		t.Errorf("text within the window: got %+v %+v", got, f)
	}
	w.meta.EveryoneWrote()
	w.meta.SetPairPace(time.Hour, 2)
	for n, want := range []string{"sent", "sent", "throttled"} {
		if got, f := send("+4915112345672"); got.Kind != want || want == "throttled" && (got.Scope != sink.ScopeRecipient || f.ChannelCode != "131056") {
			t.Errorf("message %d of a pair: got %+v %+v, want %s", n, got, f, want)
		}
	}
	w.meta.SetPace(time.Hour, 2) // some of the old pace may be spent
	sent := 0
	for n := range 4 {
		got, f := send("+491511234568" + string(rune('0'+n)))
		if got.Kind == "sent" {
			sent++
		} else if got.Scope != sink.ScopeNumber || f.ChannelCode != "130429" {
			t.Errorf("over the number's throughput: got %+v %+v", got, f)
		}
	}
	for code, want := range map[int]int{131047: 2, 131056: 1, 130429: 4 - sent} {
		if got := w.meta.Limited(code); got != want || sent > 2 {
			t.Errorf("%d calls met %d, want %d; %d of 4 went", got, code, want, sent)
		}
	}
	if len(w.meta.Wrong()) != 0 {
		t.Errorf("what a limit refuses is no mistake: %q", w.meta.Wrong())
	}
}

func TestNothingLeftIsTransient(t *testing.T) {
	w := newWorld(t)
	other, err := New(Config{BaseURL: "http://127.0.0.1:1", PhoneNumberID: "1", Token: w.token})
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Send(t.Context(), text(someone, "x"))
	if got, _ := outcomeOf(t, err); got != (outcome{Kind: "transient"}) {
		t.Errorf("got %+v", got)
	}
}

func TestPairsPace(t *testing.T) {
	var p pairs
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for n := range pairBurst {
		if wait := p.take(someone, now); wait != 0 {
			t.Fatalf("message %d of the burst waits %s", n, wait)
		}
	}
	if wait := p.take(someone, now); wait != pairEvery {
		t.Errorf("after the burst: got a wait of %s, want %s", wait, pairEvery)
	}
	if wait := p.take("+4915199999999", now); wait != 0 {
		t.Errorf("another recipient waits %s", wait)
	}
	if wait := p.take(someone, now.Add(pairEvery)); wait != 0 {
		t.Errorf("6 seconds later: got a wait of %s", wait)
	}
	later := now.Add(time.Hour)
	for n, want := range []time.Duration{1, 4, 16, 64, 256, 1024, 4096, 4096} {
		if got := p.refused(someone, later); got != want*time.Second {
			t.Errorf("refusal %d: got %s, want %s", n, got, want*time.Second)
		}
		if got := p.take(someone, later); got != want*time.Second {
			t.Errorf("right after refusal %d: got a wait of %s", n, got)
		}
	}
	p.sent(someone)
	if got := p.refused(someone, later); got != time.Second {
		t.Errorf("after a success: got %s", got)
	}
	p.take("+1", later.Add(100*time.Hour))
	if len(p.pairs) != 1 {
		t.Errorf("%d recipients are remembered, want 1", len(p.pairs))
	}
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("é", 4096)
	for name, test := range map[string]struct {
		m    message.Message
		want string
	}{
		"text":              {message.Message{To: someone, Body: "x"}, ""},
		"longest text":      {message.Message{To: someone, Body: long}, ""},
		"too long":          {message.Message{To: someone, Body: long + "x"}, "invalid_content"},
		"space":             {message.Message{To: someone, Body: " \n"}, "invalid_content"},
		"no plus":           {message.Message{To: "4915112345678", Body: "x"}, "invalid_recipient"},
		"no such country":   {message.Message{To: "+999123456789", Body: "x"}, "invalid_recipient"},
		"too short":         {message.Message{To: "+49151", Body: "x"}, "invalid_recipient"},
		"yemen":             {message.Message{To: "+967771234567", Body: "x"}, ""},
		"words":             {message.Message{To: "+49call", Body: "x"}, "invalid_recipient"},
		"test recipient":    {message.Message{To: "+00000000001", Body: "x", Test: true}, ""},
		"not for a live":    {message.Message{To: "+00000000001", Body: "x"}, "invalid_recipient"},
		"template":          {message.Message{To: someone, Template: &message.Template{Name: "a_1", Language: "en_US", Parameters: []string{"x"}}}, ""},
		"template name":     {message.Message{To: someone, Template: &message.Template{Name: "A b", Language: "en"}}, "template_error"},
		"template language": {message.Message{To: someone, Template: &message.Template{Name: "a", Language: "english"}}, "template_error"},
		"empty parameter":   {message.Message{To: someone, Template: &message.Template{Name: "a", Language: "en", Parameters: []string{""}}}, "template_error"},
		"line in parameter": {message.Message{To: someone, Template: &message.Template{Name: "a", Language: "en", Parameters: []string{"a\nb"}}}, "template_error"},
	} {
		got := ""
		if f := w.Check(&test.m); f != nil {
			got = f.Code
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
