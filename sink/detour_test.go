package sink

import (
	"testing"

	"pgregory.net/rapid"

	"forebay/wal/message"
)

// TestProperty21_AfterAnOutage: what was taken over an outage, in whatever
// order, is stored by importance and then by age, whole, in batches within their
// bounds.
func TestProperty21_AfterAnOutage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size, maxBytes := rapid.IntRange(1, 20).Draw(t, "size"), rapid.IntRange(1, 200).Draw(t, "bytes")
		var held []batch
		want := 0
		for ms := range rapid.IntRange(0, 60).Draw(t, "messages") {
			id := message.NewID(uint64(ms+1), 0, 1, message.Priority(rapid.IntRange(0, message.Lanes-1).Draw(t, "lane")), 0)
			if len(held) == 0 || rapid.Bool().Draw(t, "another batch") {
				held = append(held, batch{})
			}
			b := &held[len(held)-1]
			b.entries = append(b.entries, message.Entry{ID: id, Payload: make([]byte, rapid.IntRange(0, 100).Draw(t, "payload"))})
			b.records = append(b.records, message.Record{ID: id})
			want++
		}
		var last message.ID
		got := 0
		for _, b := range byImportance(held, size, maxBytes) {
			bytes := 0
			for i, e := range b.entries {
				if e.ID != b.records[i].ID {
					t.Fatalf("entry %v beside record %v", e.ID, b.records[i].ID)
				}
				if got > 0 && (e.ID.Lane() < last.Lane() || e.ID.Lane() == last.Lane() && e.ID.Compare(last) <= 0) {
					t.Fatalf("%v after %v", e.ID, last)
				}
				last, bytes = e.ID, bytes+len(e.Payload)
				got++
			}
			if len(b.entries) == 0 || len(b.entries) > size || bytes != b.bytes || bytes > maxBytes && len(b.entries) > 1 {
				t.Fatalf("a batch of %d entries and %d (%d) bytes, at most %d and %d", len(b.entries), bytes, b.bytes, size, maxBytes)
			}
		}
		if got != want {
			t.Fatalf("%d entries of %d", got, want)
		}
	})
}
