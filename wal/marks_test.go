package wal

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"forebay/wal/message"
)

// TestProperty15_MarksPassOverNothing: whatever is parked and comes back, also
// while a look is under way, a look begins at or before the first that is parked;
// and where nothing came in between, past everything that came back before.
func TestProperty15_MarksPassOverNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m marks
		region := rapid.SampledFrom([]uint64{0, shelfBase, shelfBase + 5}).Draw(t, "region")
		var live [][]byte
		put := func() {
			due := region
			if region == 0 {
				due = rapid.Uint64Range(1, 50).Draw(t, "due")
			}
			id := message.NewID(rapid.Uint64Range(1, 50).Draw(t, "ms"), 0, 1, message.Normal, 1)
			if key := parkedKey(nil, due, id); !slices.ContainsFunc(live, func(k []byte) bool { return bytes.Equal(k, key) }) {
				live = append(live, key) // durable first, and noted then
			}
			m.note(due, id)
		}
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			for range rapid.IntRange(0, 5).Draw(t, "puts") {
				put()
			}
			slices.SortFunc(live, bytes.Compare)
			from := m.begin(region)
			if len(live) > 0 && bytes.Compare(live[0], from) < 0 {
				t.Fatalf("a look begins at % x and passes over % x", from, live[0])
			}
			if region == 0 && len(live) > 0 && !m.due(dueOf(live[0])) {
				t.Fatalf("nothing is said to be due, and % x is", live[0])
			}
			seen := slices.Clone(live)
			meanwhile := rapid.IntRange(0, 3).Draw(t, "meanwhile")
			for range meanwhile {
				put()
			}
			if rapid.IntRange(0, 9).Draw(t, "failed") == 0 {
				continue // the look came to nothing, and says so to nobody
			}
			n := rapid.IntRange(0, len(seen)).Draw(t, "n")
			live = slices.DeleteFunc(live, func(k []byte) bool {
				return slices.ContainsFunc(seen[:n], func(s []byte) bool { return bytes.Equal(s, k) })
			})
			if n < len(seen) {
				m.end(region, seen[n])
				continue
			}
			m.end(region, nil)
			if region == 0 && len(live) == 0 && meanwhile == 0 && m.due(1<<40) {
				t.Fatal("something is said to be due, and nothing is parked")
			}
		}
	})
}
