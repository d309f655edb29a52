package sinktest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// The faults that the webhook receiver knows, beside a status in digits
// ("503", or "429 120" with a Retry-After).
const (
	FaultCut      Fault = "cut"      // takes the message and cuts the connection
	FaultRefuse   Fault = "refuse"   // cuts the connection before anything was read
	FaultHang     Fault = "hang"     // takes the message and says nothing until the caller goes
	FaultTrickle  Fault = "trickle"  // answers 200 and then a byte of body now and then, for ever
	FaultHuge     Fault = "huge"     // answers 200 and 10 MB
	FaultHeader   Fault = "header"   // answers 200 with a header of 1 MB
	FaultRedirect Fault = "redirect" // answers 302 to an address inside
	FaultGarbage  Fault = "garbage"  // answers what is not HTTP
)

// WebhookReceiver is a stand-in for a customer's server: it verifies every
// signature with the library that customers use.
type WebhookReceiver struct {
	Deliveries
	pause
	Rules *Rules

	server *httptest.Server
	done   chan struct{}

	mu      sync.Mutex
	secrets []string
	seen    []WebhookCall // the latest 1,000
	sent    int64         // bytes of answers' bodies that were written out
	conns   int
}

// WebhookCall is one call as it came.
type WebhookCall struct {
	Path   string
	Header http.Header
	Body   string
}

// NewWebhookReceiver starts one on a loopback port; every secret is good.
func NewWebhookReceiver(t testing.TB, secure bool, rules *Rules, secrets ...string) *WebhookReceiver {
	t.Helper()
	r := &WebhookReceiver{Rules: rules, secrets: secrets, done: make(chan struct{})}
	r.server = httptest.NewUnstartedServer(r)
	r.server.Config.ErrorLog = quietLog()
	r.server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			r.mu.Lock()
			r.conns++
			r.mu.Unlock()
		}
	}
	if secure {
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	t.Cleanup(func() {
		close(r.done)
		r.server.CloseClientConnections()
		r.server.Close()
	})
	return r
}

// URL is the receiver's address.
func (r *WebhookReceiver) URL() string { return r.server.URL }

// Trust makes another secret good: that of an account which did not exist before.
func (r *WebhookReceiver) Trust(secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = append(r.secrets[:len(r.secrets):len(r.secrets)], secret)
}

// TLS trusts the receiver's certificate.
func (r *WebhookReceiver) TLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(r.server.Certificate())
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// Calls returns the latest calls, the oldest first.
func (r *WebhookReceiver) Calls() []WebhookCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]WebhookCall(nil), r.seen...)
}

// Sent counts the bytes of answers' bodies that were taken off the receiver.
func (r *WebhookReceiver) Sent() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent
}

// Connections counts those that were ever opened.
func (r *WebhookReceiver) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conns
}

// ServeHTTP implements http.Handler.
func (r *WebhookReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.wait(r.done)
	fault := r.Rules.next(req.URL.Path)
	if fault == FaultRefuse {
		panic(http.ErrAbortHandler)
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return
	}
	if problem := r.verify(req, body); problem != "" {
		r.refuse("%s", problem)
		http.Error(w, problem, http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	if r.seen = append(r.seen, WebhookCall{req.URL.Path, req.Header.Clone(), string(body)}); len(r.seen) > 1000 {
		r.seen = r.seen[1:]
	}
	r.mu.Unlock()
	r.answer(w, req, fault)
}

func (r *WebhookReceiver) verify(req *http.Request, body []byte) string {
	if req.Method != http.MethodPost {
		return "method " + req.Method
	}
	if id := req.Header.Get("Webhook-Id"); id == "" || strings.Contains(id, ".") {
		return fmt.Sprintf("webhook-id %q", id)
	}
	if kind := req.Header.Get("Content-Type"); kind != "application/json" && kind != "text/plain; charset=utf-8" {
		return "content type " + kind
	}
	r.mu.Lock()
	secrets := r.secrets
	r.mu.Unlock()
	for _, secret := range secrets {
		if hook, err := standardwebhooks.NewWebhook(secret); err == nil && hook.Verify(body, req.Header) == nil {
			return ""
		}
	}
	return "no signature fits"
}

func (r *WebhookReceiver) answer(w http.ResponseWriter, req *http.Request, fault Fault) {
	id := req.Header.Get("Webhook-Id")
	switch fault {
	case "":
		r.accept(id)
		w.WriteHeader(http.StatusNoContent)
	case FaultCut:
		r.accept(id)
		panic(http.ErrAbortHandler)
	case FaultHang:
		r.accept(id)
		select {
		case <-req.Context().Done():
		case <-r.done:
		}
	case FaultTrickle:
		r.accept(id)
		r.trickle(w, req)
	case FaultHuge:
		r.accept(id)
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		for range 160 {
			n, err := w.Write(chunk)
			r.mu.Lock()
			r.sent += int64(n)
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	case FaultHeader:
		r.accept(id)
		w.Header().Set("X-Much", strings.Repeat("x", 1<<20))
		w.WriteHeader(http.StatusOK)
	case FaultRedirect:
		w.Header().Set("Location", "http://169.254.169.254/latest/meta-data/")
		w.WriteHeader(http.StatusFound)
	case FaultGarbage:
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_, _ = io.WriteString(conn, "SSH-2.0-nothing\r\n\r\n")
			_ = conn.Close()
		}
	default:
		text, after, _ := strings.Cut(string(fault), " ")
		status, err := strconv.Atoi(text)
		if err != nil {
			panic("sinktest: no such fault: " + string(fault))
		}
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
	}
}

func (r *WebhookReceiver) trickle(w http.ResponseWriter, req *http.Request) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	control := http.NewResponseController(w)
	for {
		if _, err := w.Write([]byte("x")); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-req.Context().Done():
			return
		case <-r.done:
			return
		}
	}
}
