package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/httpapi/admin"
)

const (
	queueLength  = 64 // notifications that wait; past it the oldest goes
	sendWithin   = 10 * time.Second
	sendAttempts = 8
	sendDelay    = time.Second // the first wait between attempts, doubling, with full jitter
	sendMaxDelay = 2 * time.Minute
)

// Notification is what alerts.webhook_url receives, as JSON.
type Notification struct {
	Type      string      `json:"type"` // alert.firing, alert.resolved
	Timestamp time.Time   `json:"timestamp"`
	Node      uint16      `json:"node"`
	Version   string      `json:"version"`
	Alert     admin.Alert `json:"alert"`
}

// sender delivers notifications in order, one at a time.
type sender struct {
	client  *http.Client
	logger  *slog.Logger
	metrics *metrics
	target  func() string // the address that is configured now; empty: none

	mu    sync.Mutex // guards queue
	queue []Notification
	wake  chan struct{} // capacity 1: the queue is not empty
}

func newSender(logger *slog.Logger, m *metrics, target func() string) *sender {
	return &sender{logger: logger, metrics: m, target: target, wake: make(chan struct{}, 1),
		client: &http.Client{
			Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute},
			// An alert may name hosts and accounts: it goes where it was told to and nowhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}}
}

// offer puts a notification into the queue. It never waits.
func (s *sender) offer(n Notification) {
	if s.target() == "" {
		return
	}
	s.mu.Lock()
	if len(s.queue) == queueLength {
		s.queue = s.queue[1:]
		s.metrics.notifications.WithLabelValues(outcomeOverflow).Inc()
	}
	s.queue = append(s.queue, n)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sender) take() (Notification, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return Notification{}, false
	}
	n := s.queue[0]
	s.queue = s.queue[1:]
	return n, true
}

// run delivers until ctx ends.
func (s *sender) run(ctx context.Context) {
	defer s.client.CloseIdleConnections()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		for {
			n, ok := s.take()
			if !ok {
				break
			}
			s.metrics.notifications.WithLabelValues(s.deliver(ctx, n)).Inc()
		}
	}
}

// deliver tries until it is taken, with growing waits, and says how it ended.
func (s *sender) deliver(ctx context.Context, n Notification) (outcome string) {
	var last error
	for attempt := range sendAttempts {
		target := s.target()
		if target == "" || ctx.Err() != nil {
			return outcomeDisabled
		}
		if last = s.post(ctx, target, n); last == nil {
			return outcomeSent
		}
		select {
		case <-ctx.Done():
			return outcomeDisabled
		case <-time.After(rand.N(min(sendMaxDelay, sendDelay<<attempt))):
		}
	}
	s.logger.Error("an alert could not be delivered", "alert", n.Alert.Name, "type", n.Type, "error", last)
	return outcomeGivenUp
}

func (s *sender) post(ctx context.Context, target string, n Notification) error {
	body, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode the alert: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return errors.New("make the request: the address is not valid") // err holds it, and it may be a secret
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "forebay/"+n.Version)
	resp, err := s.client.Do(r)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the address
		}
		return fmt.Errorf("send the alert: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("send the alert: the receiver answers %d", resp.StatusCode)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4096) // so that the connection can be used again
	return nil
}
