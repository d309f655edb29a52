package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/wal/message"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
)

// discard is a ResponseWriter that costs nothing, used for every request.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

type instantLog struct{ Log }

func (instantLog) Append(_ context.Context, m *message.Message) (Receipt, error) {
	return Receipt{ID: message.NewID(uint64(time.Now().UnixMilli()), 1, 7, m.Priority, rand.Uint64())}, nil
}

const benchBody = `{"channel":"store","to":"+4915112345678","priority":"normal","client_ref":"order-4711","metadata":{"campaign":"autumn","tenant":"north"},` +
	`"body":"Dear customer, your parcel has left our house and will be with you tomorrow between 9 and 12. You can follow it on our page, change the place where it is left, or choose another day. We thank you for your order and wish you much joy with it. If anything is not as it should be, simply answer our letter; somebody reads it."}`

// BenchmarkSubmit holds the handler of a submission against a bare one that
// decodes the same JSON with the same library, issues an id and answers.
func BenchmarkSubmit(b *testing.B) {
	api, err := New(Config{Log: instantLog{}, Messages: &memoryMessages{}, Keys: memoryKeys{}, Registerer: prometheus.NewRegistry(),
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	for _, h := range []struct {
		name    string
		handler http.Handler
	}{{"bare", http.HandlerFunc(bareHandler)}, {"forebay", api.Handler()}} {
		b.Run("handler="+h.name, func(b *testing.B) {
			b.ReportAllocs()
			reader := strings.NewReader(benchBody)
			r := &http.Request{Method: "POST", URL: &url.URL{Path: "/v1/messages"}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
				ContentLength: int64(len(benchBody)), Body: io.NopCloser(reader), Host: "x", RemoteAddr: "127.0.0.1:1",
				Header: http.Header{"Authorization": {"Bearer " + goodKey}, "Content-Type": {typeJSON}}}
			r = r.WithContext(b.Context())
			for b.Loop() {
				reader.Reset(benchBody)
				w := discard{header: make(http.Header)}
				h.handler.ServeHTTP(&w, r)
				if w.status != http.StatusAccepted {
					b.Fatalf("got %d", w.status)
				}
			}
		})
	}
}

// BenchmarkServe does the same over loopback connections, with all that lies
// between the wire and the handler: the bare handler on a plain server, ours
// behind its guard.
func BenchmarkServe(b *testing.B) {
	for _, name := range []string{"bare", "forebay"} {
		for _, connections := range []int{32, 1000} {
			b.Run(fmt.Sprintf("handler=%s/connections=%d", name, connections), func(b *testing.B) {
				benchmarkServe(b, name == "bare", connections)
			})
		}
	}
}

func benchmarkServe(b *testing.B, bare bool, connections int) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server, listener := &http.Server{Handler: http.HandlerFunc(bareHandler)}, inner
	if !bare {
		api, err := New(Config{Log: instantLog{}, Messages: &memoryMessages{}, Keys: memoryKeys{}, Registerer: prometheus.NewRegistry()})
		if err != nil {
			b.Fatal(err)
		}
		server, listener = api.Server(), api.Listener(inner, nil)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	defer served.Wait()
	defer server.Close()
	req := []byte(post(benchBody))
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var clients sync.WaitGroup
	for range connections {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		clients.Go(func() {
			defer conn.Close()
			answer := make([]byte, 4096)
			for left.Add(-1) >= 0 {
				_, _ = conn.Write(req)
				if n, err := conn.Read(answer); err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 202")) {
					b.Errorf("got %q, %v", answer[:n], err)
					return
				}
			}
		})
	}
	clients.Wait()
}

func bareHandler(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var m struct {
		Channel   string            `json:"channel"`
		To        string            `json:"to"`
		Priority  string            `json:"priority"`
		ClientRef string            `json:"client_ref"`
		Metadata  map[string]string `json:"metadata"`
		Body      string            `json:"body"`
	}
	if err := json.Unmarshal(body, &m, json.RejectUnknownMembers(true)); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	id := message.NewID(uint64(time.Now().UnixMilli()), 1, 7, message.Normal, rand.Uint64())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write([]byte(`{"id":"` + id.String() + `","status":"accepted"}`))
}

func BenchmarkDecode(b *testing.B) {
	body := []byte(benchBody)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		var m message.Message
		var in form
		if p := decodeMessage(body, &m, &in); p != nil {
			b.Fatal(p)
		}
	}
}
