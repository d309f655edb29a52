package limiter

import (
	"fmt"
	"maps"
	"testing"
	"time"
)

// Scenarios of the design that need a story of their own, each in the simulated
// world, by number. The others are among the faults of simulation_test.go.

// calmly are messages that only take their time.
var calmly = faults{delay: 5 * time.Millisecond}

// wantChecked holds the world against the limits, and wants that something was
// accepted at all.
func (w *world) wantChecked(t *testing.T, accounts ...string) {
	t.Helper()
	if err := w.check(); err != nil {
		t.Fatal(err)
	}
	for _, a := range accounts {
		if len(w.accepted[a]) == 0 {
			t.Errorf("nothing of %s was accepted: the check says nothing", a)
		}
	}
}

// between counts what was accepted in a span of true time.
func (w *world) between(account string, from, to time.Duration) (n int) {
	for _, at := range w.accepted[account] {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

// TestScenario07LeaderIsolatedThinksItLeads: a leader that is alone is asked by its
// own node and goes on applying to a log that nobody else has; a new one leads the
// others from the state before. What the old one lent was never agreed, so its node
// gets no answer: the future of an entry that is not committed does not return. The
// control lets it return, and the checker must see the limit broken.
func TestScenario07LeaderIsolatedThinksItLeads(t *testing.T) {
	run := func(seed uint64, uncommitted bool) (*world, error) {
		w := newWorld(seed, 3, map[string]Limits{"a": {Rate: 60, Burst: 60, Concurrent: 60}}, calmly, noBug)
		w.arrive("a", w.anyNode, 10*time.Millisecond)
		w.run(2 * time.Second)
		isolated := w.nodes[0]
		isolated.cutUntil = w.now + 20*time.Second
		if uncommitted {
			// The old leader's state answers its own node as if it still led.
			old, err := DecodeState(decoderOf(w.state))
			if err != nil {
				return w, err
			}
			isolated.alone = old
		}
		w.leader.up = false
		w.after(2*time.Second, nil, w.elect)
		w.run(40 * time.Second)
		return w, w.check()
	}
	for seed := range uint64(5) {
		w, err := run(seed, false)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if w.between("a", 4*time.Second, 22*time.Second) == 0 {
			t.Errorf("seed %d: the majority accepted nothing while the old leader was alone", seed)
		}
		if w.between("a", 25*time.Second, 40*time.Second) == 0 {
			t.Errorf("seed %d: nothing was accepted after it was back", seed)
		}
	}
	for seed := range uint64(20) {
		if _, err := run(seed, true); err != nil {
			t.Logf("control, seed %d: %v", seed, err)
			return
		}
	}
	t.Error("a leader that lends without the others was not found out in 20 seeds")
}

// TestScenario11AccountDeletedAndMadeAgain: while leases of it are out. What was
// spent under the name before counts for the one that has it now.
func TestScenario11AccountDeletedAndMadeAgain(t *testing.T) {
	for seed := range uint64(5) {
		l := Limits{Rate: 50, Burst: 50, Concurrent: 20}
		plans := map[string]Limits{"a": l, "other": l}
		w := newWorld(seed, 3, plans, rough, noBug)
		w.arrive("a", w.anyNode, 20*time.Millisecond)
		w.arrive("other", w.anyNode, 50*time.Millisecond)
		for i := range 6 {
			gone := time.Duration(5+10*i) * time.Second
			w.after(gone, nil, func() { w.gone["a"] = true })
			w.after(gone+w.upTo(4*time.Second), nil, func() { delete(w.gone, "a") })
		}
		w.run(80 * time.Second)
		w.wantChecked(t, "a", "other")
	}
}

// TestScenario14HundredThousandColdAccounts: all of them in one second, on three
// nodes. Each is admitted once, few commands carry them, and nothing of them is
// left when it has aged out.
func TestScenario14HundredThousandColdAccounts(t *testing.T) {
	const accounts = 100_000
	plans := make(map[string]Limits, accounts)
	for i := range accounts {
		plans[fmt.Sprint("cold-", i)] = Limits{Rate: 10, Burst: 5, Concurrent: 5}
	}
	w := newWorld(1, 3, plans, calmly, noBug)
	at := time.Duration(0)
	for name := range maps.Keys(plans) {
		n := w.anyNode()
		at += time.Second / accounts
		w.after(at, n, func() { n.request(name) })
	}
	w.run(3 * time.Second)
	took := 0
	for _, times := range w.accepted {
		took += len(times)
	}
	if took != accounts {
		t.Errorf("%d of %d first requests were admitted", took, accounts)
	}
	if err := w.check(); err != nil {
		t.Error(err)
	}
	t.Logf("%d accounts, %d known to the group, %d commands", took, w.state.Known(), w.commands)
	if w.commands > 2000 {
		t.Errorf("%d commands for them: they do not travel together", w.commands)
	}
	w.state.Apply((w.now + LeaseTime + time.Hour).Milliseconds(), &Command{Nodes: 3}, w.plan)
	if n := w.state.Known(); n != 0 {
		t.Errorf("%d accounts are still known when nothing of them counts", n)
	}
}

// TestScenario19AllNodesRestart: at once, with everything lent, again and again.
func TestScenario19AllNodesRestart(t *testing.T) {
	for seed := range uint64(5) {
		w := newWorld(seed, 3, maps.Clone(simPlans), calmly, noBug)
		w.arrive("hot", w.anyNode, 10*time.Millisecond)
		w.arrive("small", w.anyNode, 300*time.Millisecond)
		for i := range 8 {
			w.after(time.Duration(3+7*i)*time.Second, nil, func() {
				w.leader.up = false
				for _, n := range w.nodes {
					n.crash()
				}
				w.after(w.upTo(3*time.Second), nil, w.elect)
			})
		}
		w.run(70 * time.Second)
		w.wantChecked(t, "hot", "small")
		if n := w.between("hot", 62*time.Second, 70*time.Second); n == 0 {
			t.Errorf("seed %d: nothing was accepted after the last restart", seed)
		}
	}
}

// TestScenario20NodeRemovedWhileItHoldsLeases: a node that holds leases leaves for
// good, without a word. What it held counts until it has surely run out, and then
// the others have the whole plan.
func TestScenario20NodeRemovedWhileItHoldsLeases(t *testing.T) {
	for seed := range uint64(5) {
		l := Limits{Rate: 120, Burst: 120, Concurrent: 9}
		w := newWorld(seed, 3, map[string]Limits{"a": l}, calmly, noBug)
		w.arrive("a", w.anyNode, 15*time.Millisecond)
		w.run(3 * time.Second)
		removed := w.nodes[2]
		a := w.state.ledgers["a"]
		i, found := a.holding(removed.id)
		if !found || a.holdings[i].slots == 0 {
			t.Fatalf("seed %d: the node holds nothing when it is removed", seed)
		}
		removed.land()
		removed.life++ // its process is gone, and none comes after it
		w.nodes = w.nodes[:2]
		end := w.now + LeaseTime + slotGrace + 2*simWindow
		w.run(end + 10*simWindow)
		w.wantChecked(t, "a")
		if _, found := w.state.ledgers["a"].holding(removed.id); found {
			t.Errorf("seed %d: what the removed node held still counts", seed)
		}
		got, want := w.between("a", end, end+10*simWindow), int(10*l.Rate)
		if got < want*95/100 {
			t.Errorf("seed %d: the others got %d of %d after it had run out", seed, got, want)
		}
	}
}
