package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"forebay/wal/message"
)

// call sends one request to handler as the peer "uid=0(root)", on this machine.
func call(handler http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:9090"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("X-Request-Id", "req-1")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r.WithContext(WithActor(r.Context(), "uid=0(root)")))
	return w
}

const acmeJSON = `{"id":"acme","name":"Acme","tier":"basic","suspended":false,"created_at":"2023-11-14T22:13:20Z","keys":1}`
const messageJSON = `{"account":"acme","node":7,"seq":5,"id":"018bcfe5-6800-7001-801d-00000000002a","status":"stored"}`

// TestRoutes is the contract: request → status, body, log record.
func TestRoutes(t *testing.T) {
	messageJSON := strings.Replace(messageJSON, "018bcfe5-6800-7001-801d-00000000002a", someID.String(), 1)
	problem := func(code, title string, status string, rest string) string {
		return `{"type":"/problems/` + code + `","title":"` + title + `","status":` + status + rest + `}`
	}
	for name, test := range map[string]struct {
		method, target, body string
		status               int
		want                 string // a part of the body
		log                  string // a part of the log; empty: nothing above debug
	}{
		"list accounts":  {"GET", "/accounts", "", 200, `{"data":[` + acmeJSON + `]}`, ""},
		"show account":   {"GET", "/accounts/acme", "", 200, acmeJSON, ""},
		"show none":      {"GET", "/accounts/none", "", 404, problem("not_found", "Not found", "404", `,"detail":"there is no account none","instance":"req-1","code":"not_found"`), ""},
		"create":         {"POST", "/accounts", `{"id":"b","tier":"basic","name":"B"}`, 201, `{"id":"b","name":"B","tier":"basic"`, `msg="admin: change" route="POST /admin/v1/accounts" actor="uid=0(root)" request_id=req-1 remote=192.0.2.1:1234 account=b tier=basic`},
		"create again":   {"POST", "/accounts", `{"id":"acme","tier":"basic"}`, 409, `"code":"exists"`, `msg="admin: change refused"`},
		"create tier":    {"POST", "/accounts", `{"id":"b","tier":"gold"}`, 422, `"code":"unknown_tier","errors":[{"pointer":"#/tier","detail":"is not known"}]`, "code=unknown_tier"},
		"unknown member": {"POST", "/accounts", `{"id":"b","tier":"basic","admin":true}`, 400, `"errors":[{"pointer":"#/admin","detail":"is not known"}]`, "code=malformed"},
		"wrong type":     {"POST", "/accounts", `{"id":7,"tier":"basic"}`, 400, `"errors":[{"pointer":"#/id","detail":"is of the wrong type"}]`, "code=malformed"},
		"member twice":   {"POST", "/accounts", `{"id":"b","id":"c","tier":"basic"}`, 400, `"errors":[{"pointer":"#/id","detail":"is there twice"}]`, "code=malformed"},
		"other case":     {"POST", "/accounts", `{"ID":"b","tier":"basic"}`, 400, `"pointer":"#/ID"`, "code=malformed"},
		"trailing":       {"POST", "/accounts", `{"id":"b","tier":"basic"} {}`, 400, `"code":"malformed"`, "code=malformed"},
		"bad UTF-8":      {"POST", "/accounts", "{\"id\":\"\xff\"}", 400, `"code":"malformed"`, "code=malformed"},
		"too large":      {"POST", "/accounts", `{"id":"` + strings.Repeat("a", maxBody) + `"}`, 413, `"code":"too_large"`, "code=too_large"},
		"patch":          {"PATCH", "/accounts/acme", `{"suspended":true,"callback_url":"https://h/?token=hunter2"}`, 200, acmeJSON, "account=acme suspended=true callback_url_changed=true"},
		"patch nothing":  {"PATCH", "/accounts/acme", `{}`, 422, `"code":"invalid"`, "code=invalid"},
		"delete":         {"DELETE", "/accounts/acme", "", 204, "", `route="DELETE /admin/v1/accounts/:account" actor="uid=0(root)"`},
		"list keys":      {"GET", "/accounts/acme/keys", "", 200, `{"data":[{"id":"aaaaaaaaaaaa","account":"acme","label":"ci","test":false,"created_at":"2023-11-14T22:13:20Z"}]}`, ""},
		"create key":     {"POST", "/accounts/acme/keys", `{"label":"x","test":true}`, 201, `"test":true,"created_at":"2023-11-14T22:13:20Z","key":"` + secretKey + `"}`, "account=acme key=aaaaaaaaaaaa test=true"},
		"revoke":         {"DELETE", "/accounts/acme/keys/aaaaaaaaaaaa", "", 200, `"revoked_at":"2023-11-14T22:13:20Z"`, "key=aaaaaaaaaaaa account=acme"},
		"revoke by id":   {"DELETE", "/keys/aaaaaaaaaaaa", "", 200, `"revoked_at"`, "key=aaaaaaaaaaaa account=acme"},
		"revoke other's": {"DELETE", "/accounts/b/keys/aaaaaaaaaaaa", "", 404, `"code":"not_found"`, "code=not_found"},
		"show message":   {"GET", "/messages/" + someID.String(), "", 200, messageJSON, ""},
		"no message":     {"GET", "/messages/nonsense", "", 404, `"code":"not_found"`, ""},
		"list messages":  {"GET", "/messages?account=acme&limit=1", "", 200, `{"data":[` + messageJSON + `],"has_more":true,"next_cursor":"` + someID.String() + `"}`, ""},
		"bad query":      {"GET", "/messages?limit=0&status=lost&colour=red&limit=2", "", 422, `"errors":[{"parameter":"colour","detail":`, ""},
		"audit":          {"GET", "/audit?since=2026-01-01T00:00:00Z", "", 200, `{"node":7,"from":1,"to":9,"accepted":9,"stored":8,"final":7,"waiting":0,"missing":1,"missing_numbers":[4]}`, ""},
		"audit query":    {"GET", "/audit?since=yesterday", "", 422, `"parameter":"since"`, ""},
		"status":         {"GET", "/status", "", 200, `{"node":7,"version":"1.2.3","at":`, ""},
		"backup":         {"GET", "/backup", "", 200, "backup", `msg="admin: backup written" actor="uid=0(root)" bytes=6`},
		"drain":          {"POST", "/drain", "", 202, "", `route="POST /admin/v1/drain" actor="uid=0(root)"`},
		"no method":      {"PUT", "/accounts", "", 405, `"code":"method_not_allowed"`, ""},
		"no path":        {"GET", "/nothing", "", 404, `"code":"not_found"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			got := call(w.Socket(), test.method, "/admin/v1"+test.target, test.body)
			if got.Code != test.status || !strings.Contains(got.Body.String(), test.want) {
				t.Errorf("got %d %s, want %d %s", got.Code, got.Body, test.status, test.want)
			}
			logs := w.logs.String()
			if !strings.Contains(logs, test.log) || test.log == "" && strings.Contains(strings.ReplaceAll(logs, "level=DEBUG", ""), "level=") {
				t.Errorf("got log %s, want %s", logs, test.log)
			}
			for _, secret := range []string{secretKey, secretToken, "hunter2"} {
				if strings.Contains(logs, secret) {
					t.Errorf("%q is in the log", secret)
				}
			}
			wantKind := "application/json"
			if test.status >= 400 {
				wantKind = "application/problem+json"
			}
			if kind := got.Header().Get("Content-Type"); kind != wantKind && got.Body.Len() > 0 && name != "backup" {
				t.Errorf("got content type %q, want %q", kind, wantKind)
			}
			if got.Header().Get("X-Request-Id") != "req-1" || got.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("got headers %v", got.Header())
			}
		})
	}
}

func TestArgumentsArrive(t *testing.T) {
	w := newWorld(t)
	call(w.Socket(), "GET", "/admin/v1/messages?status=stored&channel=email&to=a%40b&client_ref=r&accepted_after=2026-01-01T00:00:00%2B01:00&cursor="+someID.String(), "")
	want := message.Query{Status: message.Stored, Channel: message.ChannelEmail, To: "a@b", ClientRef: "r", Before: someID, Limit: 20, AcceptedAfter: w.query.AcceptedAfter}
	if diff := cmp.Diff(want, w.query); diff != "" || w.query.AcceptedAfter.UTC().Format("2006-01-02T15") != "2025-12-31T23" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
	call(w.Socket(), "PATCH", "/admin/v1/accounts/acme", `{"tier":"basic","callback_url":""}`)
	if p := w.accounts.patch; p.Tier == nil || *p.Tier != "basic" || p.CallbackURL == nil || *p.CallbackURL != "" || p.Name != nil || p.Suspended != nil {
		t.Errorf("got patch %+v", p)
	}
	call(w.Socket(), "POST", "/admin/v1/drain", "")
	if !w.drained {
		t.Error("drain did not arrive")
	}
}

func TestPrivateCauseStaysInTheLog(t *testing.T) {
	w := newWorld(t)
	w.accounts.err = errPrivate
	got := call(w.Socket(), "GET", "/admin/v1/accounts", "")
	if got.Code != 503 || strings.Contains(got.Body.String(), "hunter2") || got.Header().Get("Retry-After") == "" {
		t.Errorf("got %d %s %v", got.Code, got.Body, got.Header())
	}
	if !strings.Contains(w.logs.String(), "level=ERROR") || !strings.Contains(w.logs.String(), "hunter2") {
		t.Errorf("the cause is not in the log: %s", w.logs)
	}
}

func TestPanicIsAnsweredAndLogged(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.Status = func() Status { panic("oh no") } })
	for _, handler := range []http.Handler{w.Socket(), w.Ops(true)} {
		got := call(handler, "GET", "/admin/v1/status", "", "Authorization", "Bearer "+secretToken)
		if got.Code != 503 || strings.Contains(got.Body.String(), "oh no") {
			t.Errorf("got %d %s", got.Code, got.Body)
		}
	}
	if !strings.Contains(w.logs.String(), "panic: oh no") {
		t.Errorf("the panic is not in the log: %s", w.logs)
	}
}

// TestHostileRequests sends to the ops listener what gets around careless
// checks. None of it may reach a handler without the token.
func TestHostileRequests(t *testing.T) {
	basic := func(user, password string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.SetBasicAuth(user, password)
		return r.Header.Get("Authorization")
	}
	for name, test := range map[string]struct {
		method, target string
		headers        []string
		onLoopback     int
		elsewhere      int
	}{
		"no credentials":      {"GET", "/admin/v1/accounts", nil, 401, 401},
		"double slash":        {"GET", "//admin/v1/accounts", nil, 404, 401},
		"dot segment":         {"GET", "/x/../admin/v1/accounts", nil, 404, 401},
		"encoded dots":        {"GET", "/healthz/%2e%2e/admin/v1/accounts", nil, 404, 401},
		"encoded slash":       {"GET", "/admin%2fv1%2faccounts", nil, 401, 401},
		"semicolon":           {"GET", "/healthz;/admin/v1/accounts", nil, 404, 401},
		"upper case":          {"GET", "/ADMIN/v1/accounts", nil, 404, 401},
		"trailing slash":      {"GET", "/admin/v1/accounts/", nil, 404, 401},
		"X-Original-URL":      {"GET", "/nothing", []string{"X-Original-URL", "/admin/v1/accounts", "X-Rewrite-URL", "/admin/v1/accounts"}, 404, 401},
		"method override":     {"GET", "/admin/v1/accounts", []string{"X-HTTP-Method-Override", "POST", "Authorization", "Bearer " + secretToken}, 200, 200},
		"method in query":     {"GET", "/admin/v1/drain?_method=POST", []string{"Authorization", "Bearer " + secretToken}, 405, 405},
		"forwarded":           {"GET", "/admin/v1/accounts", []string{"X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1"}, 401, 401},
		"bearer":              {"GET", "/admin/v1/accounts", []string{"Authorization", "Bearer " + secretToken}, 200, 200},
		"bearer lower case":   {"GET", "/admin/v1/accounts", []string{"Authorization", "bearer " + secretToken}, 200, 200},
		"wrong bearer":        {"GET", "/admin/v1/accounts", []string{"Authorization", "Bearer " + secretToken[1:]}, 401, 401},
		"empty bearer":        {"GET", "/admin/v1/accounts", []string{"Authorization", "Bearer "}, 401, 401},
		"token alone":         {"GET", "/admin/v1/accounts", []string{"Authorization", secretToken}, 401, 401},
		"basic":               {"GET", "/admin/v1/accounts", []string{"Authorization", basic("anyone", secretToken)}, 200, 200},
		"basic wrong":         {"GET", "/admin/v1/accounts", []string{"Authorization", basic("admin", "admin")}, 401, 401},
		"basic token as user": {"GET", "/admin/v1/accounts", []string{"Authorization", basic(secretToken, "")}, 401, 401},
		"basic broken":        {"GET", "/admin/v1/accounts", []string{"Authorization", "Basic %%%"}, 401, 401},
		"other site's page": {"POST", "/admin/v1/drain", []string{"Authorization", basic("x", secretToken),
			"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403, 403},
		"options": {"OPTIONS", "/admin/v1/accounts", nil, 405, 401},
		"trace":   {"TRACE", "/admin/v1/accounts", nil, 405, 401},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for loopback, want := range map[bool]int{true: test.onLoopback, false: test.elsewhere} {
				if got := call(w.Ops(loopback), test.method, test.target, "", test.headers...); got.Code != want {
					t.Errorf("loopback %v: got %d %s, want %d", loopback, got.Code, got.Body, want)
				}
			}
			if w.drained || strings.Contains(w.logs.String(), secretToken) {
				t.Errorf("drained %v, log %s", w.drained, w.logs)
			}
		})
	}
}

func TestWithoutToken(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.Token = NewToken(" \n") })
	for target, want := range map[string][2]int{ // on loopback, elsewhere
		"/admin/v1/accounts": {403, 403},
		"/status.json":       {200, 403},
		"/metrics":           {200, 403},
		"/":                  {404, 403},
		"/healthz":           {200, 200},
		"/readyz":            {200, 200},
		"/healthz/":          {404, 403},
	} {
		for i, loopback := range []bool{true, false} {
			for _, header := range []string{"", "Bearer ", "Bearer x"} {
				if got := call(w.Ops(loopback), "GET", target, "", "Authorization", header).Code; got != want[i] {
					t.Errorf("%s, loopback %v, %q: got %d, want %d", target, loopback, header, got, want[i])
				}
			}
		}
	}
}

func TestSocketWithoutPeerIsRefused(t *testing.T) {
	w := newWorld(t)
	r := httptest.NewRequest("GET", "/admin/v1/accounts", nil)
	r.Header.Set("Authorization", "Bearer "+secretToken)
	got := httptest.NewRecorder()
	w.Socket().ServeHTTP(got, r)
	if got.Code != 403 {
		t.Errorf("got %d, want 403", got.Code)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	if got := call(w.Ops(true), "GET", "/healthz", ""); got.Code != 200 || got.Body.String() != "ok\n" {
		t.Errorf("healthz: got %d %q", got.Code, got.Body)
	}
	want := `{"status":"ready","checks":{"store":{"status":"degraded","detail":"db.internal refuses"},"wal":{"status":"ok"}}}`
	if got := call(w.Ops(true), "GET", "/readyz", ""); got.Code != 200 || strings.TrimSpace(got.Body.String()) != want {
		t.Errorf("readyz: got %d %s, want %s", got.Code, got.Body, want)
	}
	if got := call(w.Ops(false), "GET", "/readyz", "").Body.String(); strings.Contains(got, "db.internal") {
		t.Errorf("a stranger is told %s", got)
	}
	w.ready.Status = Unready
	if got := call(w.Ops(true), "HEAD", "/readyz", ""); got.Code != 503 {
		t.Errorf("unready: got %d, want 503", got.Code)
	}
}

func TestMetricsEndpoint(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "forebay_things_total", Help: "Things."}))
	w := newWorld(t, func(w *world) { w.cfg.Gatherer, w.cfg.Registerer = reg, reg })
	got := call(w.Ops(true), "GET", "/metrics", "", "Accept", "application/openmetrics-text")
	if got.Code != 200 || !strings.Contains(got.Body.String(), "forebay_things_total 0") || !strings.HasSuffix(got.Body.String(), "# EOF\n") {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestFailedBackup(t *testing.T) {
	w := newWorld(t)
	w.backup = func(context.Context, io.Writer) error { return errPrivate }
	if got := call(w.Socket(), "GET", "/admin/v1/backup", ""); got.Code != 503 {
		t.Errorf("before the first byte: got %d, want 503", got.Code)
	}
	w.backup = func(_ context.Context, out io.Writer) error {
		io.WriteString(out, "half")
		return errPrivate
	}
	defer func() {
		if v := recover(); !errors.Is(v.(error), http.ErrAbortHandler) {
			t.Errorf("got panic %v, want http.ErrAbortHandler", v)
		}
	}()
	call(w.Socket(), "GET", "/admin/v1/backup", "")
	t.Error("the answer was not cut off")
}

func TestTokenNeverPrints(t *testing.T) {
	w := newWorld(t)
	w.log.Info("token", "token", w.cfg.Token)
	if s := w.cfg.Token.String(); strings.Contains(s, secretToken) || strings.Contains(w.logs.String(), secretToken) {
		t.Errorf("the token prints: %s %s", s, w.logs)
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	_, err := New(Config{})
	if err == nil || !strings.Contains(err.Error(), "accounts") || !strings.Contains(err.Error(), "gatherer") {
		t.Errorf("got %v", err)
	}
}
