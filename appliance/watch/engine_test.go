package watch

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/httpapi/admin"
)

func newEngine() engine { return engine{states: map[alertKey]*state{}, settle: defaultSettle} }

// TestEngine follows one condition second by second.
func TestEngine(t *testing.T) {
	e := newEngine()
	c := condition{name: "disk", severity: admin.SeverityWarning, summary: "a.", whatToDo: "b.", holdFor: 5 * time.Second}
	second := 0
	step := func(holds ...condition) []change {
		second++
		return e.step(noon.Add(time.Duration(second)*time.Second), holds)
	}
	for range 5 {
		if got := step(c); got != nil {
			t.Fatalf("it fires after %d s: %+v", second, got)
		}
	}
	got := step(c)
	if len(got) != 1 || got[0].resolved || got[0].alert.Since != noon.Add(time.Second) || len(e.firing()) != 1 {
		t.Fatalf("after %d s: %+v", second, got)
	}
	c.severity = admin.SeverityCritical
	if got := step(c); len(got) != 1 || got[0].alert.Severity != admin.SeverityCritical {
		t.Fatalf("that it got worse is not said: %+v", got)
	}
	step() // gone for a moment
	if got := step(c); got != nil {
		t.Fatalf("it rings twice: %+v", got)
	}
	for range 10 {
		if got := step(); got != nil {
			t.Fatalf("it is over too soon: %+v", got)
		}
	}
	if got := step(); len(got) != 1 || !got[0].resolved || len(e.firing()) != 0 || len(e.states) != 0 {
		t.Fatalf("it is not over: %+v, %+v", got, e.states)
	}
	step(c)
	step()
	if len(e.states) != 0 {
		t.Fatalf("what never fired is remembered: %+v", e.states)
	}
}

// TestEngineProperty: whatever comes and goes, notifications of one alert take
// turns between firing and resolved, nothing fires before it has held for its
// time, and what is said to fire is what fires.
func TestEngineProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e, now := newEngine(), noon
		firing := map[alertKey]bool{}
		held := map[alertKey]time.Time{}
		for range rapid.IntRange(1, 200).Draw(rt, "seconds") {
			now = now.Add(time.Duration(rapid.IntRange(1, 4).Draw(rt, "step")) * time.Second)
			var holds []condition
			for _, name := range []string{"disk", "memory"} {
				key := alertKey{name: name}
				if !rapid.Bool().Draw(rt, name) {
					if !firing[key] {
						delete(held, key)
					}
					continue
				}
				if _, ok := held[key]; !ok {
					held[key] = now
				}
				holds = append(holds, condition{name: name, severity: admin.SeverityWarning, holdFor: 5 * time.Second})
			}
			for _, c := range e.step(now, holds) {
				key := alertKey{name: c.alert.Name}
				if firing[key] != c.resolved {
					rt.Fatalf("%s: %v after it was %v", key.name, c, firing[key])
				}
				if firing[key] = !c.resolved; !c.resolved && now.Sub(held[key]) < 5*time.Second {
					rt.Fatalf("%s fires after %v", key.name, now.Sub(held[key]))
				}
				if c.resolved {
					delete(held, key)
				}
			}
			n := 0
			for _, f := range firing {
				if f {
					n++
				}
			}
			if len(e.firing()) != n {
				rt.Fatalf("%d are said to fire, %d do", len(e.firing()), n)
			}
		}
	})
}
