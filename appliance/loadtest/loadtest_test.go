package loadtest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type submission struct {
	Key, Channel, To, Priority, Body string
	ClientRef                        string `json:"client_ref"`
}

// api answers as the appliance does and keeps what it got.
type api struct {
	mu   sync.Mutex
	got  []submission
	hook func(n int, w http.ResponseWriter) (answered bool) // before the answer to message n
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var s submission
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.Key = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	n := len(a.got)
	a.got = append(a.got, s)
	a.mu.Unlock()
	if a.hook != nil && a.hook(n, w) {
		return
	}
	id := message.NewID(1, uint16(n), 1, message.Normal, uint64(n))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"id":%q,"status":"accepted"}`, id)
}

func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s
}

func mustRun(t *testing.T, c Config) Result {
	t.Helper()
	result, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestEveryMessageOnce(t *testing.T) {
	for _, rate := range []float64{0, 20000} {
		handler := &api{}
		server := serve(t, handler)
		var acked bytes.Buffer
		result := mustRun(t, Config{URL: server.URL, Keys: []string{"k1", "k2", "k3"}, Count: 2000, Connections: 20, Rate: rate, Seed: 7, Acked: &acked,
			Priorities: []Share[message.Priority]{{message.Critical, 1}, {message.Low, 3}}, Sizes: []Share[int]{{10, 1}, {3000, 1}}})
		if result.Sent != 2000 || result.OK != 2000 || result.Codes[202] != 2000 || len(result.Errors) != 0 || result.Unsent != 0 {
			t.Errorf("rate %v: got %+v", rate, result)
		}
		refs, count := map[string]bool{}, map[string]int{}
		for _, s := range handler.got {
			refs[s.ClientRef] = true
			count[s.Key]++
			count[s.Priority]++
			count[fmt.Sprint(len(s.Body))]++
		}
		if len(refs) != 2000 || count["k1"] != 667 || count["k3"] != 666 {
			t.Errorf("rate %v: %d different refs, %v", rate, len(refs), count)
		}
		if low := count["low"]; low < 1400 || low > 1600 || count["critical"]+low != 2000 || count["10"]+count["3000"] != 2000 || count["10"] < 900 || count["10"] > 1100 {
			t.Errorf("rate %v: the mix is %v", rate, count)
		}
		lines := strings.Split(strings.TrimSuffix(acked.String(), "\n"), "\n")
		for _, line := range lines {
			id, ref, _ := strings.Cut(line, " ")
			if _, err := message.ParseID(id); err != nil || !refs[ref] {
				t.Fatalf("acknowledged: %q", line)
			}
		}
		if slices.Sort(lines); len(slices.Compact(lines)) != 2000 {
			t.Errorf("rate %v: %d acknowledgements written", rate, len(lines))
		}
	}
}

func TestSeedReproduces(t *testing.T) {
	rendered := func(seed uint64) []byte {
		c := Config{Keys: []string{"a", "b"}, Seed: seed, Sizes: []Share[int]{{10, 1}, {20, 1}}, To: `"x"`}.withDefaults()
		r, err := newRun(c)
		if err != nil {
			t.Fatal(err)
		}
		var all []byte
		for i := range uint64(100) {
			all = r.requests.append(all, i)
		}
		return all
	}
	if !bytes.Equal(rendered(1), rendered(1)) || bytes.Equal(rendered(1), rendered(2)) {
		t.Error("a run does not depend on its seed alone")
	}
}

// A server that stalls once: the open loop reports the stall for every message
// that was due in it, the service time hides all of them but one.
func TestStallIsReported(t *testing.T) {
	const stall = 400 * time.Millisecond
	over := make(chan struct{})
	handler := &api{hook: func(n int, _ http.ResponseWriter) bool {
		if n == 100 {
			time.AfterFunc(stall, func() { close(over) })
			<-over
		}
		return false
	}}
	server := serve(t, handler)
	result := mustRun(t, Config{URL: server.URL, Keys: []string{"k"}, Count: 1000, Rate: 1000, Connections: 1})
	if result.OK != 1000 || result.Mode != "open loop" {
		t.Fatalf("got %+v", result)
	}
	if result.Latency.P90 < 100 {
		t.Errorf("p90 of latency is %v ms; 400 messages of 1,000 were due in a stall of %v", result.Latency.P90, stall)
	}
	if result.Service.P90 > result.Latency.P90/2 {
		t.Errorf("p90 of service time is %v ms, of latency %v ms", result.Service.P90, result.Latency.P90)
	}
}

func TestUnsentIsCounted(t *testing.T) {
	release := make(chan struct{})
	handler := &api{hook: func(int, http.ResponseWriter) bool { <-release; return false }}
	server := serve(t, handler)
	time.AfterFunc(300*time.Millisecond, func() { close(release) })
	result := mustRun(t, Config{URL: server.URL, Keys: []string{"k"}, Rate: 1000, Duration: 100 * time.Millisecond, Connections: 2})
	if result.Sent != 2 || result.Unsent != 98 {
		t.Errorf("sent %d, unsent %d; want 2, 98", result.Sent, result.Unsent)
	}
}

func TestServerDies(t *testing.T) {
	var server *httptest.Server
	dead := make(chan struct{})
	handler := &api{hook: func(n int, _ http.ResponseWriter) bool {
		if n == 200 {
			go func() {
				defer close(dead)
				server.Listener.Close()
				server.CloseClientConnections()
			}()
		}
		return false
	}}
	server = serve(t, handler)
	var acked bytes.Buffer
	result := mustRun(t, Config{URL: server.URL, Keys: []string{"k"}, Rate: 2000, Duration: 500 * time.Millisecond, Connections: 8, Acked: &acked})
	<-dead
	if result.OK < 100 || result.Errors["connect"] == 0 {
		t.Errorf("got %+v", result)
	}
	answered := uint64(0)
	for _, n := range result.Codes {
		answered += n
	}
	if lost := result.Errors["closed"] + result.Errors["malformed"] + result.Errors["timeout"]; answered+lost != result.Sent {
		t.Errorf("%d answers and %d without one are not the %d sent", answered, lost, result.Sent)
	}
	if n := uint64(strings.Count(acked.String(), "\n")); n != result.OK {
		t.Errorf("%d acknowledgements written, %d counted", n, result.OK)
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = Run(t.Context(), Config{URL: "http://" + addr, Keys: []string{"k"}, Count: 1, Connections: 3})
	if err == nil || !strings.Contains(err.Error(), "is the appliance running") {
		t.Errorf("got %v", err)
	}
}

func TestTimeout(t *testing.T) {
	release := make(chan struct{})
	server := serve(t, &api{hook: func(int, http.ResponseWriter) bool { <-release; return false }})
	defer close(release)
	result := mustRun(t, Config{URL: server.URL, Keys: []string{"k"}, Count: 4, Connections: 2, Timeout: 50 * time.Millisecond})
	if result.Errors["timeout"] != 4 || result.Sent != 4 || result.OK != 0 {
		t.Errorf("got %+v", result)
	}
}

func TestCancelEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	release := make(chan struct{})
	server := serve(t, &api{hook: func(n int, _ http.ResponseWriter) bool {
		if n == 3 {
			cancel()
		}
		<-release
		return false
	}})
	defer close(release)
	// Without the cancellation this would last an hour.
	result, err := Run(ctx, Config{URL: server.URL, Keys: []string{"k"}, Rate: 1000, Duration: time.Hour, Timeout: time.Hour, Connections: 4})
	if err != nil || result.Errors["stopped"] != 4 {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestRefusalsAndClosedConnections(t *testing.T) {
	server := serve(t, &api{hook: func(n int, w http.ResponseWriter) bool {
		if n%2 == 0 {
			return false
		}
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}})
	result := mustRun(t, Config{URL: server.URL, Keys: []string{"k"}, Count: 100, Connections: 1})
	if diff := cmp.Diff(map[int]uint64{202: 50, 503: 50}, result.Codes); diff != "" || len(result.Errors) != 0 || result.Reconnects != 49 {
		t.Errorf("%s\n%+v", diff, result)
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(&api{})
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := Config{URL: server.URL, Keys: []string{"k"}, Count: 10, Connections: 2, RootCAs: roots}
	if result := mustRun(t, c); result.OK != 10 {
		t.Errorf("got %+v", result)
	}
	c.RootCAs = nil
	if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v", err)
	}
}

func TestProgressAndText(t *testing.T) {
	server := serve(t, &api{})
	var calls atomic.Int32
	result := mustRun(t, Config{URL: server.URL, Keys: []string{"k"}, Rate: 200, Duration: 1500 * time.Millisecond, Connections: 4,
		Progress: func(p Progress) {
			calls.Add(1)
			if p.Sent == 0 || !strings.Contains(p.String(), "ok ") {
				t.Errorf("progress %v", p)
			}
		}})
	if calls.Load() == 0 {
		t.Error("no progress in a second and a half")
	}
	var text bytes.Buffer
	if err := result.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"open loop, 4 connections, 200 messages/s wanted", "status 202  300", "p99.9", "latency from due"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}

func TestValidate(t *testing.T) {
	good := Config{Keys: []string{"k"}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"no API key":     func(c *Config) { c.Keys = nil },
		"an API key":     func(c *Config) { c.Keys = []string{"a\nb"} },
		"none of an API": func(c *Config) { c.URL = "localhost:8080" },
		"path":           func(c *Config) { c.Path = "v1" },
		"rate":           func(c *Config) { c.Rate = -1 },
		"connections":    func(c *Config) { c.Connections = -1 },
		"duration":       func(c *Config) { c.Duration = -1 },
		"size":           func(c *Config) { c.Sizes = []Share[int]{{0, 1}} },
		"weight":         func(c *Config) { c.Sizes = []Share[int]{{1, 0}} },
		"priority":       func(c *Config) { c.Priorities = []Share[message.Priority]{{9, 1}} },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	if _, err := Run(t.Context(), Config{Keys: []string{"k"}, Connections: 900_000}); err == nil || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("file limit: %v", err)
	}
}

func TestParseMix(t *testing.T) {
	p, err := ParsePriorities("critical:2, low")
	if diff := cmp.Diff([]Share[message.Priority]{{message.Critical, 2}, {message.Low, 1}}, p); err != nil || diff != "" {
		t.Error(err, diff)
	}
	s, err := ParseSizes("256:8,4096")
	if diff := cmp.Diff([]Share[int]{{256, 8}, {4096, 1}}, s); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, text := range []string{"", "urgent", "low:0", "low:x", "low:1:1"} {
		if _, err := ParsePriorities(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
	if _, err := ParseSizes("1KiB"); err == nil {
		t.Error("1KiB: no error")
	}
}
