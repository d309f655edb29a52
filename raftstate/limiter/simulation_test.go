package limiter

import (
	"maps"
	"os"
	"strconv"
	"testing"
	"time"
)

// Scenarios of the design, by number: 1 edge of the window, 2 and 3 answer lost,
// 4 and 17 crash, 5 pause, 6 minority, 8 clocks of new leaders, 9 and 10 plans
// lowered and raised, 12 and 13 reports late and twice, 15 a hot account on all
// nodes, 16 a client that moves, 18 snapshot amid leases, 21 stock spent alone.
// Those with a test of their own are in scenarios_test.go.
var rough = faults{lost: 0.05, twice: 0.1, delay: 20 * time.Millisecond, late: 0.3, elections: 40 * time.Second, crashes: 50 * time.Second,
	pauses: 60 * time.Second, partitions: 90 * time.Second, plans: 30 * time.Second, drift: 0.001, refused: 0.05}

var simPlans = map[string]Limits{
	"hot":      {Rate: 200, Burst: 40, Concurrent: 20},
	"small":    {Rate: 3, Burst: 1, Concurrent: 1},
	"moving":   {Rate: 60, Burst: 60, Concurrent: 4},
	"changing": {Rate: 100, Burst: 20, Concurrent: 10},
}

func simulate(seed uint64, f faults, b bug, length time.Duration) (*world, error) {
	w := newWorld(seed, 3, maps.Clone(simPlans), f, b)
	w.arrive("hot", w.anyNode, 25*time.Millisecond)
	w.arrive("small", w.anyNode, 700*time.Millisecond)
	w.arrive("moving", func() *simNode { return w.nodes[int(w.now/(7*time.Second))%3] }, 80*time.Millisecond)
	w.arrive("changing", w.anyNode, 60*time.Millisecond)
	w.run(length)
	return w, w.check()
}

func seeds() uint64 {
	n, err := strconv.ParseUint(os.Getenv("FOREBAY_LIMITER_SEEDS"), 10, 64)
	if err != nil {
		return 10
	}
	return n
}

func TestProperty13_SlidingWindowUnderFaults(t *testing.T) {
	steps, accepted := 0, 0
	for seed := range seeds() {
		w, err := simulate(seed, rough, noBug, 8*time.Minute)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		steps += w.steps
		for _, times := range w.accepted {
			accepted += len(times)
		}
	}
	t.Logf("%d steps, %d messages accepted", steps, accepted)
	if accepted < int(seeds())*2000 {
		t.Errorf("only %d accepted: the world stands still, and the check says nothing", accepted)
	}
}

func TestTheCheckerFindsPlantedBugs(t *testing.T) {
	if _, err := simulate(0, rough, noBug, 8*time.Minute); err != nil {
		t.Fatalf("the control fails without a bug: %v", err)
	}
	for _, b := range allBugs {
		t.Run(string(b), func(t *testing.T) {
			f := rough
			if b == bugNoDeadline { // it takes a node that is cut off for long
				f.crashes, f.partitions = 0, 40*time.Second
			}
			for seed := range uint64(20) {
				if _, err := simulate(seed, f, b, 8*time.Minute); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not found in 20 seeds")
		})
	}
}

// TestShareOfThePlan: what a client gets that asks for more than its plan.
func TestShareOfThePlan(t *testing.T) {
	calm := faults{delay: 5 * time.Millisecond}
	for name, pick := range map[string]func(w *world) *simNode{
		"one node":    func(w *world) *simNode { return w.nodes[0] },
		"three nodes": func(w *world) *simNode { return w.anyNode() },
	} {
		t.Run(name, func(t *testing.T) {
			l := Limits{Rate: 1000, Burst: 200, Concurrent: 1000}
			w := newWorld(1, 3, map[string]Limits{"a": l}, calm, noBug)
			w.arrive("a", func() *simNode { return pick(w) }, 5*time.Millisecond)
			w.run(2 * time.Minute)
			if err := w.check(); err != nil {
				t.Fatal(err)
			}
			share := float64(len(w.accepted["a"])) / (120/simWindow.Seconds()*float64(l.Rate) + float64(l.Burst))
			t.Logf("%.4f of the plan", share)
			if want := map[string]float64{"one node": 0.97, "three nodes": 0.95}[name]; share < want {
				t.Errorf("got %.4f of the plan, want at least %.2f", share, want)
			}
		})
	}
}
