package httpapi

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/wal/message"

	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	for _, t := range []string{typeNDJSON, "text/html", "application/yaml"} {
		openapi3filter.RegisterBodyDecoder(t, openapi3filter.PlainBodyDecoder)
	}
	goleak.VerifyTestMain(m)
}

// The keys that the world knows.
const (
	goodKey      = "fb_good"
	testKey      = "fb_test"
	suspendedKey = "fb_suspended"
	brokenKey    = "fb_broken" // authentication fails for a private reason
)

const account = "acme"

// memoryLog is a Log that keeps messages in memory.
type memoryLog struct {
	before func([]*message.Message) // called first, without the lock
	fail   func(*message.Message) error

	mu      sync.Mutex
	counter uint64
	records []message.Record
	keys    map[string]int // account and key → record
	groups  []int
}

func (l *memoryLog) Append(ctx context.Context, m *message.Message) (Receipt, error) {
	var out [1]Receipt
	if err := l.AppendBatch(ctx, []*message.Message{m}, out[:]); err != nil {
		return Receipt{}, err
	}
	return out[0], out[0].Err
}

func (l *memoryLog) AppendBatch(ctx context.Context, ms []*message.Message, out []Receipt) error {
	if l.before != nil {
		l.before(ms)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.groups = append(l.groups, len(ms))
	for i, m := range ms {
		if l.fail != nil {
			if err := l.fail(m); err != nil {
				out[i] = Receipt{Err: err}
				continue
			}
		}
		key := m.Account + "\x00" + m.IdempotencyKey
		if at, ok := l.keys[key]; ok && m.IdempotencyKey != "" {
			if l.records[at].Fingerprint != m.Fingerprint {
				out[i] = Receipt{Err: ErrMismatch}
			} else {
				out[i] = Receipt{ID: l.records[at].ID, Replayed: true}
			}
			continue
		}
		l.counter++
		id := message.NewID(uint64(time.Now().UnixMilli()), uint16(l.counter&0xfff), 7, m.Priority, rand.Uint64())
		l.keys[key] = len(l.records)
		l.records = append(l.records, message.Record{ID: id, Seq: l.counter, Message: *m, State: message.State{Status: message.Accepted}})
		out[i] = Receipt{ID: id}
	}
	return nil
}

func (l *memoryLog) all() []message.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// memoryMessages answers from a log.
type memoryMessages struct {
	log  *memoryLog
	err  error
	wait func(context.Context, message.ID) (message.State, error)
}

func (m *memoryMessages) Get(_ context.Context, account string, id message.ID) (message.Record, error) {
	for _, r := range m.log.all() {
		if r.ID == id && r.Account == account {
			return r, m.err
		}
	}
	return message.Record{}, ErrNotFound
}

func (m *memoryMessages) List(_ context.Context, q message.Query) (message.Page, error) {
	var page message.Page
	records := m.log.all()
	slices.Reverse(records)
	for _, r := range records {
		if r.Account != q.Account || !q.Before.IsZero() && bytes.Compare(r.ID[:], q.Before[:]) >= 0 || q.ClientRef != "" && r.ClientRef != q.ClientRef {
			continue
		}
		if len(page.Records) == q.Limit {
			page.More = true
			break
		}
		page.Records = append(page.Records, r)
	}
	return page, m.err
}

func (m *memoryMessages) Wait(ctx context.Context, id message.ID) (message.State, error) {
	if m.wait != nil {
		return m.wait(ctx, id)
	}
	<-ctx.Done()
	return message.State{}, ctx.Err()
}

type memoryKeys struct{}

func (memoryKeys) Authenticate(key string) (Principal, error) {
	all := ChannelsOf(message.ChannelStore, message.ChannelEmail, message.ChannelWhatsApp)
	switch key {
	case goodKey:
		return Principal{Account: account, Channels: all, CallbackURL: "https://acme.example/status"}, nil
	case testKey:
		return Principal{Account: account, Channels: all, Test: true}, nil
	case suspendedKey:
		return Principal{Account: "bad", Channels: all, Suspended: true}, nil
	case brokenKey:
		return Principal{}, io.ErrClosedPipe
	}
	return Principal{}, ErrUnauthenticated
}

// world is an API on fakes.
type world struct {
	*API
	log      *memoryLog
	messages *memoryMessages
	registry *prometheus.Registry
	wrap     func(http.Handler) http.Handler // of the handler that is served
	logged   *syncBuffer
}

func newWorld(t fatalHelper, options ...func(*Config)) *world {
	t.Helper()
	w := &world{log: &memoryLog{keys: map[string]int{}}, registry: prometheus.NewPedanticRegistry(), logged: &syncBuffer{}}
	w.messages = &memoryMessages{log: w.log}
	cfg := Config{Log: w.log, Messages: w.messages, Keys: memoryKeys{}, Registerer: w.registry,
		Channels: message.Channels, MaxBodyBytes: 8 << 10,
		Logger: slog.New(slog.NewJSONHandler(w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, o := range options {
		o(&cfg)
	}
	var err error
	if w.API, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

// do sends a request to the handler, without a network.
func (w *world) do(method, target, body string, header ...string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, request(method, target, body, header...))
	return rec
}

func request(method, target, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", typeJSON)
	}
	r.Header.Set("Authorization", "Bearer "+goodKey)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			r.Header.Del(header[i])
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// serve puts the world on a loopback port until the test ends.
func (w *world) serve(t testing.TB) string {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, listener := w.Server(), w.Listener(inner, nil)
	if w.wrap != nil {
		server.Handler = w.wrap(server.Handler)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; err != http.ErrServerClosed {
			t.Errorf("serve: %v", err)
		}
		_ = listener.Close()
		eventually(t, "every connection is closed", func() bool { return listener.Active() == 0 })
	})
	return inner.Addr().String()
}

// eventually polls until ok, for at most ten seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		<-tick.C
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// fatalHelper is what testing.TB and rapid.T have in common.
type fatalHelper interface {
	Helper()
	Fatal(args ...any)
}
