package sink_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/wal/message"
)

func transient() error {
	return &sink.Transient{Fault: sink.Fault{Failure: message.Failure{Code: "channel_unavailable", Category: "channel", Message: "no"}}}
}

// TestProperty10_RetriesOfAMessageAreSpacedAndEnd: however attempts end, a message
// is tried at most max attempts times, never sooner than a service asked, and
// comes to an end.
func TestProperty10_RetriesOfAMessageAreSpacedAndEnd(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		most, floor := rapid.IntRange(1, 6).Draw(r, "max attempts"), time.Duration(rapid.IntRange(0, 5000).Draw(r, "floor ms"))*time.Millisecond
		good := rapid.IntRange(1, 8).Draw(r, "attempt that succeeds")
		rapid.SyncTest(r, func(r *rapid.T) {
			var mu sync.Mutex
			var at []time.Time
			svc := &service{script: func(_ context.Context, d *sink.Delivery) (sink.Sent, error) {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Now())
				if d.Attempt != len(at) {
					r.Errorf("attempt %d is called %d", len(at), d.Attempt)
				}
				if len(at) == good {
					return sink.Sent{Delivered: true}, nil
				}
				return sink.Sent{}, &sink.RetryAfter{After: floor, Fault: sink.Fault{Failure: message.Failure{Code: "busy"}}}
			}}
			p := newPlant(r, svc, func(c *sink.DispatcherConfig) { c.Delivery.MaxAttempts = most })
			id := p.email("a", message.Normal, 1)[0]
			stop := p.start()
			p.await(10 * time.Minute)
			stop()
			want := message.Delivered
			if good > most {
				want = message.Failed
			}
			rec := p.status(id)
			if rec.Status != want || len(at) != min(good, most) || len(rec.Attempts) != len(at) {
				r.Errorf("%v after %d attempts (%d kept), want %v after %d", rec.Status, len(at), len(rec.Attempts), want, min(good, most))
			}
			for i := 1; i < len(at); i++ {
				if gap := at[i].Sub(at[i-1]); gap < floor-time.Millisecond {
					r.Errorf("attempt %d came %v after the one before, want %v or more", i+1, gap, floor)
				}
			}
		})
	})
}

// TestCancelIsDecidedOnce: whatever a message is just doing, a cancel that says
// it is canceled means that it is never sent, and one that says too late that it
// is; also when the process ends between.
func TestCancelIsDecidedOnce(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(r, "messages")
		after := rapid.SliceOfN(rapid.IntRange(0, 1200), n, n).Draw(r, "cancel after ms")
		later := rapid.SliceOfN(rapid.SampledFrom([]int{0, 0, 500, 5000}), n, n).Draw(r, "send at ms")
		limit := rapid.IntRange(4, 100).Draw(r, "queue")
		down, restart := rapid.Bool().Draw(r, "store down"), rapid.Bool().Draw(r, "restart")
		rapid.SyncTest(r, func(r *rapid.T) {
			svc := &service{script: func(ctx context.Context, _ *sink.Delivery) (sink.Sent, error) {
				pause(ctx, 100*time.Millisecond)
				return sink.Sent{}, nil
			}}
			p := newPlant(r, svc, func(c *sink.DispatcherConfig) { c.Delivery.Workers, c.QueueLimit = 3, limit })
			var ids []message.ID
			for i := range n {
				m := message.Message{Account: fmt.Sprint(i % 3), Channel: message.ChannelEmail, Priority: message.Priority(i % 4), To: "a@b.example"}
				if later[i] > 0 {
					m.SendAt = time.Now().Add(time.Duration(later[i]) * time.Millisecond).UTC()
				}
				ids = append(ids, p.putMessage(m).ID)
			}
			if down {
				p.store.SetDown("a test")
			}
			stop := p.start()
			answers := make([]error, n)
			var wg sync.WaitGroup
			for i, id := range ids {
				wg.Go(func() {
					pause(context.Background(), time.Duration(after[i])*time.Millisecond)
					_, answers[i] = p.Cancel(context.Background(), id)
				})
			}
			wg.Wait()
			if restart {
				stop()
				p.restart()
				stop = p.start()
			}
			pause(context.Background(), time.Second)
			p.store.SetDown("")
			p.await(5 * time.Minute)
			for i, id := range ids {
				rec, sent := p.status(id), svc.ledger[id]
				switch {
				case answers[i] == nil && (sent != 0 || rec.Status != message.Canceled):
					r.Errorf("%s: canceled, and then sent %d times; it is %v", id, sent, rec.Status)
				case errors.Is(answers[i], sink.ErrTooLate) && (sent != 1 || rec.Status != message.Sent):
					r.Errorf("%s: too late, and then sent %d times; it is %v", id, sent, rec.Status)
				case answers[i] != nil && !errors.Is(answers[i], sink.ErrTooLate) && !down:
					r.Errorf("cancel: %v", answers[i])
				}
			}
			if _, err := p.Cancel(context.Background(), ids[0]); (err == nil) != (p.status(ids[0]).Status == message.Canceled) {
				r.Errorf("a second cancel: %v", err)
			}
			stop()
		})
	})
}

// TestStoreDown: what has no idempotency key is sent while the store is down, past
// every bound, what has one waits, and all is in the store afterwards, sent once. What is in the way is written once more to disk, however
// long the outage, and comes back after a restart too.
func TestStoreDown(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart=", restart), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPlant(t, &service{}, nil)
				p.store.SetDown("a test")
				stop := p.start()
				pause(context.Background(), time.Second)
				inTheWay := p.source.put(message.Normal, 12_000) // of channel store
				free := p.email("a", message.Normal, 300)
				keyed := p.putMessage(message.Message{Account: "a", Channel: message.ChannelEmail, Priority: message.Normal, To: "a@b.example", IdempotencyKey: "k"}).ID
				pause(context.Background(), 3*time.Minute)
				if n := len(p.service.sent()); n != len(free) || p.service.ledger[keyed] != 0 {
					t.Errorf("%d sent while the store is down, want the %d without a key", n, len(free))
				}
				if restart {
					stop()
					p.journal.restart()
				}
				p.store.SetDown("")
				if restart {
					stop = p.start()
				}
				p.await(5 * time.Minute)
				stop()
				for _, id := range append(free, keyed) {
					if rec := p.status(id); rec.Status != message.Sent || p.service.ledger[id] != 1 {
						t.Fatalf("%s is %v, sent %d times", id, rec.Status, p.service.ledger[id])
					}
				}
				rested := 0
				for _, e := range inTheWay {
					if n := p.rests[e.ID]; n > 1 {
						t.Fatalf("entry %d was put to rest %d times", e.Seq, n)
					} else if n == 1 {
						rested++
					}
				}
				if rested == 0 {
					t.Error("nothing was put to rest: the test saw no bound")
				}
			})
		})
	}
}

// TestStoreDownWithoutChannels: where nothing could be delivered, the log is left
// alone while the store is down.
func TestStoreDownWithoutChannels(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPlant(t, &service{}, func(c *sink.DispatcherConfig) { c.Delivery.Channels = nil })
		p.store.SetDown("a test")
		stop := p.start()
		p.source.put(message.Normal, 20_000)
		pause(context.Background(), 3*time.Minute)
		if _, taken, _ := p.counts(); taken > 4*5000 || len(p.rests) > 0 {
			t.Errorf("%d are taken and %d were put to rest, for nothing", taken, len(p.rests))
		}
		p.store.SetDown("")
		p.await(time.Minute)
		stop()
	})
}

// TestTurns: an account's burst holds nobody else up, whatever it does to the
// queue, and leaves entirely.
func TestTurns(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPlant(t, &service{}, func(c *sink.DispatcherConfig) { c.QueueLimit = 400 })
		p.email("burst", message.Normal, 20_000)
		stop := p.start()
		pause(context.Background(), 2*time.Second)
		before := time.Now()
		id := p.email("other", message.Normal, 1)[0]
		for p.service.ledger == nil || func() bool { p.service.mu.Lock(); defer p.service.mu.Unlock(); return p.service.ledger[id] == 0 }() {
			pause(context.Background(), 5*time.Millisecond)
		}
		if took := time.Since(before); took > 300*time.Millisecond {
			t.Errorf("the other account's message left after %v", took)
		}
		p.await(time.Minute)
		stop()
	})
}

// TestUnknownOutcome: at most once means just that, also over a kill during the
// attempt; the control, at least once, sends again.
func TestUnknownOutcome(t *testing.T) {
	for policy, want := range map[sink.Policy]struct {
		status message.Status
		sent   int
	}{sink.PolicyFail: {message.Failed, 1}, sink.PolicyRetry: {message.Sent, 2}} {
		inBubble(t, func(t *testing.T) {
			kill := make(chan struct{})
			first := true
			svc := &service{}
			taken := 0
			svc.script = func(ctx context.Context, d *sink.Delivery) (sink.Sent, error) {
				svc.mu.Lock()
				taken++
				again := !first
				first = false
				svc.mu.Unlock()
				if again {
					return sink.Sent{}, nil
				}
				close(kill)
				<-ctx.Done()
				return sink.Sent{}, &sink.Transient{}
			}
			p := newPlant(t, svc, func(c *sink.DispatcherConfig) {
				c.Delivery.UnknownOutcome, c.Delivery.Grace, c.Delivery.AttemptTimeout = policy, time.Millisecond, time.Hour
			})
			id := p.email("a", message.Normal, 1)[0]
			stop := p.start()
			<-kill
			stop()
			p.restart()
			stop = p.start()
			p.await(time.Minute)
			stop()
			if rec := p.status(id); rec.Status != want.status || taken != want.sent {
				t.Errorf("policy %d: %v after %d calls, want %v after %d", policy, rec.Status, taken, want.status, want.sent)
			}
		})
	}
}

// TestThrottles: a recipient that is throttled waits alone, a number that is
// throttled makes the channel wait, and neither costs an attempt.
func TestThrottles(t *testing.T) {
	for scope, alone := range map[sink.Scope]bool{sink.ScopeRecipient: true, sink.ScopeNumber: false} {
		inBubble(t, func(t *testing.T) {
			var once sync.Once
			svc := &service{script: func(ctx context.Context, d *sink.Delivery) (sent sink.Sent, err error) {
				pause(ctx, 10*time.Millisecond)
				if d.Record.To == "busy@b.example" {
					once.Do(func() {
						err = &sink.Throttled{Scope: scope, After: time.Minute, Fault: sink.Fault{Neutral: true, Failure: message.Failure{Code: "recipient_rate_limited"}}}
					})
				}
				return sent, err
			}}
			p := newPlant(t, svc, nil)
			id := p.putMessage(message.Message{Account: "a", Channel: message.ChannelEmail, Priority: message.Normal, To: "busy@b.example"}).ID
			stop := p.start()
			pause(context.Background(), time.Second)
			p.email("a", message.Normal, 50)
			pause(context.Background(), 10*time.Second)
			if n := len(svc.sent()); (n == 50) != alone || n != 0 && !alone {
				t.Errorf("%v: %d others were sent meanwhile", scope, n)
			}
			p.await(3 * time.Minute)
			stop()
			if rec := p.status(id); rec.Status != message.Sent || rec.Attempts[len(rec.Attempts)-1].N != 1 {
				t.Errorf("%v: %+v", scope, rec.State)
			}
		})
	}
}

// TestExpiry: what was not sent in its time is not sent any more.
func TestExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		svc := &service{script: func(context.Context, *sink.Delivery) (sink.Sent, error) { return sink.Sent{}, transient() }}
		p := newPlant(t, svc, func(c *sink.DispatcherConfig) { c.Delivery.MaxAttempts = 100 })
		id := p.putMessage(message.Message{Account: "a", Channel: message.ChannelEmail, Priority: message.Normal, To: "a@b.example", TTL: 30 * time.Second}).ID
		stop := p.start()
		p.await(time.Minute)
		stop()
		if rec := p.status(id); rec.Status != message.Expired || rec.Error == nil {
			t.Errorf("%+v", rec.State)
		}
	})
}
