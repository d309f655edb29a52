package sinktest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// Rules decide which call to a stand-in meets which fault. They are asked once
// for each call, in the order of the calls; chance comes from a seed that the
// test's log shows.
type Rules struct {
	mu    sync.Mutex
	rng   *rand.Rand
	calls int
	rules []*rule
}

type rule struct {
	fault Fault
	match func(call int, to string, rng *rand.Rand) bool
	met   int
}

// Fault names a fault that a stand-in knows how to have. Empty: none.
type Fault string

// NewRules makes rules without any: every call goes well.
func NewRules(t testing.TB, seed uint64) *Rules {
	t.Helper()
	t.Logf("stand-in rules from seed %d", seed)
	return &Rules{rng: rand.New(rand.NewPCG(seed, 1))}
}

func (r *Rules) add(fault Fault, match func(int, string, *rand.Rand) bool) *Rules {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append(r.rules, &rule{fault: fault, match: match})
	return r
}

// To gives every call for a recipient the fault.
func (r *Rules) To(to string, fault Fault) *Rules {
	return r.add(fault, func(_ int, t string, _ *rand.Rand) bool { return t == to })
}

// FirstTo gives the first n calls for a recipient the fault.
func (r *Rules) FirstTo(to string, n int, fault Fault) *Rules {
	return r.add(fault, func(_ int, t string, _ *rand.Rand) bool {
		if t != to || n == 0 {
			return false
		}
		n--
		return true
	})
}

// First gives the first n calls the fault.
func (r *Rules) First(n int, fault Fault) *Rules {
	return r.add(fault, func(call int, _ string, _ *rand.Rand) bool { return call <= n })
}

// Every gives each nth call the fault.
func (r *Rules) Every(n int, fault Fault) *Rules {
	return r.add(fault, func(call int, _ string, _ *rand.Rand) bool { return call%n == 0 })
}

// Chance gives a call the fault with a probability of 0 to 1.
func (r *Rules) Chance(p float64, fault Fault) *Rules {
	return r.add(fault, func(_ int, _ string, rng *rand.Rand) bool { return rng.Float64() < p })
}

// Clear forgets the rules: from now on every call goes well.
func (r *Rules) Clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = nil
}

// next says what the next call meets: the first rule that matches.
func (r *Rules) next(to string) Fault {
	if r == nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	for _, rule := range r.rules {
		if rule.match(r.calls, to, r.rng) {
			rule.met++
			return rule.fault
		}
	}
	return ""
}

// Met counts the calls that met the fault.
func (r *Rules) Met(fault Fault) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rule := range r.rules {
		if rule.fault == fault {
			n += rule.met
		}
	}
	return n
}

// Deliveries is a stand-in's ledger: what it has accepted, under our message
// ids, also where it never came to say so.
type Deliveries struct {
	mu    sync.Mutex
	times map[string]int
	total int
	wrong []string // what a real service would have refused
}

func (d *Deliveries) accept(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.times == nil {
		d.times = map[string]int{}
	}
	d.times[id]++
	d.total++
}

func (d *Deliveries) refuse(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.wrong) < 100 {
		d.wrong = append(d.wrong, fmt.Sprintf(format, args...))
	}
}

// Times says how often the message was accepted.
func (d *Deliveries) Times(id string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.times[id]
}

// All returns how often each message was accepted.
func (d *Deliveries) All() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]int, len(d.times))
	for id, n := range d.times {
		all[id] = n
	}
	return all
}

// Total counts what was accepted, repeats too.
func (d *Deliveries) Total() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}

// Wrong lists what a real service would have refused and the channel sent all
// the same: a wrong signature, a missing field, a token that does not fit.
func (d *Deliveries) Wrong() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.wrong...)
}
