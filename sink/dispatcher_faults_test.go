package sink_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// TestStopChannel: bad credentials stop the channel, cost no attempt, are probed
// by one message, and what waited is sent when they are mended.
func TestStopChannel(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var mended bool
		var mu sync.Mutex
		calls := 0
		svc := &service{script: func(ctx context.Context, _ *sink.Delivery) (sink.Sent, error) {
			pause(ctx, 10*time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if calls++; !mended {
				return sink.Sent{}, &sink.StopChannel{Fault: sink.Fault{Failure: message.Failure{Code: "channel_auth", Category: "account"}}}
			}
			return sink.Sent{}, nil
		}}
		var stops []string
		p := newPlant(t, svc, func(c *sink.DispatcherConfig) {
			c.OnStop = func(_ message.Channel, why *message.Failure, _ time.Time) {
				mu.Lock()
				defer mu.Unlock()
				stops = append(stops, fmt.Sprint(why != nil))
			}
		})
		ids := p.email("a", message.Normal, 300)
		stop := p.start()
		pause(context.Background(), 20*time.Minute)
		mu.Lock()
		if calls > 16+10 {
			t.Errorf("%d attempts in 20 minutes of bad credentials", calls)
		}
		mended = true
		mu.Unlock()
		p.await(30 * time.Minute)
		stop()
		for _, id := range ids {
			if rec := p.status(id); rec.Status != message.Sent || len(rec.Attempts) != 1 {
				t.Fatalf("%s is %v after %d attempts", id, rec.Status, len(rec.Attempts))
			}
		}
		if n := len(stops); n < 2 || stops[0] != "true" || stops[n-1] != "false" {
			t.Errorf("told of stops: %v", stops)
		}
	})
}

// TestStoppedChannelGoesOn: what shows that a stopped channel is mended is that the
// service deals with a message, and be it to refuse it for good; a refusal by a
// check of our own, a busy service and a test message, which asks nobody, do not.
func TestStoppedChannelGoesOn(t *testing.T) {
	refused := func(code string) error {
		return &sink.Permanent{Fault: sink.Fault{Neutral: true, Failure: message.Failure{Code: "invalid_recipient", Category: "recipient", ChannelCode: code}}}
	}
	for name, c := range map[string]struct {
		answer error
		test   bool
		goesOn bool
	}{
		"taken":                     {nil, false, true},
		"refused by the service":    {refused("550 5.1.1"), false, true},
		"refused by our own check":  {refused(""), false, false},
		"not reached":               {transient(), false, false},
		"a test message, delivered": {nil, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var mended atomic.Bool
				svc := &service{script: func(context.Context, *sink.Delivery) (sink.Sent, error) {
					if !mended.Load() {
						return sink.Sent{}, &sink.StopChannel{Fault: sink.Fault{Failure: message.Failure{Code: "channel_auth", Category: "account"}}}
					}
					return sink.Sent{}, c.answer
				}}
				var stopped, wentOn atomic.Bool
				p := newPlant(t, svc, func(cfg *sink.DispatcherConfig) {
					cfg.OnStop = func(_ message.Channel, why *message.Failure, _ time.Time) {
						stopped.Store(true)
						wentOn.Store(wentOn.Load() || why == nil)
					}
				})
				p.email("a", message.Low, 1)
				stop := p.start()
				pause(context.Background(), time.Second)
				if !stopped.Load() {
					t.Fatal("the channel is not stopped: nothing is proved")
				}
				// The one that stopped it waits for the next probe, and this one goes first.
				p.putMessage(message.Message{Account: "b", Channel: message.ChannelEmail, Priority: message.Critical, To: "a@b.example", Test: c.test})
				mended.Store(!c.test)
				pause(context.Background(), 35*time.Second)
				if wentOn.Load() != c.goesOn {
					t.Errorf("the channel goes on: %v, want %v", wentOn.Load(), c.goesOn)
				}
				mended.Store(true)
				stop()
			})
		})
	}
}

// TestNoAttemptIsUsedUp: while what a channel needs of ours is not at hand, messages
// wait, however often that is found, and lose no attempt.
func TestNoAttemptIsUsedUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var calls int
		began := time.Now()
		svc := &service{script: func(context.Context, *sink.Delivery) (sink.Sent, error) {
			if calls++; time.Since(began) < 10*time.Minute {
				return sink.Sent{}, &sink.Transient{Fault: sink.Fault{Uncalled: true, Failure: message.Failure{Code: "channel_unavailable", Category: "channel"}}}
			}
			return sink.Sent{}, nil
		}}
		p := newPlant(t, svc, func(c *sink.DispatcherConfig) { c.Delivery.MaxAttempts, c.Delivery.Workers = 2, 1 })
		id := p.email("a", message.Normal, 1)[0]
		stop := p.start()
		p.await(time.Hour)
		stop()
		if r := p.status(id); r.Status != message.Sent || len(r.Attempts) != 1 || r.Attempts[0].N != 1 || calls < 10 || calls > 700 {
			t.Errorf("it is %v after %d calls, with attempts %+v", r.Status, calls, r.Attempts)
		}
	})
}

// TestCallsAreBounded: a channel with few connections is not given more messages than
// these, so that none waits for one until its attempt is over, and lost.
func TestCallsAreBounded(t *testing.T) {
	for calls, lost := range map[int]bool{2: false, 0: true} { // without a bound the slow relay loses attempts
		t.Run(fmt.Sprint("calls=", calls), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				connections := make(chan struct{}, 2)
				svc := &service{script: func(ctx context.Context, _ *sink.Delivery) (sink.Sent, error) {
					select {
					case connections <- struct{}{}:
						defer func() { <-connections }()
					case <-ctx.Done():
						return sink.Sent{}, transient()
					}
					pause(ctx, 20*time.Second)
					return sink.Sent{}, ctx.Err()
				}}
				p := newPlant(t, svc, func(c *sink.DispatcherConfig) {
					c.Delivery.Channels[message.ChannelEmail] = sink.ChannelConfig{Sender: svc, Calls: calls}
				})
				ids := p.email("a", message.Normal, 12)
				stop := p.start()
				p.await(time.Hour)
				stop()
				most := 0
				for _, id := range ids {
					most = max(most, len(p.status(id).Attempts))
				}
				if (most > 1) != lost || calls > 0 && svc.peak.Load() != int64(calls) {
					t.Errorf("up to %d attempts, %d calls at once", most, svc.peak.Load())
				}
			})
		})
	}
}

// TestPanicsOfChannels: a message over which a channel panics ends for a reason, and
// the others go on.
func TestPanicsOfChannels(t *testing.T) {
	for _, in := range []string{"check", "send"} {
		t.Run(in, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var none []int
				svc := &service{check: func(m *message.Message) *message.Failure {
					if in == "check" && m.ClientRef == "bad" {
						_ = none[len(m.Body)]
					}
					return nil
				}, script: func(_ context.Context, d *sink.Delivery) (sink.Sent, error) {
					if d.Record.ClientRef == "bad" {
						_ = none[len(d.Record.Body)]
					}
					return sink.Sent{}, nil
				}}
				p := newPlant(t, svc, func(c *sink.DispatcherConfig) { c.Delivery.MaxAttempts = 3 })
				bad := p.putMessage(message.Message{Account: "a", Channel: message.ChannelEmail, Priority: message.High, To: "a@b.example", ClientRef: "bad"}).ID
				good := p.email("a", message.Normal, 5)
				stop := p.start()
				p.await(10 * time.Minute)
				stop()
				r := p.status(bad)
				if want := map[string]message.Status{"check": message.Rejected, "send": message.Failed}[in]; r.Status != want || r.Error == nil || r.Error.Code != "internal" {
					t.Errorf("it is %v, %+v, want %v", r.Status, r.Error, want)
				}
				for _, id := range good {
					if r := p.status(id); r.Status != message.Sent {
						t.Errorf("another is %v", r.Status)
					}
				}
			})
		})
	}
}

// TestRefusedEnds: an end that the store refuses keeps back none of the others, which
// come to theirs at once, and is there when the store takes it; a store that refuses
// all of them is not asked for each.
func TestRefusedEnds(t *testing.T) {
	for name, refused := range map[string]func(i int) bool{
		"the first": func(i int) bool { return i == 0 }, "the last": func(i int) bool { return i == 299 },
		"some": func(i int) bool { return i%97 == 5 }, "all": func(int) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPlant(t, &service{}, func(c *sink.DispatcherConfig) { c.Delivery.Workers, c.Delivery.PerAccount = 300, 300 })
				ids := p.email("a", message.Normal, 300)
				bad := map[message.ID]bool{}
				for i, id := range ids {
					bad[id] = refused(i)
				}
				p.store.setRefuse(func(r *message.Record) bool { return bad[r.ID] })
				stop := p.start()
				pause(context.Background(), 2*time.Second)
				waiting := 0
				for _, id := range ids {
					if done := p.status(id).Status == message.Sent; done == bad[id] {
						t.Fatalf("%s is in the store with its end: %v, and refused: %v", id, done, bad[id])
					}
					if bad[id] {
						waiting++
					}
				}
				if live := p.live(); live != waiting || waiting == 0 {
					t.Errorf("%d are in the log, want the %d that the store refuses", live, waiting)
				}
				if p.store.calls > 150 {
					t.Errorf("the store was asked %d times in two seconds", p.store.calls)
				}
				p.store.setRefuse(nil)
				p.await(15 * time.Minute)
				stop()
				for _, id := range ids {
					if r := p.status(id); r.Status != message.Sent || p.service.ledger[id] != 1 {
						t.Fatalf("%s is %v, sent %d times", id, r.Status, p.service.ledger[id])
					}
				}
			})
		})
	}
}
