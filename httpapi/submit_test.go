package httpapi

import (
	"context"
	"encoding/json"
	"errors"
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

const hello = `{"channel":"store","body":"hello"}`

// pointers returns the places that a problem names.
func pointers(t *testing.T, body []byte) []string {
	t.Helper()
	var p struct {
		Errors []struct{ Pointer, Parameter string }
	}
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("problem %q: %v", body, err)
	}
	var all []string
	for _, e := range p.Errors {
		all = append(all, e.Pointer+e.Parameter)
	}
	return all
}

func TestRequests(t *testing.T) {
	long := strings.Repeat("x", 9<<10)
	tests := []struct {
		name   string
		method string
		target string
		header []string
		body   string
		fail   error // of the log

		status   int
		code     string
		pointers []string
		headers  map[string]string
	}{
		{name: "accepted", body: hello, status: 202, headers: map[string]string{"Content-Type": typeJSON}},
		{name: "everything", body: `{"channel":"email","to":"a@b.example","subject":"s","body":"b","html":"<p>","priority":"high",` +
			`"send_at":"2030-01-02T03:04:05.678+02:00","ttl_seconds":60,"client_ref":"r","metadata":{"b":"2","a":"1"},"callback_url":"https://x.example/"}`,
			status: 422, pointers: []string{"#/send_at"}}, // too far ahead
		{name: "escapes", body: `{"ch\u0061nnel":"st\u006fre","body":"\ud83d\ude00\n"}`, status: 202},
		{name: "request id echoed", header: []string{"X-Request-Id", "abc-1"}, body: hello, status: 202, headers: map[string]string{"X-Request-Id": "abc-1"}},
		{name: "charset", header: []string{"Content-Type", `Application/JSON; charset="UTF-8"`}, body: hello, status: 202},
		{name: "accept", header: []string{"Accept", "text/html, application/*;q=0.5"}, body: hello, status: 202},

		{name: "empty", body: "", status: 400, code: "malformed"},
		{name: "not JSON", body: "hello", status: 400, code: "malformed"},
		{name: "array", body: "[]", status: 400, code: "malformed"},
		{name: "cut", body: `{"channel":"store"`, status: 400, code: "malformed"},
		{name: "trailing", body: hello + "{}", status: 400, code: "malformed"},
		{name: "trailing garbage", body: hello + "x", status: 400, code: "malformed"},
		{name: "unknown field", body: `{"chanel":"store"}`, status: 400, code: "malformed", pointers: []string{"#/chanel"}},
		{name: "case matters", body: `{"Channel":"store"}`, status: 400, code: "malformed", pointers: []string{"#/Channel"}},
		{name: "odd field", body: `{"a/b ~":1}`, status: 400, code: "malformed", pointers: []string{"#/a~1b%20~0"}},
		{name: "twice", body: `{"body":"a","body":"b"}`, status: 400, code: "malformed", pointers: []string{"#/body"}},
		{name: "wrong type", body: `{"body":1}`, status: 400, code: "malformed", pointers: []string{"#/body"}},
		{name: "null", body: `{"subject":null}`, status: 400, code: "malformed", pointers: []string{"#/subject"}},
		{name: "deep", body: `{"body":` + strings.Repeat("[", 1000) + `}`, status: 400, code: "malformed", pointers: []string{"#/body"}},
		{name: "NUL", body: `{"body":"a\u0000"}`, status: 400, code: "malformed", pointers: []string{"#/body"}},
		{name: "NUL in a key", body: `{"metadata":{"a\u0000":"b"}}`, status: 400, code: "malformed", pointers: []string{"#/metadata"}},
		{name: "lone surrogate", body: `{"body":"\ud800"}`, status: 400, code: "malformed"},
		{name: "bad UTF-8", body: "{\"body\":\"\xff\"}", status: 400, code: "malformed"},
		{name: "raw control", body: "{\"body\":\"\x01\"}", status: 400, code: "malformed"},
		{name: "huge number", body: `{"ttl_seconds":1e999999}`, status: 400, code: "malformed", pointers: []string{"#/ttl_seconds"}},
		{name: "fraction", body: `{"ttl_seconds":1.5}`, status: 400, code: "malformed", pointers: []string{"#/ttl_seconds"}},
		{name: "overflow", body: `{"ttl_seconds":9999999999999999999}`, status: 400, code: "malformed", pointers: []string{"#/ttl_seconds"}},
		{name: "metadata types", body: `{"metadata":{"a":1}}`, status: 400, code: "malformed", pointers: []string{"#/metadata/a"}},
		{name: "metadata twice", body: `{"metadata":{"a":"1","a":"2"}}`, status: 400, code: "malformed", pointers: []string{"#/metadata/a"}},
		{name: "template types", body: `{"template":{"parameters":["a",1]}}`, status: 400, code: "malformed", pointers: []string{"#/template/parameters/1"}},
		{name: "template field", body: `{"template":{"lang":"de"}}`, status: 400, code: "malformed", pointers: []string{"#/template/lang"}},
		{name: "broken key", header: []string{"Idempotency-Key", `"a`}, body: hello, status: 400, code: "malformed"},
		{name: "long key", header: []string{"Idempotency-Key", strings.Repeat("k", 256)}, body: hello, status: 400, code: "malformed"},

		{name: "no key", header: []string{"Authorization", ""}, body: hello, status: 401, code: "unauthenticated", headers: map[string]string{"Www-Authenticate": "Bearer"}},
		{name: "unknown key", header: []string{"Authorization", "Bearer x"}, body: hello, status: 401, code: "unauthenticated"},
		{name: "basic", header: []string{"Authorization", "Basic " + goodKey}, body: hello, status: 401, code: "unauthenticated"},
		{name: "suspended", header: []string{"Authorization", "Bearer " + suspendedKey}, body: hello, status: 403, code: "suspended"},
		{name: "not in the plan", body: `{"channel":"webhook","to":"https://x.example","body":"b"}`, status: 403, code: "forbidden"},
		{name: "no such path", target: "/v1/message", body: hello, status: 404, code: "not_found"},
		{name: "no redirect", target: "/v1/messages/", body: hello, status: 404, code: "not_found"},
		{name: "wrong method", method: "PUT", body: hello, status: 405, code: "method_not_allowed", headers: map[string]string{"Allow": "GET, HEAD, OPTIONS, POST"}},
		{name: "options", method: "OPTIONS", status: 204, headers: map[string]string{"Allow": "GET, HEAD, OPTIONS, POST"}},
		{name: "not acceptable", header: []string{"Accept", "application/json;q=0, text/*"}, body: hello, status: 406, code: "not_acceptable"},
		{name: "form", header: []string{"Content-Type", "application/x-www-form-urlencoded"}, body: hello, status: 415, code: "unsupported_media_type"},
		{name: "latin", header: []string{"Content-Type", "application/json; charset=latin1"}, body: hello, status: 415, code: "unsupported_media_type"},
		{name: "gzip", header: []string{"Content-Encoding", "gzip"}, body: hello, status: 415, code: "unsupported_media_type"},
		{name: "too large", body: `{"channel":"store","body":"` + long + `"}`, status: 413, code: "too_large", headers: map[string]string{"Connection": "close"}},

		{name: "all rules", body: `{"channel":"email","to":"x","subject":"a\nb","template":{},"priority":"urgent","send_at":"tomorrow","ttl_seconds":0,` +
			`"client_ref":"` + strings.Repeat("ä", 101) + `","metadata":{"":"v"},"callback_url":"http://x.example"}`, status: 422, code: "invalid",
			pointers: []string{"#/to", "#/subject", "#/template", "#/template/name", "#/template/language", "#/priority", "#/send_at",
				"#/ttl_seconds", "#/client_ref", "#/metadata/", "#/callback_url"}},
		{name: "no channel", body: `{}`, status: 422, code: "invalid", pointers: []string{"#/channel"}},
		{name: "no such channel", body: `{"channel":"fax","body":"b"}`, status: 422, code: "invalid", pointers: []string{"#/channel"}},
		{name: "no body", body: `{"channel":"store"}`, status: 422, code: "invalid", pointers: []string{"#/body"}},
		{name: "html", body: `{"channel":"store","body":"b","html":"h","subject":"s"}`, status: 422, code: "invalid", pointers: []string{"#/html", "#/subject"}},
		{name: "17 pairs", body: `{"channel":"store","body":"b","metadata":{` + pairs(17) + `}}`, status: 422, code: "invalid", pointers: []string{"#/metadata"}},
		{name: "16 pairs", body: `{"channel":"store","body":"b","metadata":{` + pairs(16) + `}}`, status: 202},
		{name: "ttl over", body: `{"channel":"store","body":"b","ttl_seconds":2592001}`, status: 422, code: "invalid", pointers: []string{"#/ttl_seconds"}},

		{name: "in progress", fail: ErrInProgress, body: hello, status: 409, code: "in_progress", headers: map[string]string{"Retry-After": "1"}},
		{name: "mismatch", fail: ErrMismatch, body: hello, status: 422, code: "idempotency_mismatch"},
		{name: "log says too large", fail: ErrTooLarge, body: hello, status: 413, code: "too_large"},
		{name: "storage full", fail: ErrStorageFull, body: hello, status: 503, code: "storage_full", headers: map[string]string{"Retry-After": "30"}},
		{name: "overloaded", fail: ErrOverloaded, body: hello, status: 503, code: "overloaded", headers: map[string]string{"Retry-After": "1"}},
		{name: "log drains", fail: ErrDraining, body: hello, status: 503, code: "draining", headers: map[string]string{"Connection": "close", "Retry-After": "5"}},
		{name: "private", fail: errors.New("open /secret/path: boom"), body: hello, status: 503, code: "unavailable", headers: map[string]string{"Retry-After": "5"}},
		{name: "keys fail", header: []string{"Authorization", "Bearer " + brokenKey}, body: hello, status: 503, code: "unavailable"},

		{name: "health", method: "GET", target: "/healthz", status: 200},
		{name: "ready", method: "GET", target: "/readyz", status: 200, headers: map[string]string{"Content-Type": typeJSON}},
		{name: "document", method: "GET", target: "/openapi.yaml", status: 200},
		{name: "problem page", method: "GET", target: "/problems/invalid", status: 200},
		{name: "no problem", method: "GET", target: "/problems/nothing", status: 404, code: "not_found"},
		{name: "no id", method: "GET", target: "/v1/messages/1", status: 404, code: "not_found"},
		{name: "no message", method: "GET", target: "/v1/messages/019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f", status: 404, code: "not_found"},
		{name: "get without key", method: "GET", target: "/v1/messages/1", header: []string{"Authorization", ""}, status: 401, code: "unauthenticated"},
		{name: "list", method: "GET", target: "/v1/messages?status=stored&channel=store&to=x&accepted_after=2026-01-01T00:00:00Z", status: 200},
		{name: "list unknown", method: "GET", target: "/v1/messages?state=stored", status: 400, code: "malformed", pointers: []string{"state"}},
		{name: "list rules", method: "GET", target: "/v1/messages?status=x&channel=x&limit=0&to=%00&client_ref=&accepted_after=x&accepted_before=y", status: 422, code: "invalid",
			pointers: []string{"accepted_after", "accepted_before", "channel", "client_ref", "limit", "status", "to"}},
		{name: "list twice", method: "GET", target: "/v1/messages?limit=1&limit=2", status: 422, code: "invalid", pointers: []string{"limit"}},
		{name: "list cursor", method: "GET", target: "/v1/messages?cursor=AAAA", status: 422, code: "invalid", pointers: []string{"cursor"}},
	}
	doc := document(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.log.fail = func(*message.Message) error { return tt.fail }
			method, target := tt.method, tt.target
			if method == "" {
				method = http.MethodPost
			}
			if target == "" {
				target = "/v1/messages"
			}
			r := request(method, target, tt.body, tt.header...)
			rec := httptest.NewRecorder()
			w.Handler().ServeHTTP(rec, r)
			body := rec.Body.Bytes()
			if rec.Code != tt.status {
				t.Fatalf("got status %d, want %d; body %s", rec.Code, tt.status, body)
			}
			if tt.pointers != nil {
				if diff := cmp.Diff(tt.pointers, pointers(t, body)); diff != "" {
					t.Errorf("pointers (-want +got):\n%s\n%s", diff, body)
				}
			}
			for name, want := range tt.headers {
				if got := rec.Header().Get(name); got != want {
					t.Errorf("got %s %q, want %q", name, got, want)
				}
			}
			if tt.code != "" {
				checkProblem(t, rec, tt.code)
			}
			checkExchange(t, doc, w.API, r, tt.body, rec)
			checkRecord(t, w, tt.status, tt.code)
		})
	}
}

func pairs(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"k%d":"v"`, i))
	}
	return strings.Join(all, ",")
}

func checkProblem(t *testing.T, rec *httptest.ResponseRecorder, code string) {
	t.Helper()
	var p struct {
		Type, Title, Detail, Instance, Code string
		Status                              int
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if p.Code != code || p.Status != rec.Code || p.Type != "/problems/"+code || p.Title == "" || p.Instance != rec.Header().Get("X-Request-Id") {
		t.Errorf("got problem %+v", p)
	}
	if got := rec.Header().Get("Content-Type"); got != typeProblem {
		t.Errorf("got Content-Type %q", got)
	}
	if rec.Code == http.StatusServiceUnavailable && rec.Header().Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	if strings.Contains(rec.Body.String(), "boom") || strings.Contains(rec.Body.String(), "closed pipe") {
		t.Errorf("private text went out: %s", rec.Body)
	}
}

// checkRecord wants one debug record of the request, and the private cause
// where there was one.
func checkRecord(t *testing.T, w *world, status int, code string) {
	t.Helper()
	text := w.logged.String()
	if n := strings.Count(text, `"msg":"request"`); n != 1 {
		t.Errorf("got %d records of the request, want 1:\n%s", n, text)
	}
	if !strings.Contains(text, fmt.Sprintf(`"status":%d`, status)) || code != "" && !strings.Contains(text, `"code":"`+code+`"`) {
		t.Errorf("record lacks status %d or code %s:\n%s", status, code, text)
	}
	if logged := strings.Contains(text, `"level":"ERROR"`); logged != (code == "unavailable") {
		t.Errorf("cause logged: %v\n%s", logged, text)
	}
	if strings.Contains(text, `"level":"INFO"`) {
		t.Errorf("a record at info level:\n%s", text)
	}
}

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
	w := newWorld(t, func(c *Config) { c.MaxBuffered = 8 << 10 })
	if rec := w.do("POST", "/v1/messages", hello); rec.Code != 202 {
		t.Fatalf("got %d", rec.Code)
	}
	w.bodies.inUse.Add(6 << 10)
	if rec := w.do("POST", "/v1/messages", hello); rec.Code != 503 {
		t.Errorf("over the limit: got %d", rec.Code)
	}
	w.bodies.inUse.Add(-6 << 10)
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
		Message: message.Message{Channel: message.ChannelEmail, Priority: message.High, To: "t", ClientRef: "r", TTL: time.Hour, Metadata: []message.Pair{{Key: "k", Value: "v"}}},
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
