package breaker

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// step is one thing that happens in a history.
type step struct {
	What     string // report, repeat, force, configure, restore
	Wait     uint64 // ms before it
	Stale    uint64 // its stamp is as much older than the newest, as after a change of leaders
	Items    []Item // of a report. Generation is how many transitions ago
	Node     uint16
	Which    int // command that is repeated, counted from the last
	Force    Force
	Settings Settings
}

var (
	modelNodes    = []uint16{1, 2, 3}
	modelServices = []string{"database", "email"}
)

var settingsGen = rapid.Custom(func(t *rapid.T) Settings {
	return Settings{Threshold: rapid.IntRange(1, 5).Draw(t, "threshold"),
		Timeout:  time.Duration(rapid.SampledFrom([]int{1, 400, 4000}).Draw(t, "timeout")) * time.Millisecond,
		Recovery: time.Duration(rapid.SampledFrom([]int{1, 1000, 60_000}).Draw(t, "recovery")) * time.Millisecond}
})

var itemGen = rapid.Custom(func(t *rapid.T) Item {
	return Item{Service: rapid.SampledFrom(modelServices).Draw(t, "service"),
		Generation: rapid.SampledFrom([]uint64{0, 0, 0, 0, 1, 2}).Draw(t, "transitions ago"),
		Failures:   rapid.SampledFrom([]int{0, 0, 1, 4, 5, 9}).Draw(t, "failures"),
		OK:         rapid.IntRange(0, 3).Draw(t, "ok") == 0, OKAgeMS: rapid.SampledFrom([]uint64{0, 999, 1001, 1e9}).Draw(t, "age"),
		Probe: rapid.SampledFrom([]Probe{"", "", "", ProbeSuccess, ProbeFailure, ProbeUnused}).Draw(t, "probe"),
		Ask:   rapid.Bool().Draw(t, "ask"), Early: rapid.IntRange(0, 5).Draw(t, "early") == 0}
})

// histories are of reports on time, late and repeated, clocks that stand, jump
// and fall back, operators, new settings, and restarts from a snapshot.
var histories = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
	s := step{What: rapid.SampledFrom([]string{"report", "report", "report", "report", "report", "report", "report", "report",
		"repeat", "repeat", "restore", "force", "configure"}).Draw(t, "what"),
		Wait:  rapid.SampledFrom([]uint64{0, 1, 100, 999, 1000, 1001, 2000, 5500, 60_000, 700_000}).Draw(t, "wait"),
		Stale: rapid.SampledFrom([]uint64{0, 0, 0, 50, 5000}).Draw(t, "stale"),
		Node:  rapid.SampledFrom(modelNodes).Draw(t, "node"), Which: rapid.IntRange(1, 6).Draw(t, "which")}
	switch s.What {
	case "report":
		s.Items = rapid.SliceOfNDistinct(itemGen, 1, 2, func(i Item) string { return i.Service }).Draw(t, "items")
	case "force":
		s.Force = Force{Service: rapid.SampledFrom(modelServices).Draw(t, "service"), Who: "olga",
			To: rapid.SampledFrom([]Position{ForcedOpen, ForcedClosed, Auto, Auto, Auto}).Draw(t, "to")}
	case "configure":
		s.Settings = settingsGen.Draw(t, "settings")
	}
	return s
}), 1, 80)

// tally counts what histories have brought about.
type tally map[string]int

// checkHistory plays a history to a State and to the model, and compares what
// each node sees after every step. plant, if any, spoils a command on its way to
// the State.
func checkHistory(steps []step, seen tally, plant func(*State, Command) Command) error {
	s, m := NewState(), newModel()
	past := map[string][]uint64{} // generations that a node has seen of a service
	var done []Command
	now := uint64(1)
	for i, st := range steps {
		now += st.Wait
		cmd := commandOf(st, past, done)
		before := viewsOf(s)
		if st.What == "restore" {
			var err error
			if s, err = restored(s); err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
		} else if cmd != nil {
			done = append(done, cmd)
			m.apply(cmd, now-min(now, st.Stale))
			if plant != nil {
				cmd = plant(s, cmd)
			}
			s.Apply(cmd, now-min(now, st.Stale))
		}
		after := viewsOf(s)
		if diff := cmp.Diff(m.views(), after, cmpopts.IgnoreFields(View{}, "Reason")); diff != "" {
			return fmt.Errorf("step %d, %+v (-model +state):\n%s", i, st, diff)
		}
		for key, v := range after {
			if err := checkStep(before[key], v, st, seen); err != nil {
				return fmt.Errorf("step %d, %+v, %s: %w", i, st, key, err)
			}
			if p := past[key]; len(p) == 0 || p[len(p)-1] != v.Generation {
				past[key] = append(p, v.Generation)
			}
		}
	}
	return nil
}

func commandOf(st step, past map[string][]uint64, done []Command) Command {
	switch st.What {
	case "report":
		r := Report{Node: st.Node}
		for _, item := range st.Items {
			p := past[key(item.Service, st.Node)]
			if back := int(item.Generation); len(p) == 0 {
				item.Generation = 0
			} else {
				item.Generation = p[max(0, len(p)-1-back)]
			}
			r.Items = append(r.Items, item)
		}
		return r
	case "repeat":
		if len(done) > 0 {
			return done[max(0, len(done)-st.Which)]
		}
	case "force":
		return st.Force
	case "configure":
		return Configure{st.Settings}
	}
	return nil
}

// checkStep says without any model which transitions there are, and that each
// has a new generation.
func checkStep(before, after View, st step, seen tally) error {
	if after.Generation < before.Generation {
		return fmt.Errorf("generation fell from %d to %d", before.Generation, after.Generation)
	}
	if before.Phase == after.Phase && before.Probe == after.Probe {
		return nil
	}
	edge := fmt.Sprintf("%v to %v", before.Phase, after.Phase)
	seen[edge]++
	if before.Generation == after.Generation {
		return fmt.Errorf("%s within generation %d", edge, after.Generation)
	}
	if before.Forced == "" && after.Forced == "" && (edge == "closed to half-open" || edge == "half-open to half-open") {
		return fmt.Errorf("there is no such transition: %s", edge)
	}
	return nil
}

func restored(s *State) (*State, error) {
	bytesOf := func(s *State) ([]byte, error) {
		var b bytes.Buffer
		err := s.Snapshot().Encode(jsontext.NewEncoder(&b))
		return b.Bytes(), err
	}
	saved, err := bytesOf(s)
	if err != nil {
		return nil, err
	}
	back, err := DecodeState(jsontext.NewDecoder(bytes.NewReader(saved)))
	if err != nil {
		return nil, err
	}
	if again, err := bytesOf(back); err != nil || !bytes.Equal(saved, again) {
		return nil, fmt.Errorf("a restored state writes another snapshot: %v\n%s\n%s", err, saved, again)
	}
	return back, nil
}

func key(service string, node uint16) string { return fmt.Sprintf("%s on %d", service, node) }

// viewsOf is what every node sees, but for when things began.
func viewsOf(s *State) map[string]View {
	views := map[string]View{}
	for _, name := range modelServices {
		for _, node := range modelNodes {
			v := s.View(name, node)
			v.Since, v.ForcedAt = 0, time.Time{}
			views[key(name, node)] = v
		}
	}
	return views
}

// TestProperty14_BreakerOpensAndMovesAsSpecified: failures over the threshold
// open the breaker, and its transitions are the specified ones, whatever comes
// in whatever order.
func TestProperty14_BreakerOpensAndMovesAsSpecified(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := checkHistory(histories.Draw(t, "history"), tally{}, nil); err != nil {
			t.Fatal(err)
		}
	})
	seen := tally{}
	for n := range 500 {
		if err := checkHistory(histories.Example(n), seen, nil); err != nil {
			t.Fatalf("example %d: %v", n, err)
		}
	}
	for _, edge := range []string{"closed to open", "open to half-open", "half-open to open", "half-open to closed", "open to closed"} {
		if seen[edge] == 0 {
			t.Errorf("no history went from %s: %v", edge, seen)
		}
	}
	t.Logf("transitions: %v", seen)
}

// TestProperty14_ControlFindsPlantedBugs spoils the state machine in ways that
// the property must notice.
func TestProperty14_ControlFindsPlantedBugs(t *testing.T) {
	edit := func(change func(*State, uint16, *Item)) func(*State, Command) Command {
		return func(s *State, cmd Command) Command {
			r, ok := cmd.(Report)
			if !ok {
				return cmd
			}
			r.Items = slices.Clone(r.Items)
			for i := range r.Items {
				change(s, r.Node, &r.Items[i])
			}
			return r
		}
	}
	for name, plant := range map[string]func(*State, Command) Command{
		"stale results count":          edit(func(s *State, n uint16, i *Item) { i.Generation = s.View(i.Service, n).Generation }),
		"one failure too many":         edit(func(_ *State, _ uint16, i *Item) { i.Failures = max(0, i.Failures-1) }),
		"the recovery time is skipped": edit(func(_ *State, _ uint16, i *Item) { i.Early = true }),
		"a success is old":             edit(func(_ *State, _ uint16, i *Item) { i.OKAgeMS = 1e9 }),
	} {
		found := false
		for n := 0; n < 2000 && !found; n++ {
			found = checkHistory(histories.Example(n), tally{}, plant) != nil
		}
		if !found {
			t.Errorf("%s: not found in 2,000 histories", name)
		}
	}
}
