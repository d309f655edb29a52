package sink_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/wal/message"
)

// TestDelivers: everything is sent once, told of, in the store, and gone from
// the log.
func TestDelivers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPlant(t, &service{}, nil)
		ids := p.email("a", message.Normal, 500)
		stop := p.start()
		p.await(time.Minute)
		stop()
		for _, id := range ids {
			r := p.status(id)
			if r.Status != message.Sent || r.SentAt.IsZero() || r.ProviderID == "" || len(r.Attempts) != 1 || p.service.ledger[id] != 1 {
				t.Fatalf("%s: %+v, sent %d times", id, r.State, p.service.ledger[id])
			}
			if diff := cmp.Diff([]message.Status{message.Queued, message.Sending, message.Sent}, p.told.statuses(id)); diff != "" {
				t.Fatalf("told (-want +got):\n%s", diff)
			}
		}
		if peak := p.service.peak.Load(); peak != 16 {
			t.Errorf("%d attempts at once, want the account's 16", peak)
		}
	})
}

// TestProperty15_WhatIsDueWhileItsBreakerIsOpenWaitsAndIsSentAfterItCloses: for
// any backlog and any length of an outage nothing is sent, or uses up an attempt,
// while the breaker is open; afterwards everything is sent, once, after a probe.
func TestProperty15_WhatIsDueWhileItsBreakerIsOpenWaitsAndIsSentAfterItCloses(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n, before := rapid.IntRange(1, 2000).Draw(r, "messages"), rapid.IntRange(0, 3).Draw(r, "accounts")
		outage := time.Duration(rapid.IntRange(1, 120).Draw(r, "seconds")) * time.Second
		restart := rapid.Bool().Draw(r, "restart")
		rapid.SyncTest(r, func(r *rapid.T) {
			b := &breakers{open: true, retryAt: time.Now().Add(outage)}
			p := newPlant(r, &service{}, func(c *sink.DispatcherConfig) { c.Breakers = b; c.QueueLimit = 512 })
			var ids []message.ID
			for i := range n {
				ids = append(ids, p.email(fmt.Sprint("account", i%(before+1)), message.Priority(i%4), 1)...)
			}
			stop := p.start()
			pause(context.Background(), outage/2)
			if restart {
				stop()
				p.restart()
				stop = p.start()
			}
			pause(context.Background(), outage/2-time.Millisecond)
			if sent := p.service.sent(); len(sent) > 0 {
				r.Fatalf("%d sent while the breaker is open", len(sent))
			}
			if e, err := p.Lookup(ids[0]); err != nil {
				r.Fatalf("look up: %v", err)
			} else if rec, _ := e.Record(); rec.HoldReason != sink.HoldBreaker || len(rec.Attempts) != 0 {
				r.Fatalf("a message that waits has hold reason %q and %d attempts", rec.HoldReason, len(rec.Attempts))
			}
			p.await(2 * time.Hour)
			stop()
			for _, id := range ids {
				if got := p.status(id); got.Status != message.Sent || len(got.Attempts) != 1 || p.service.ledger[id] != 1 {
					r.Fatalf("%s is %v after %d attempts, sent %d times", id, got.Status, len(got.Attempts), p.service.ledger[id])
				}
			}
		})
	})
}
