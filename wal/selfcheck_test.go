package wal

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestSelfCheckLeavesNothing: it is no message, uses up no number, and the log
// opens again as whole as before.
func TestSelfCheckLeavesNothing(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Node: 1}
	for round := range 2 {
		l := openTest(t, cfg)
		for range 3 {
			if err := l.SelfCheck(t.Context()); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if s := l.Stats(); s.LastSeq != 0 || s.Appended != 0 || l.Waiting() != 0 || s.LiveBytes != 0 {
			t.Errorf("round %d: after self-checks the log says %+v", round, s)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSelfCheckSeesAStuckWriter: the control of the watchdog.
func TestSelfCheckSeesAStuckWriter(t *testing.T) {
	l := openTest(t, Config{Dir: t.TempDir(), Node: 1})
	hold, held := make(chan struct{}), make(chan struct{})
	stuck := &request{done: make(chan struct{}, 1), between: func() { close(held); <-hold }}
	if !l.inbox.put(stuck) {
		t.Fatal("the inbox is closed")
	}
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := l.SelfCheck(ctx)
	close(hold)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a stuck writer: %v, want a deadline exceeded", err)
	}
	if err := l.SelfCheck(t.Context()); err != nil {
		t.Errorf("once it goes on: %v", err)
	}
}
