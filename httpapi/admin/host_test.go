package admin

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestForeignNameShowsTheToken calls a real listener on loopback by all sorts of
// names. A page of another site, whose name was made to stand for 127.0.0.1, sends
// that name as Host, and learns nothing.
func TestForeignNameShowsTheToken(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.OpsName = "Ops.internal" })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, func(ctx context.Context) error { return w.ServeOps(ctx, l) })
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	get := func(host, path, token string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if req.Host = host; token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, host := range []string{l.Addr().String(), "127.0.0.1", "localhost:9090", "LOCALHOST", "localhost.", "forebay.localhost:9090",
		"[::1]:9090", "[::1]", "192.0.2.7:9090", "ops.internal", "ops.internal:9090"} {
		for _, path := range []string{"/status.json", "/metrics"} {
			if code, body := get(host, path, ""); code != 200 {
				t.Errorf("%s called by %q: %d %s", path, host, code, body)
			}
		}
	}
	for _, host := range []string{"evil.example:9090", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9090", "notlocalhost", "2130706433:9090", "0x7f.1", "ops.internal.evil.example"} {
		for _, path := range []string{"/status.json", "/metrics", "/", "/nothing"} {
			code, body := get(host, path, "")
			if code != 401 || !strings.Contains(body, "call it by 127.0.0.1 or localhost") {
				t.Errorf("%s called by %q: %d %s", path, host, code, body)
			}
		}
		if code, _ := get(host, "/status.json", secretToken); code != 200 {
			t.Errorf("%q with the token: %d", host, code)
		}
		if code, body := get(host, "/readyz", ""); code != 200 || strings.Contains(body, "db.internal") {
			t.Errorf("readiness called by %q: %d %s", host, code, body)
		}
	}
}

// TestForeignNameWithoutToken: where no token is set, none can be shown.
func TestForeignNameWithoutToken(t *testing.T) {
	w := newWorld(t, func(w *world) { w.cfg.Token = Token{} })
	for target, want := range map[string]int{"http://evil.example:9090/status.json": 403, "http://localhost:9090/status.json": 200, "http://evil.example:9090/healthz": 200} {
		got := httptest.NewRecorder()
		if w.Ops(true).ServeHTTP(got, httptest.NewRequest("GET", target, nil)); got.Code != want {
			t.Errorf("%s: %d %s, want %d", target, got.Code, got.Body, want)
		}
	}
}
