package sink_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"forebay/sink"
	"forebay/wal/message"
)

// TestUntoldRestsWithItsEnd: a message that the store has, and whose callback the log
// does not take now, rests in the log with the end that it has, comes back for the
// callback and is forgotten after it. One of the same batch that nobody wants to know
// of does not wait for that.
func TestUntoldRestsWithItsEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var calls callbacks
		full, metrics := true, prometheus.NewRegistry()
		p := newPlant(t, &service{}, func(c *sink.DispatcherConfig) {
			calls.configure(c)
			c.Registerer = metrics
			c.CallbackURL = func(r *message.Record) string { return r.CallbackURL }
			take := c.Append
			c.Append = func(ctx context.Context, ms []*message.Message) error {
				if full {
					return errors.New("the log is full")
				}
				return take(ctx, ms)
			}
		})
		id := p.putMessage(message.Message{Account: "a", Channel: message.ChannelStore, Priority: message.Normal, Body: "x", CallbackURL: "https://a.example"}).ID
		other := p.putMessage(message.Message{Account: "a", Channel: message.ChannelStore, Priority: message.Normal, Body: "x"}).ID
		stop := p.start()
		pause(context.Background(), 3*time.Second)
		entry, err := p.Lookup(id)
		if err != nil {
			t.Fatalf("look up what could not be told: %v", err)
		}
		if r, err := entry.Record(); err != nil || r.Status != message.Stored || len(calls.of(id)) != 0 {
			t.Errorf("it rests as %v, %v, with callbacks of %v; want stored and none", r.Status, err, calls.of(id))
		}
		if _, err := p.Lookup(other); !errors.Is(err, sink.ErrNotFound) {
			t.Errorf("look up the message that is not to be told of: %v, want that it has gone", err)
		}
		full = false
		p.await(time.Minute)
		stop()
		if got := calls.of(id); len(got) != 1 || got[0] != "stored" {
			t.Errorf("callbacks of %v, want one of stored", got)
		}
		if err := testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP forebay_messages_final_total Messages that the log has let go of, by the status they had then.
# TYPE forebay_messages_final_total counter
forebay_messages_final_total{channel="store",status="stored"} 2
`), "forebay_messages_final_total"); err != nil {
			t.Error(err)
		}
	})
}

// TestSendingIsToldOnce: also where the log has forgotten, between two attempts, that
// it had the callback. (The one of this test remembers none.)
func TestSendingIsToldOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var calls callbacks
		tried := 0
		svc := &service{script: func(context.Context, *sink.Delivery) (sink.Sent, error) {
			if tried++; tried < 4 {
				return sink.Sent{}, &sink.Transient{Fault: sink.Fault{Failure: message.Failure{Code: "channel_unavailable", Category: "channel"}}}
			}
			return sink.Sent{ProviderID: "p"}, nil
		}}
		p := newPlant(t, svc, calls.configure)
		id := p.email("a", message.Normal, 1)[0]
		stop := p.start()
		p.await(time.Hour)
		stop()
		if got := calls.of(id); tried != 4 || !slices.Equal(got, []string{"queued", "sending", "sent"}) {
			t.Errorf("tried %d times, callbacks of %v, want queued, sending and sent", tried, got)
		}
	})
}

// TestUntoldIsNotSent: a message that is new in the store, and of which the log takes
// no callback, is told to be queued before it is sent, whenever that may be.
func TestUntoldIsNotSent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var calls callbacks
		refused := 0
		p := newPlant(t, &service{}, func(c *sink.DispatcherConfig) {
			calls.configure(c)
			take := c.Append
			c.Append = func(ctx context.Context, ms []*message.Message) error {
				if refused++; refused < 3 {
					return errors.New("the log is full")
				}
				return take(ctx, ms)
			}
		})
		id := p.email("a", message.Normal, 1)[0]
		stop := p.start()
		p.await(time.Minute)
		stop()
		if got := calls.of(id); refused < 3 || !slices.Equal(got, []string{"queued", "sending", "sent"}) {
			t.Errorf("callbacks of %v, want queued, sending and sent", got)
		}
	})
}

// TestUntoldHoldsUpNobodyElse: of messages that come due together, or go together
// without the store, those wait of which the log takes no callback, and no others.
func TestUntoldHoldsUpNobodyElse(t *testing.T) {
	for name, down := range map[string]bool{"scheduled": false, "without the store": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var full atomic.Bool
				svc := &service{}
				p := newPlant(t, svc, func(c *sink.DispatcherConfig) {
					new(callbacks).configure(c)
					c.CallbackURL = func(r *message.Record) string { return r.CallbackURL }
					take := c.Append
					c.Append = func(ctx context.Context, ms []*message.Message) error {
						if full.Load() {
							return errors.New("the log is full")
						}
						return take(ctx, ms)
					}
				})
				put := func(callback string) message.ID {
					m := message.Message{Account: "a", Channel: message.ChannelEmail, Priority: message.Normal, To: "a@b.example", CallbackURL: callback}
					if !down {
						m.SendAt = time.Now().Add(10 * time.Second)
					}
					return p.putMessage(m).ID
				}
				told, quiet := put("https://a.example"), put("")
				if down {
					full.Store(true)
					p.store.SetDown("a test")
				}
				stop := p.start()
				pause(context.Background(), 2*time.Second)
				full.Store(true)
				pause(context.Background(), 10*time.Second)
				if got := svc.sent(); !slices.Equal(got, []message.ID{quiet}) {
					t.Errorf("%v were sent while the log was full, want %v", got, quiet)
				}
				full.Store(false)
				p.store.SetDown("")
				p.await(time.Minute)
				stop()
				if got := svc.sent(); !slices.Equal(got, []message.ID{quiet, told}) {
					t.Errorf("%v were sent, want %v and then %v", got, quiet, told)
				}
			})
		})
	}
}
