package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"forebay/wal/message"

	"github.com/google/go-cmp/cmp"
)

func TestAnswerFormat(t *testing.T) {
	w := newWorld(t)
	rec := w.do("POST", "/v1/messages", hello)
	record := w.log.all()[0]
	want := fmt.Sprintf(`{"id":"%s","status":"accepted","accepted_at":"%s"}`, record.ID, record.ID.Time().Format("2006-01-02T15:04:05.000Z"))
	if got := rec.Body.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := rec.Header().Get("Location"), "/v1/messages/"+record.ID.String(); got != want {
		t.Errorf("got Location %q, want %q", got, want)
	}
	if id := rec.Header().Get("X-Request-Id"); !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(id) || record.RequestID != id {
		t.Errorf("got request id %q, in the message %q", id, record.RequestID)
	}
}

func TestMessageIsWhatWasSent(t *testing.T) {
	w := newWorld(t)
	sendAt := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	rec := w.do("POST", "/v1/messages", `{"channel":"email","to":"a@b.example","subject":"s\u00e4","body":"b","html":"<p>","priority":"critical","send_at":"`+
		sendAt.Format(time.RFC3339Nano)+`","ttl_seconds":60,"client_ref":"r","metadata":{"b":"2","a":"1"},"callback_url":"https://x.example/"}`,
		"Authorization", "bearer "+testKey, "Traceparent", trace, "Idempotency-Key", `"k\"1"`)
	if rec.Code != 202 {
		t.Fatalf("got %d %s", rec.Code, rec.Body)
	}
	got := w.log.all()[0].Message
	want := message.Message{Account: account, Channel: message.ChannelEmail, Priority: message.Critical, Test: true,
		To: "a@b.example", Subject: "sä", Body: "b", HTML: "<p>", SendAt: sendAt, TTL: time.Minute, ClientRef: "r",
		Metadata: []message.Pair{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}}, CallbackURL: "https://x.example/",
		IdempotencyKey: `k"1`, TraceParent: trace, RequestID: rec.Header().Get("X-Request-Id")}
	want.Fingerprint = want.PayloadFingerprint()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DefaultTTL = time.Hour })
	w.do("POST", "/v1/messages", `{"channel":"email","to":"a@b.example","subject":"s","body":"b","send_at":"2020-01-01T00:00:00Z"}`, "Idempotency-Key", "k")
	w.do("POST", "/v1/messages", hello, "Traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01")
	records := w.log.all()
	if m := records[0]; m.TTL != time.Hour || m.Priority != message.Normal || !m.SendAt.IsZero() || m.CallbackURL != "https://acme.example/status" {
		t.Errorf("got %+v", m)
	}
	if m := records[1]; m.TTL != 0 || m.TraceParent != "" || m.Fingerprint != (message.Fingerprint{}) {
		t.Errorf("got %+v", m)
	}
	// Defaults take no part in the fingerprint: the same appliance with another
	// default still knows the request.
	w.cfg.DefaultTTL = 2 * time.Hour
	rec := w.do("POST", "/v1/messages", `{"channel":"email","to":"a@b.example","subject":"s","body":"b","send_at":"2020-01-01T00:00:00Z"}`, "Idempotency-Key", `"k"`)
	if rec.Code != 202 || rec.Header().Get("Idempotent-Replayed") != "true" || !strings.Contains(rec.Body.String(), records[0].ID.String()) {
		t.Errorf("got %d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	if rec := w.do("POST", "/v1/messages", hello, "Idempotency-Key", "k"); rec.Code != 422 {
		t.Errorf("another payload: got %d", rec.Code)
	}
}

func TestChannelThatIsNotEnabled(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Channels = nil })
	rec := w.do("POST", "/v1/messages", `{"channel":"email","body":"b"}`)
	if rec.Code != 422 || !cmp.Equal(pointers(t, rec.Body.Bytes()), []string{"#/channel"}) {
		t.Errorf("got %d %s", rec.Code, rec.Body)
	}
}

func TestPreferWait(t *testing.T) {
	stored := func(context.Context, message.ID) (message.State, error) {
		return message.State{Status: message.Stored}, nil
	}
	broken := func(context.Context, message.ID) (message.State, error) { return message.State{}, ErrUnavailable }
	tests := []struct {
		prefer  string
		wait    func(context.Context, message.ID) (message.State, error)
		status  int
		applied string
	}{
		{"wait=5", stored, 201, "wait=5"},
		{"respond-async, wait=100", stored, 201, "wait=30"},
		{`foo="a", WAIT = "2"; x=y`, stored, 201, "wait=2"},
		{"wait=5", broken, 202, "wait=5"},
		{"wait=99999999999999999999", stored, 201, "wait=30"},
		{`foo="x, wait=7"`, stored, 202, ""},
		{`foo="x\", wait=7", wait=3`, stored, 201, "wait=3"},
		{`foo; bar="; wait=7, wait=7", wait=4`, stored, 201, "wait=4"},
		{"wait=0", stored, 202, ""},
		{"wait=-1", stored, 202, ""},
		{"respond-async", stored, 202, ""},
		{"", stored, 202, ""},
	}
	for _, tt := range tests {
		w := newWorld(t)
		w.messages.wait = tt.wait
		rec := w.do("POST", "/v1/messages", hello, "Prefer", tt.prefer)
		if rec.Code != tt.status || rec.Header().Get("Preference-Applied") != tt.applied {
			t.Errorf("Prefer %q: got %d, applied %q; want %d, %q", tt.prefer, rec.Code, rec.Header().Get("Preference-Applied"), tt.status, tt.applied)
		}
		if strings.Contains(rec.Body.String(), `"stored"`) != (tt.status == 201) {
			t.Errorf("Prefer %q: got %s", tt.prefer, rec.Body)
		}
	}
}

func TestDrain(t *testing.T) {
	w := newWorld(t)
	waiting := make(chan struct{})
	w.messages.wait = func(ctx context.Context, _ message.ID) (message.State, error) {
		close(waiting)
		<-ctx.Done()
		return message.State{}, ctx.Err()
	}
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- w.do("POST", "/v1/messages", hello, "Prefer", "wait=30") }()
	<-waiting
	w.Drain()
	if rec := <-done; rec.Code != 202 {
		t.Errorf("in flight: got %d, want 202", rec.Code)
	}
	for _, target := range []string{"/v1/messages", "/v1/messages/batch"} {
		rec := w.do("POST", target, hello)
		if rec.Code != 503 || rec.Header().Get("Connection") != "close" || rec.Header().Get("Retry-After") == "" {
			t.Errorf("%s: got %d %v", target, rec.Code, rec.Header())
		}
		checkProblem(t, rec, "draining")
	}
	if rec := w.do("GET", "/readyz", ""); rec.Code != 503 || !strings.Contains(rec.Body.String(), `"unready"`) {
		t.Errorf("readyz: got %d %s", rec.Code, rec.Body)
	}
	if rec := w.do("GET", "/healthz", ""); rec.Code != 200 {
		t.Errorf("healthz: got %d", rec.Code)
	}
}

func TestReady(t *testing.T) {
	for status, want := range map[string]int{StatusReady: 200, StatusDegraded: 200, StatusUnready: 503} {
		w := newWorld(t, func(c *Config) {
			c.Ready = func(context.Context) Readiness {
				return Readiness{Status: status, Checks: map[string]any{"wal": map[string]string{"status": "ok"}}}
			}
		})
		rec := w.do("GET", "/readyz", "")
		if body := `{"checks":{"wal":{"status":"ok"}},"status":"` + status + `"}`; rec.Code != want || !sameJSON(rec.Body.String(), body) {
			t.Errorf("%s: got %d %s", status, rec.Code, rec.Body)
		}
	}
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && cmp.Equal(x, y)
}

func TestPanic(t *testing.T) {
	w := newWorld(t)
	w.log.before = func([]*message.Message) { panic("boom") }
	rec := w.do("POST", "/v1/messages", hello)
	if rec.Code != 503 {
		t.Errorf("got %d", rec.Code)
	}
	checkProblem(t, rec, "unavailable")
	if text := w.logged.String(); !strings.Contains(text, "boom") || !strings.Contains(text, "goroutine") {
		t.Errorf("the panic is not in the log: %s", text)
	}
	w.log.before = func([]*message.Message) { panic(http.ErrAbortHandler) }
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("got panic %v", v)
		}
	}()
	w.do("POST", "/v1/messages", hello)
}

// A client that has gone while its message was written is no error of ours.
func TestClientGone(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	w.log.before = func([]*message.Message) { cancel() }
	w.log.fail = func(*message.Message) error { return ctx.Err() }
	func() {
		defer func() {
			if v := recover(); v != http.ErrAbortHandler {
				t.Errorf("got panic %v", v)
			}
		}()
		w.Handler().ServeHTTP(httptest.NewRecorder(), request("POST", "/v1/messages", hello).WithContext(ctx))
	}()
	if text := w.logged.String(); strings.Contains(text, "ERROR") || !strings.Contains(text, `"status":499`) {
		t.Errorf("got log %s", text)
	}
}

func TestBodiesAreCounted(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxBuffered = 40 << 10 })
	if rec := w.do("POST", "/v1/messages", hello); rec.Code != 202 {
		t.Fatalf("got %d", rec.Code)
	}
	w.bodies.inUse.Add(38 << 10)
	if rec := w.do("POST", "/v1/messages", hello); rec.Code != 503 {
		t.Errorf("over the limit: got %d", rec.Code)
	}
	w.bodies.inUse.Add(-38 << 10)
	for _, body := range []string{hello, "{", strings.Repeat("x", 9<<10), `{"channel":"store"}`} {
		w.do("POST", "/v1/messages", body)
	}
	if n := w.bodies.inUse.Load(); n != 0 {
		t.Errorf("%d bytes are counted and not in use", n)
	}
}

func TestConfigValidate(t *testing.T) {
	_, err := New(Config{MaxBodyBytes: 1, MaxConnections: -1, ReadTimeout: -1, DefaultTTL: time.Millisecond, Channels: []message.Channel{9}})
	for _, field := range []string{"max_body_bytes", "max_connections", "read_timeout", "default_ttl", "channels", "log, messages and keys"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("error does not name %s: %v", field, err)
		}
	}
}

func TestGetAndList(t *testing.T) {
	w := newWorld(t)
	doc := document(t)
	for i := range 5 {
		w.do("POST", "/v1/messages", fmt.Sprintf(`{"channel":"store","to":"t","body":"b","client_ref":"r%d","metadata":{"k":"v"}}`, i%2))
	}
	records := w.log.all()
	r := request("GET", "/v1/messages/"+records[0].ID.String(), "")
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, r)
	at := records[0].ID.Time().Format("2006-01-02T15:04:05.000Z")
	want := `{"id":"` + records[0].ID.String() + `","channel":"store","to":"t","status":"accepted","final":false,"priority":"normal","client_ref":"r0","metadata":{"k":"v"},"accepted_at":"` + at + `"}`
	if rec.Code != 200 || rec.Body.String() != want {
		t.Errorf("got %d %s\nwant %s", rec.Code, rec.Body, want)
	}
	checkExchange(t, doc, w.API, r, "", rec)

	var seen []string
	cursor := ""
	for range 10 {
		target := "/v1/messages?limit=2"
		if cursor != "" {
			target += "&cursor=" + cursor
		}
		r := request("GET", target, "")
		rec := httptest.NewRecorder()
		w.Handler().ServeHTTP(rec, r)
		checkExchange(t, doc, w.API, r, "", rec)
		var page struct {
			Data       []struct{ ID string }
			HasMore    bool   `json:"has_more"`
			NextCursor string `json:"next_cursor"`
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &page); err != nil || rec.Code != 200 {
			t.Fatalf("got %d %s", rec.Code, rec.Body)
		}
		for _, m := range page.Data {
			seen = append(seen, m.ID)
		}
		if cursor = page.NextCursor; !page.HasMore {
			break
		}
		if rec := w.do("GET", "/v1/messages?limit=2&client_ref=r1&cursor="+cursor, ""); rec.Code != 422 {
			t.Errorf("cursor of another query: got %d", rec.Code)
		}
	}
	var all []string
	for i := range records {
		all = append(all, records[len(records)-1-i].ID.String())
	}
	if diff := cmp.Diff(all, seen); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	w.messages.err = ErrUnavailable
	if rec := w.do("GET", "/v1/messages", ""); rec.Code != 503 {
		t.Errorf("store down: got %d", rec.Code)
	}
}

func TestViewHasEveryField(t *testing.T) {
	at := time.Date(2026, 11, 23, 13, 20, 0, 5e6, time.UTC)
	id := message.NewID(uint64(at.UnixMilli()), 1, 2, message.High, 3)
	record := message.Record{ID: id,
		Message: message.Message{Channel: message.ChannelEmail, Priority: message.High, To: "t", ClientRef: "r", RequeueOf: id, TTL: time.Hour, Metadata: []message.Pair{{Key: "k", Value: "v"}}},
		State: message.State{Status: message.Failed, StoredAt: at, ScheduledAt: at, SentAt: at, DeliveredAt: at, ReadAt: at, FailedAt: at, NextAttemptAt: at,
			HoldReason: "retry", ProviderID: "p", DuplicateOf: id, Error: &message.Failure{Code: "c", Category: "provider", ChannelCode: "1", Message: "m"},
			Attempts: []message.Attempt{{N: 1, At: at, Outcome: "failed", ChannelCode: "1", Duration: time.Second}}}}
	x := &exchange{w: httptest.NewRecorder()}
	if err := x.writeJSON(ViewOf(&record)); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(x.w.(*httptest.ResponseRecorder).Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	documented := document(t).Components.Schemas["Message"].Value.Properties
	for name := range documented {
		if _, ok := got[name]; !ok {
			t.Errorf("field %s is missing", name)
		}
	}
	if len(got) != len(documented) {
		t.Errorf("got fields %v", maps.Keys(got))
	}
	if got["stored_at"] != "2026-11-23T13:20:00.005Z" || got["expires_at"] != "2026-11-23T14:20:00.005Z" {
		t.Errorf("got times %v, %v", got["stored_at"], got["expires_at"])
	}
}
