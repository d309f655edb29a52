package sink_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// TestUntoldRestsWithItsEnd: a message that the store has, and whose callback the log
// does not take now, rests in the log with the end that it has, comes back for the
// callback and is forgotten after it.
func TestUntoldRestsWithItsEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var calls callbacks
		full := true
		p := newPlant(t, &service{}, func(c *sink.DispatcherConfig) {
			calls.configure(c)
			take := c.Append
			c.Append = func(ctx context.Context, ms []*message.Message) error {
				if full {
					return errors.New("the log is full")
				}
				return take(ctx, ms)
			}
		})
		id := p.putMessage(message.Message{Account: "a", Channel: message.ChannelStore, Priority: message.Normal, Body: "x"}).ID
		stop := p.start()
		pause(context.Background(), 3*time.Second)
		entry, err := p.Lookup(id)
		if err != nil {
			t.Fatalf("look up what could not be told: %v", err)
		}
		if r, err := entry.Record(); err != nil || r.Status != message.Stored || len(calls.of(id)) != 0 {
			t.Errorf("it rests as %v, %v, with callbacks of %v; want stored and none", r.Status, err, calls.of(id))
		}
		full = false
		p.await(time.Minute)
		stop()
		if got := calls.of(id); len(got) != 1 || got[0] != "stored" {
			t.Errorf("callbacks of %v, want one of stored", got)
		}
	})
}
