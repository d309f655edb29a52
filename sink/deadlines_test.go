package sink

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/wal/message"
)

// TestProperty15_NoDeadlineIsPassedOver: however many ends are noted, and dropped
// for want of room, none before the horizon is missing, and they come in order.
func TestProperty15_NoDeadlineIsPassedOver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := deadlines{horizon: math.MaxInt64}
		n := rapid.SampledFrom([]int{10, deadlineLimit, 2*deadlineLimit + 5}).Draw(t, "n")
		step := rapid.SampledFrom([]int{1, 7919, 65521}).Draw(t, "step")
		all := map[message.ID]int64{}
		for i := range n {
			r := message.Record{ID: message.NewID(uint64(1_000_000+i*step%n), uint16(i%4096), 1, message.Normal, uint64(i)), Message: message.Message{TTL: time.Minute}}
			l.add(&r)
			all[r.ID] = r.ExpiresAt().UnixMilli()
		}
		if len(l.soonest) > deadlineLimit {
			t.Fatalf("%d are in memory, at most %d", len(l.soonest), deadlineLimit)
		}
		for upTo := int64(1_000_000); len(l.soonest) > 0; upTo += int64(n)/4 + 60_000 {
			for _, id := range l.due(upTo, math.MaxInt) {
				if all[id] > upTo {
					t.Fatalf("%s is due at %d, and it is %d", id, all[id], upTo)
				}
				delete(all, id)
			}
			for id, at := range all {
				if at <= upTo && at < l.horizon {
					t.Fatalf("%s was due at %d, before the horizon of %d, and did not come", id, at, l.horizon)
				}
			}
		}
	})
}
