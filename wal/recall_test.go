package wal

import (
	"testing"
	"time"

	"forebay/wal/message"
)

// TestTheLastRecallHolds: a message that is recalled again, wherever it went
// meanwhile, is handed out with the state of the last recall.
func TestTheLastRecallHolds(t *testing.T) {
	t.Parallel()
	moves := map[string]func(*testing.T, *Log, message.Entry){
		"waiting": func(*testing.T, *Log, message.Entry) {},
		"parked": func(t *testing.T, l *Log, e message.Entry) {
			if err := l.Park(background(), time.Now().Add(time.Hour), []message.Entry{e}); err != nil {
				t.Fatal(err)
			}
		},
		"on a shelf": func(t *testing.T, l *Log, e message.Entry) {
			if err := l.Shelve(background(), 3, []message.Entry{e}); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, move := range moves {
		t.Run(name, func(t *testing.T) {
			l := openTest(t, testConfig(t))
			id := mustAppend(t, l, testMessage(1)).ID
			recall := func(state string) {
				if _, err := l.Recall(background(), id, []byte(state)); err != nil {
					t.Fatal(err)
				}
			}
			recall("first")
			if name != "waiting" {
				got, err := l.Next(background(), 1, 0)
				if err != nil || len(got) != 1 || string(got[0].Progress) != "first" {
					t.Fatalf("after the first recall: %v, %v", got, err)
				}
				move(t, l, got[0])
			}
			recall("second")
			got, err := l.Next(background(), 1, 0)
			if err != nil || len(got) != 1 || got[0].ID != id || string(got[0].Progress) != "second" {
				t.Fatalf("after the second recall: %v, %v", got, err)
			}
			if e, err := l.Lookup(id); err != nil || string(e.Progress) != "second" {
				t.Fatalf("look up: %q, %v", e.Progress, err)
			}
		})
	}
}
