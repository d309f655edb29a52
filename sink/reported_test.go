package sink_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// TestReportedToTheStoreAlone: a report of which this dispatcher hears nothing, for
// another node took it, or it came while an attempt was under way, keeps a message
// from being sent once more, wherever it waits; and a store that does not answer
// keeps nothing back.
func TestReportedToTheStoreAlone(t *testing.T) {
	unknown := &sink.Unknown{Fault: sink.Fault{Failure: message.Failure{Code: "channel_timeout", Category: "channel"}}}
	transient := &sink.Transient{Fault: sink.Fault{Failure: message.Failure{Code: "channel_unavailable", Category: "channel"}}}
	for name, c := range map[string]struct {
		first                error // how the first attempt ends
		during, rests, again bool  // when the report comes; the dispatcher is started anew
		deaf, down           bool  // the channel has no reports; the store is down at the second attempt
		tried                int
		status               message.Status
	}{
		"never":                    {first: unknown, tried: 2, status: message.Sent},
		"during the attempt":       {first: unknown, during: true, tried: 1, status: message.Delivered},
		"during one that failed":   {first: transient, during: true, tried: 1, status: message.Delivered},
		"while it rests":           {first: unknown, rests: true, tried: 1, status: message.Delivered},
		"while nobody runs":        {first: unknown, rests: true, again: true, tried: 1, status: message.Delivered},
		"on a channel without":     {first: unknown, during: true, deaf: true, tried: 2, status: message.Delivered},
		"while the store is down":  {first: unknown, during: true, down: true, tried: 2, status: message.Delivered},
		"never, started once more": {first: unknown, again: true, tried: 2, status: message.Sent},
		"during one of no kind":    {first: errors.New("of no kind"), during: true, tried: 1, status: message.Delivered},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var p *plant
				var id message.ID
				report := func() {
					changed, err := p.store.Report(context.Background(), []message.Report{{Channel: message.ChannelEmail, ID: id, Status: message.Delivered, At: time.Now()}})
					if err != nil || len(changed) != 1 {
						t.Errorf("report: %v, %v", changed, err)
					}
				}
				tried := 0
				svc := &service{script: func(context.Context, *sink.Delivery) (sink.Sent, error) {
					if tried++; tried > 1 {
						return sink.Sent{}, nil
					}
					if c.during {
						report()
					}
					return sink.Sent{}, c.first
				}}
				p = newPlant(t, svc, func(cfg *sink.DispatcherConfig) {
					cfg.Delivery.BaseDelay, cfg.Delivery.MaxDelay = time.Hour, time.Hour // with full jitter: one in 72,000 is less than the test looks at
					cfg.Delivery.Channels[message.ChannelEmail] = sink.ChannelConfig{Sender: svc, Reports: !c.deaf}
				})
				id = p.email("a", message.Normal, 1)[0]
				stop := p.start()
				pause(context.Background(), 50*time.Millisecond)
				if r := p.status(id); tried != 1 || c.during && r.Status != message.Delivered {
					t.Fatalf("tried %d times, %v in the store: nothing is proved", tried, r.Status)
				}
				if c.down {
					p.store.SetDown("a test")
				}
				if c.again {
					stop()
				}
				if c.rests {
					report()
				}
				if c.again {
					p.restart()
					stop = p.start()
				}
				if c.down {
					pause(context.Background(), time.Hour)
					p.store.SetDown("")
				}
				p.await(2 * time.Hour)
				stop()
				if r := p.status(id); tried != c.tried || r.Status != c.status || len(r.Attempts) != c.tried {
					t.Errorf("tried %d times, %v after %d attempts, want %d and %v", tried, r.Status, len(r.Attempts), c.tried, c.status)
				}
			})
		})
	}
}

// TestAMuteStoreHoldsUpNoRetry: while the store does not answer, only some of the
// messages that are tried once more wait for what it might have heard of them.
func TestAMuteStoreHoldsUpNoRetry(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const messages = 400
		var mu sync.Mutex
		tried := map[message.ID]int{}
		svc := &service{script: func(_ context.Context, d *sink.Delivery) (sink.Sent, error) {
			mu.Lock()
			defer mu.Unlock()
			if tried[d.Record.ID]++; tried[d.Record.ID] == 1 {
				return sink.Sent{}, &sink.Transient{Fault: sink.Fault{Failure: message.Failure{Code: "channel_unavailable", Category: "channel"}}}
			}
			return sink.Sent{}, nil
		}}
		p := newPlant(t, svc, func(cfg *sink.DispatcherConfig) {
			cfg.Delivery.BaseDelay, cfg.Delivery.MaxDelay = time.Second, time.Second
			cfg.Delivery.Channels[message.ChannelEmail] = sink.ChannelConfig{Sender: svc, Reports: true}
		})
		p.store.mute.Store(true)
		p.email("a", message.Normal, messages)
		stop := p.start()
		p.await(10 * time.Second)
		stop()
		for id, n := range tried {
			if n != 2 {
				t.Errorf("%s was tried %d times, want 2", id, n)
			}
		}
		if asked := p.store.asked.Load(); len(tried) != messages || asked == 0 {
			t.Errorf("%d messages were tried, and the store was asked of %d: nothing is proved", len(tried), asked)
		}
	})
}
