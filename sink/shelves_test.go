package sink_test

import (
	"context"
	"testing"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// TestShelvesOfAnEarlierBuild: what rests under a number that is nobody's now does not
// come back one by one: it is sent, or where its breaker is open goes to its own shelf.
func TestShelvesOfAnEarlierBuild(t *testing.T) {
	const messages = 500
	for name, open := range map[string]bool{"breaker open": true, "breaker closed": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				b := &breakers{open: true, retryAt: time.Now().Add(time.Hour)}
				p := newPlant(t, &service{}, func(c *sink.DispatcherConfig) { c.Breakers = b })
				p.email("a", message.Normal, messages)
				stop := p.start()
				pause(context.Background(), 10*time.Second)
				stop()
				own := p.renumber(t, messages)
				p.restart()
				b.mu.Lock()
				b.open = open
				b.mu.Unlock()
				stop = p.start()
				defer func() { stop() }()
				if open {
					pause(context.Background(), 10*time.Second)
					if there, _ := p.Shelves(); len(there) != 1 || there[0] != own {
						t.Fatalf("shelves %x, want %x alone", there, own)
					}
					b.mu.Lock()
					b.open = false
					b.mu.Unlock()
				}
				p.await(20 * time.Second)
			})
		})
	}
}

// renumber gives the one shelf, which has n messages, another number, and returns the
// one that it had.
func (p *plant) renumber(t *testing.T, n int) (was uint64) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, r := range p.resting {
		was = r.shelf
		r.shelf ^= 1
		p.resting[id] = r
	}
	if len(p.resting) != n || was == 0 {
		t.Fatalf("%d messages rest, want %d on a shelf", len(p.resting), n)
	}
	return was
}
