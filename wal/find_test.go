package wal

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"forebay/wal/message"
)

// TestFind finds every message that matches, wherever in the log it is, and none
// that has left it.
func TestFind(t *testing.T) {
	t.Parallel()
	l := openTest(t, testConfig(t))
	var want []message.ID
	for i := range 3 * findLooks {
		m := testMessage(i)
		m.Priority, m.ClientRef = message.Priority(i%message.Lanes), "other"
		if i%5 == 0 {
			m.ClientRef = "looked-for"
		}
		if id := mustAppend(t, l, m).ID; i%5 == 0 {
			want = append(want, id)
		}
	}
	taken, err := l.Next(background(), 40, 0)
	if err != nil || len(taken) != 40 {
		t.Fatalf("took %d: %v", len(taken), err)
	}
	for _, move := range []error{l.Complete(background(), taken[:10]), l.Park(background(), time.Now().Add(time.Hour), taken[10:20]), l.Shelve(background(), 3, taken[20:30])} {
		if move != nil {
			t.Fatal(move)
		}
	}
	want = slices.DeleteFunc(want, func(id message.ID) bool {
		return slices.ContainsFunc(taken[:10], func(e message.Entry) bool { return e.ID == id })
	})
	match := func(payload []byte) bool { return bytes.Contains(payload, []byte("looked-for")) }
	got, err := l.Find(background(), match)
	if err != nil {
		t.Fatal(err)
	}
	order := func(x, y message.ID) int { return bytes.Compare(x[:], y[:]) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Errorf("found %d messages, want %d", len(got), len(want))
	}
	ended, cancel := context.WithCancel(background())
	cancel()
	if _, err := l.Find(ended, match); err == nil {
		t.Error("a search whose caller has gone goes on")
	}
}
