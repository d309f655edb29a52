package sink_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/sink"
	"forebay/wal/message"
)

// TestExpiryOnAShelf: a message whose breaker stays open is expired within seconds
// of its time, also after a restart and without the shelves being read again and
// again; what has not expired is sent when the breaker closes.
func TestExpiryOnAShelf(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := &breakers{open: true, retryAt: time.Now().Add(time.Hour)}
		p := newPlant(t, &service{}, func(c *sink.DispatcherConfig) { c.Breakers = b })
		put := func(ttl time.Duration) message.ID {
			return p.putMessage(message.Message{Account: "a", Channel: message.ChannelEmail, Priority: message.Normal, To: "a@b.example", TTL: ttl}).ID
		}
		begun := time.Now()
		ends := map[message.ID]time.Time{}
		for i := range 600 {
			ttl := time.Duration(5+i%60) * time.Second
			ends[put(ttl)] = begun.Add(ttl)
		}
		var lasting []message.ID
		for range 100 {
			lasting = append(lasting, put(24*time.Hour))
		}
		stop := p.start()
		const grace = 3 * time.Second
		check := func() {
			t.Helper()
			for id, end := range ends {
				rec, err := p.store.Get(context.Background(), "", id)
				switch since := time.Since(end); {
				case err != nil:
					t.Fatalf("get %s: %v", id, err)
				case since < 0 && rec.Status == message.Expired:
					t.Fatalf("expired %v before its time", -since)
				case since > grace && rec.Status != message.Expired:
					t.Fatalf("%v %v after its time", rec.Status, since)
				}
			}
		}
		for range 30 {
			pause(context.Background(), time.Second)
			check()
		}
		stop()
		p.restart()
		stop = p.start()
		for range 45 {
			pause(context.Background(), time.Second)
			check()
		}
		p.mu.Lock()
		resting, browsed := len(p.resting), p.browsed
		p.mu.Unlock()
		if resting != len(lasting) || len(p.service.sent()) != 0 {
			t.Errorf("%d rest and %d were sent, want %d to rest and none sent", resting, len(p.service.sent()), len(lasting))
		}
		if browsed > 4 {
			t.Errorf("the shelves were read %d times, want once for each start", browsed)
		}
		for id := range ends {
			if told := p.told.statuses(id); len(told) == 0 || told[len(told)-1] != message.Expired {
				t.Fatalf("told %v, want it expired in the end", told)
			}
		}
		b.mu.Lock()
		b.retryAt = time.Now()
		b.mu.Unlock()
		p.await(5 * time.Minute)
		stop()
		for _, id := range lasting {
			if rec := p.status(id); rec.Status != message.Sent {
				t.Fatalf("%v, want it sent", rec.State)
			}
		}
	})
}

// TestTold: the changes of a message are told in their order, each of them, from
// its being scheduled over an attempt that failed to its end.
func TestTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		svc := &service{script: func(_ context.Context, d *sink.Delivery) (sent sink.Sent, err error) {
			if d.Attempt == 1 {
				err = transient()
			}
			return sent, err
		}}
		p := newPlant(t, svc, nil)
		id := p.putMessage(message.Message{Account: "a", Channel: message.ChannelEmail, Priority: message.Normal, To: "a@b.example",
			SendAt: time.Now().Add(20 * time.Second), TTL: time.Hour}).ID
		stop := p.start()
		p.await(time.Minute)
		stop()
		want := []message.Status{message.Scheduled, message.Queued, message.Sending, message.Queued, message.Sending, message.Sent}
		if diff := cmp.Diff(want, p.told.statuses(id)); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}
