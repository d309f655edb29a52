package raftstate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"forebay/raftstate/account"
)

func TestRestartKeepsAll(t *testing.T) {
	for name, snapshots := range map[string]int{"log alone": 0, "snapshot": 1, "snapshots and log": 2} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := open(t, dir).wait(t)
			texts := w.populate(t, 5)
			for n := range snapshots {
				if err := w.Snapshot(t.Context()); err != nil {
					t.Fatalf("snapshot: %v", err)
				}
				if _, err := w.CreateAccount(t.Context(), account.CreateAccount{ID: fmt.Sprintf("later-%d", n), Tier: "premium"}); err != nil {
					t.Fatal(err)
				}
			}
			before := w.dump(t)
			w.stop()

			again := open(t, dir).wait(t)
			if diff := gocmp.Diff(before, again.dump(t)); diff != "" {
				t.Errorf("state after restart (-before +after):\n%s", diff)
			}
			for i, text := range texts {
				if p, err := again.Authenticate(text); err != nil || p.Account != fmt.Sprintf("acct-%d", i) {
					t.Errorf("key %d after restart: got %+v, %v", i, p, err)
				}
			}
		})
	}
}

func TestConfiguredPlansAreProposedOnce(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir).wait(t)
	applied := w.Status().Applied
	if _, err := w.SetPlans(t.Context(), plans("premium", "basic")); err != nil {
		t.Fatal(err)
	}
	if got := w.Status().Applied; got != applied {
		t.Errorf("equal plans were proposed: applied index went from %d to %d", applied, got)
	}
	w.populate(t, 1)
	w.stop()

	w = open(t, dir, func(c *Config) { c.Plans = plans("enterprise") }).wait(t)
	var names []string
	for _, p := range w.Plans() {
		names = append(names, p.Name)
	}
	if diff := gocmp.Diff([]string{"basic", "enterprise"}, names); diff != "" {
		t.Errorf("plans after a changed configuration (-want +got):\n%s", diff)
	}
}

func TestDumpAndLoad(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	texts := w.populate(t, 3)
	dump := w.dump(t)

	dir := t.TempDir()
	other := open(t, dir).wait(t)
	if _, err := other.CreateAccount(t.Context(), account.CreateAccount{ID: "gone", Tier: "basic"}); err != nil {
		t.Fatal(err)
	}
	before := other.dump(t)
	if err := other.Load(t.Context(), strings.NewReader(dump[:len(dump)-5])); err == nil {
		t.Error("a dump that is cut short was loaded")
	}
	if other.dump(t) != before {
		t.Error("a dump that was refused changed the state")
	}
	if err := other.Load(t.Context(), strings.NewReader(dump)); err != nil {
		t.Fatalf("load: %v", err)
	}
	other.stop()
	other = open(t, dir).wait(t)
	if _, err := other.Authenticate(texts[2]); err != nil {
		t.Errorf("a loaded key after restart: %v", err)
	}
	if _, err := other.Account("gone"); code(err) != account.CodeNotFound {
		t.Errorf("an account that was there before: got %v", err)
	}
}

// TestNewerCommandStopsEveryStart writes what a newer program would have, and
// opens the log with this one.
func TestNewerCommandStopsEveryStart(t *testing.T) {
	dir := t.TempDir()
	fatal := make(chan error, 9)
	w := open(t, dir, func(c *Config) { c.Fatal = func(err error) { fatal <- err } }).wait(t)
	if _, _, err := w.submit(t.Context(), command{kind: 200}.encode()); err != nil {
		t.Fatalf("submit: %v", err)
	}
	w.stop()
	if len(fatal) != 1 {
		t.Fatalf("fatal was called %d times, want once", len(fatal))
	}
	<-fatal
	w = open(t, dir, func(c *Config) { c.Fatal = func(err error) { fatal <- err } })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := w.WaitLeader(ctx); err == nil || !strings.Contains(err.Error(), "kind 200") {
		t.Errorf("the next start: got %v, want an error that names the kind", err)
	}
	if err := <-fatal; !strings.Contains(err.Error(), "kind 200") {
		t.Errorf("fatal was called with %v", err)
	}
	if _, err := w.Authenticate("x"); !errors.Is(err, ErrNotReady) {
		t.Errorf("authenticate: got %v, want ErrNotReady", err)
	}
}
