package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
		{name: "overflow", body: `{"channel":"store","body":"b","ttl_seconds":9999999999999999999}`, status: 422, code: "invalid", pointers: []string{"#/ttl_seconds"}},
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
		{name: "template", body: `{"channel":"whatsapp","to":"+4915112345678","template":{"name":"n","language":"de"}}`, status: 202},
		{name: "template and body", body: `{"channel":"whatsapp","to":"+4915112345678","body":"b","template":{"name":"n","language":"de"}}`, status: 422, code: "invalid", pointers: []string{"#/body"}},
		{name: "17 pairs", body: `{"channel":"store","body":"b","metadata":{` + pairs(17) + `}}`, status: 422, code: "invalid", pointers: []string{"#/metadata"}},
		{name: "16 pairs", body: `{"channel":"store","body":"b","metadata":{` + pairs(16) + `}}`, status: 202},
		{name: "ttl over", body: `{"channel":"store","body":"b","ttl_seconds":2592001}`, status: 422, code: "invalid", pointers: []string{"#/ttl_seconds"}},
		{name: "ttl of a fraction", body: `{"channel":"store","body":"b","ttl_seconds":1.0}`, status: 400, code: "malformed", pointers: []string{"#/ttl_seconds"}},

		{name: "in progress", fail: ErrInProgress, body: hello, status: 409, code: "in_progress", headers: map[string]string{"Retry-After": "1"}},
		{name: "mismatch", fail: ErrMismatch, body: hello, status: 422, code: "idempotency_mismatch"},
		{name: "log says too large", fail: ErrTooLarge, body: hello, status: 413, code: "too_large"},
		{name: "storage full", fail: ErrStorageFull, body: hello, status: 503, code: "storage_full", headers: map[string]string{"Retry-After": "30"}},
		{name: "overloaded", fail: ErrOverloaded, body: hello, status: 503, code: "overloaded", headers: map[string]string{"Retry-After": "1"}},
		{name: "log drains", fail: ErrDraining, body: hello, status: 503, code: "draining", headers: map[string]string{"Connection": "close", "Retry-After": "5"}},
		{name: "disk hangs", fail: ErrStalled, body: hello, status: 503, code: "unavailable", headers: map[string]string{"Retry-After": "5"}},
		{name: "outcome unknown", fail: ErrUnknown, body: hello, status: 503, code: "unavailable", headers: map[string]string{"Retry-After": "5"}},
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
