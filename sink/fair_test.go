package sink_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// TestDeadHost: of a hundred hosts one accepts and never answers, or refuses: the
// other ninety-nine keep 0.95 of their throughput. Time is the bubble's.
func TestDeadHost(t *testing.T) {
	const hosts, each = 100, 60
	took := func(t *testing.T, dead func(context.Context) error) (took time.Duration, calls int) {
		inBubble(t, func(t *testing.T) {
			svc := &service{byHost: true, script: func(ctx context.Context, d *sink.Delivery) (sent sink.Sent, err error) {
				if d.Record.To == "host0:443" && dead != nil {
					calls++ // under the bubble's clock no two of these are at the same moment
					return sent, dead(ctx)
				}
				pause(ctx, 10*time.Millisecond)
				return sent, nil
			}}
			p := newPlant(t, svc, func(c *sink.DispatcherConfig) { c.Delivery.PerAccount = 64 })
			for i := range hosts * each {
				p.putMessage(message.Message{Account: fmt.Sprint("account", i%7), Channel: message.ChannelWebhook, Priority: message.Normal,
					To: fmt.Sprintf("host%d:443", i%hosts), TTL: 24 * time.Hour})
			}
			start := time.Now()
			stop := p.start()
			for len(svc.sent()) < (hosts-1)*each {
				pause(context.Background(), time.Millisecond)
			}
			took = time.Since(start)
			stop()
		})
		return took, calls
	}
	healthy, _ := took(t, nil)
	for name, dead := range map[string]func(context.Context) error{
		"never answers": func(ctx context.Context) error { <-ctx.Done(); return transient() },
		"refuses":       func(context.Context) error { return transient() },
	} {
		with, calls := took(t, dead)
		share := float64(healthy) / float64(with) * float64(hosts-1) / hosts // healthy had the hundredth to send, too
		t.Logf("%s: the others took %v, with all hosts well it was %v: %.3f", name, with, healthy, share)
		if calls == 0 {
			t.Errorf("%s: the dead host was never called: nothing is proved", name)
		}
		if share < 0.95 {
			t.Errorf("%s: the others kept %.3f of their throughput, want 0.95", name, share)
		}
	}
}

// TestBurstOfAnother: a single message leaves within twice its time while another
// account of the same channel and priority has a long queue.
func TestBurstOfAnother(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPlant(t, &service{}, nil)
		stop := p.start()
		single := func() time.Duration {
			before := time.Now()
			id := p.email("other", message.Normal, 1)[0]
			for {
				p.service.mu.Lock()
				sent := p.service.ledger[id] > 0
				p.service.mu.Unlock()
				if sent {
					return time.Since(before)
				}
				pause(context.Background(), time.Millisecond)
			}
		}
		alone := single()
		p.email("burst", message.Normal, 30_000)
		pause(context.Background(), 2*time.Second)
		with := single()
		left := p.live()
		t.Logf("alone %v, with %d of another account waiting %v", alone, left, with)
		if left < 10_000 {
			t.Fatalf("%d of the burst wait: nothing is proved", left)
		}
		if with > 2*alone {
			t.Errorf("with another's burst it took %v, want at most twice %v", with, alone)
		}
		p.await(5 * time.Minute)
		stop()
	})
}

// TestManyDeadHosts: accounts that write to ever more hosts which never answer cannot
// take every worker: another's messages to a host that is well keep their pace.
func TestManyDeadHosts(t *testing.T) {
	took := func(t *testing.T, hostile int) (took time.Duration, dead map[message.ID]bool) {
		var mu sync.Mutex // guards dead
		dead = map[message.ID]bool{}
		inBubble(t, func(t *testing.T) {
			svc := &service{byHost: true, script: func(ctx context.Context, d *sink.Delivery) (sink.Sent, error) {
				if d.Record.Account != "good" {
					mu.Lock()
					dead[d.Record.ID] = true
					mu.Unlock()
					pause(ctx, 15*time.Second)
					return sink.Sent{}, transient()
				}
				pause(ctx, 10*time.Millisecond)
				return sink.Sent{}, nil
			}}
			p := newPlant(t, svc, func(c *sink.DispatcherConfig) { c.Delivery.MaxAttempts = 2 })
			for a := range hostile {
				for i := range 300 {
					p.putMessage(message.Message{Account: fmt.Sprint("hostile", a), Channel: message.ChannelWebhook, Priority: message.Normal,
						To: fmt.Sprintf("host%d-%d:443", a, i), TTL: 24 * time.Hour})
				}
			}
			stop := p.start()
			pause(context.Background(), 3*time.Second) // they have what they can get
			start := time.Now()
			for range 1000 {
				p.putMessage(message.Message{Account: "good", Channel: message.ChannelWebhook, Priority: message.Normal, To: "well:443", TTL: 24 * time.Hour})
			}
			for len(svc.sent()) < 1000 && time.Since(start) < time.Hour {
				pause(context.Background(), 10*time.Millisecond)
			}
			took = time.Since(start)
			p.await(2 * time.Hour)
			stop()
		})
		return took, dead
	}
	alone, _ := took(t, 0)
	with, dead := took(t, 4)
	t.Logf("1,000 messages took %v alone, and %v beside %d messages to dead hosts", alone, with, len(dead))
	if len(dead) != 4*300 {
		t.Errorf("%d messages to dead hosts were tried, want each", len(dead))
	}
	if with > 2*alone {
		t.Errorf("they took %v beside dead hosts, want at most twice the %v without", with, alone)
	}
}
