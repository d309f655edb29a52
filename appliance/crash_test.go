package appliance_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
)

// crashRounds is how often a process is killed for each store; hundreds with
// FOREBAY_CRASH_ROUNDS (make crash).
const crashRounds = 8

// TestCrashLosesNothing kills a real process with -9 at random moments: while it
// takes messages and drains them, and while it starts. Whatever it had
// acknowledged is there, once and unchanged, and nothing else is.
func TestCrashLosesNothing(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, w world) {
		seed := seedOf(t)
		r := rand.New(rand.NewPCG(seed, 0))
		dir := filepath.Join(t.TempDir(), "data")
		p := appliancetest.StartProcess(t, dir, w.settings("FOREBAY_BUFFER_CAPACITY=200")...)
		ledger := appliancetest.NewLedger()
		rounds, starts := environmentInt(t, "FOREBAY_CRASH_ROUNDS", crashRounds), 0
		known := map[string]string{} // acknowledged before this round
		for round := range rounds {
			crashUnderLoad(p, ledger, fmt.Sprintf("r%d-", round), seed+uint64(round), time.Duration(r.IntN(400))*time.Millisecond)
			p.Spawn()
			for r.IntN(3) == 0 { // killed as it starts, perhaps several times
				starts++
				<-time.After(time.Duration(r.IntN(250)) * time.Millisecond)
				p.Kill()
				p.Spawn()
			}
			p.AwaitReady(time.Minute)
			acked, fresh := ledger.Acked(), map[string]string{}
			for id, ref := range acked {
				if _, ok := known[id]; !ok {
					fresh[id] = ref
				}
			}
			if err := ledger.LookUp(p.Target(), fresh, ""); err != nil {
				t.Fatalf("round %d: %v\n%s", round, err, p.Log())
			}
			known = acked
			ledger.Repeat(p.Target())
		}
		awaitDrained(t, p.Admin())
		commandAudit(t, p)
		must(t, "look up all at the end", ledger.LookUp(p.Target(), ledger.Acked(), ""))
		stopGracefully(t, p)
		must(t, "compare the store with what was sent", ledger.Compare(w.rows(t, dir)))
		t.Logf("%d kills under load, %d while starting; %s", rounds, starts, ledger.Summary())
		if len(ledger.Acked()) == 0 {
			t.Fatal("nothing was acknowledged: nothing is proved")
		}
	})
}

// crashUnderLoad sends for a while and kills the process in the middle of it.
func crashUnderLoad(p *appliancetest.Process, ledger *appliancetest.Ledger, prefix string, seed uint64, after time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		ledger.Load(ctx, p.Target(), 16, seed, appliancetest.Mixed(prefix, 3000))
	}()
	<-time.After(after)
	p.Kill()
	cancel()
	<-loaded
}
