package limiter

import (
	"slices"
	"testing"
	"time"
)

// TestScenario09PlanLoweredWhileAllIsLeased lowers a plan under a load that would
// use up any: when all nodes know, what the group accepts and what it has in flight
// must come under the new limits and stay there.
func TestScenario09PlanLoweredWhileAllIsLeased(t *testing.T) {
	before, after := Limits{Rate: 400, Burst: 80, Concurrent: 40}, Limits{Rate: 40, Burst: 10, Concurrent: 4}
	for seed := range uint64(4) {
		w := newWorld(seed, 3, map[string]Limits{"a": before}, faults{delay: 5 * time.Millisecond, lost: 0.02, twice: 0.1}, noBug)
		w.hold = 300 * time.Millisecond // so long are requests in flight
		w.arrive("a", w.anyNode, 2*time.Millisecond)
		w.run(20 * time.Second)
		w.plans["a"] = after
		for _, n := range w.nodes {
			w.after(w.upTo(20*time.Millisecond), n, func() { n.spender.Change("a", after) })
		}
		lowered := w.now
		w.run(45 * time.Second)
		w.wantChecked(t, "a")

		times := w.accepted["a"]
		slices.Sort(times)
		if n := w.between("a", lowered-simWindow, lowered); n < int(after.Rate) {
			t.Fatalf("seed %d: only %d accepted before: there was nothing to lower", seed, n)
		}
		for i, at := range times {
			if at < lowered+time.Second { // what was taken before may be accepted a moment later
				continue
			}
			from, _ := slices.BinarySearch(times, at-simWindow+1)
			if n := i - from + 1; n > int(after.Rate) {
				t.Fatalf("seed %d: %d accepted in the window that ends %v after the change, limit %d", seed, n, at-lowered, after.Rate)
			}
		}
		late := slices.DeleteFunc(w.allFlights()["a"], func(f flight) bool { return f.to <= lowered+5*time.Second })
		for i := range late {
			late[i].from = max(late[i].from, lowered+5*time.Second)
		}
		if err := checkFlights("a, lowered", late, after.Concurrent); err != nil {
			t.Errorf("seed %d: lowered at %v: %v", seed, lowered, err)
		}
	}
}

// TestAGrantFromBeforeALoweringIsVoid: an answer that comes after the change may be
// from before it.
func TestAGrantFromBeforeALoweringIsVoid(t *testing.T) {
	high, low := Limits{Rate: 100, Burst: 50, Concurrent: 9}, Limits{Rate: 10, Burst: 5, Concurrent: 2}
	for name, lowered := range map[string]bool{"lowered": true, "as it was": false} {
		t.Run(name, func(t *testing.T) {
			e := &entry{account: "a", limits: high}
			e.enterLocked(0)
			e.prepareLocked(time.Second)
			if lowered && !e.changeLocked(low) {
				t.Fatal("the change is not known as a lowering")
			}
			e.acceptLocked(&Grant{Tokens: 7, Slots: 5}, time.Second, time.Second)
			if got := e.left > 0 && e.roomLocked(); got == lowered {
				t.Errorf("%d tokens, %d slots with one request in flight", e.left, e.slots)
			}
			out := e.prepareLocked(2 * time.Second)
			if want := map[bool]int64{true: 0, false: 7}[lowered]; out.Held != want {
				t.Errorf("reports that it holds %d, want %d", out.Held, want)
			}
		})
	}
}
