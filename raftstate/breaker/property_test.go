package breaker

import (
	"bytes"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

// snapshotOf is the state in bytes.
func snapshotOf(t *rapid.T, s *State) string {
	var b bytes.Buffer
	if err := s.Snapshot().Encode(jsontext.NewEncoder(&b)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// allowed are the transitions that one command may make, as one node sees them.
// From half-open to half-open is a permit that ran out and was given anew, from
// open to open an opening for all instead of one, or a probe that failed.
var allowed = map[[2]Phase]bool{
	{Closed, Open}: true, {Open, HalfOpen}: true, {HalfOpen, Open}: true, {HalfOpen, Closed}: true,
	{Open, Open}: true, {HalfOpen, HalfOpen}: true, {Closed, Closed}: true,
	{Open, Closed}: true, // a node's own trial, made without the group
}

// TestProperty14_Transitions: reports of three nodes, late, lost, repeated and
// of every generation, with restores in between: the breaker opens exactly when
// a node reports the threshold under the current generation, never more than one
// permit is out, no permit is given before its time, a stale report changes
// nothing for its node, generations never decrease, and the same commands give
// the same bytes.
func TestProperty14_Transitions(t *testing.T) {
	seen := map[[2]Phase]int{}
	rapid.Check(t, func(t *rapid.T) {
		settings := Settings{Threshold: rapid.IntRange(1, 5).Draw(t, "threshold"), Timeout: short.Timeout, Recovery: short.Recovery}
		s, twin := NewState(), NewState()
		both := func(c Command, at uint64) { s.Apply(c, at); twin.Apply(c, at) }
		both(Configure{settings}, 1)
		at := uint64(1)
		var past []Report
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			at += rapid.SampledFrom([]uint64{0, 1, 100, 5_000, 30_000, 61_000, 130_000}).Draw(t, "passes")
			node := uint16(rapid.IntRange(1, 3).Draw(t, "node"))
			r := Report{Node: node, Items: []Item{{Service: "email", Generation: s.View("email", node).Generation,
				Failures: rapid.IntRange(0, 6).Draw(t, "failures"), OK: rapid.Bool().Draw(t, "ok"), Ask: rapid.Bool().Draw(t, "ask"),
				Probe: rapid.SampledFrom([]Probe{"", "", ProbeSuccess, ProbeFailure, ProbeUnused}).Draw(t, "probe")}}}
			if len(past) > 0 && rapid.IntRange(0, 3).Draw(t, "again") == 0 {
				r = past[rapid.IntRange(0, len(past)-1).Draw(t, "which")] // late, or a repeat
				node = r.Node
			}
			past = append(past, r)
			before := s.View("email", node)
			stale := r.Items[0].Generation != before.Generation
			expired := false // anybody's permit: its end may open the breaker for all
			for n := uint16(1); n <= 3; n++ {
				v := s.View("email", n)
				expired = expired || v.Probe != 0 && at >= v.ProbeUntil
			}
			both(r, at)
			after := s.View("email", node)
			seen[[2]Phase{before.Phase, after.Phase}]++

			switch {
			case !allowed[[2]Phase{before.Phase, after.Phase}]:
				t.Fatalf("%v to %v by %+v", before.Phase, after.Phase, r)
			case after.Generation < before.Generation:
				t.Fatalf("the generation falls from %d to %d", before.Generation, after.Generation)
			case stale && !expired && !before.same(after):
				t.Fatalf("a stale report %+v changes %+v to %+v", r, before, after)
			case !stale && !expired && before.Phase == Closed && (after.Phase == Open) != (r.Items[0].Failures >= settings.Threshold):
				t.Fatalf("%d failures, threshold %d: %v", r.Items[0].Failures, settings.Threshold, after.Phase)
			case before.Phase == Open && after.Phase == HalfOpen && at < before.RetryAt:
				t.Fatalf("a permit at %d, before %d", at, before.RetryAt)
			case after.Phase == HalfOpen && after.Probe == node && at >= after.ProbeUntil:
				t.Fatal("a permit that has ended")
			}
			holders := 0
			for n := uint16(1); n <= 3; n++ {
				if v := s.View("email", n); v.Phase == HalfOpen && v.Probe == n {
					holders++
				}
			}
			if holders > 1 {
				t.Fatalf("%d permits are out", holders)
			}
			if rapid.IntRange(0, 9).Draw(t, "restore") == 0 {
				text := snapshotOf(t, s)
				back, err := DecodeState(jsontext.NewDecoder(bytes.NewBufferString(text)))
				if err != nil {
					t.Fatal(err)
				}
				s = back
			}
			if got, want := snapshotOf(t, s), snapshotOf(t, twin); got != want {
				t.Fatalf("two nodes differ:\n%s\n%s", got, want)
			}
		}
	})
	for _, way := range [][2]Phase{{Closed, Open}, {Open, HalfOpen}, {HalfOpen, Open}} {
		if seen[way] == 0 {
			t.Errorf("never seen: %v to %v", way[0], way[1])
		}
	}
}
