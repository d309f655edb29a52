package breaker

import (
	"fmt"
	"slices"
	"time"
)

// Phase is how a breaker stands. The numbers are those of forebay_breaker_state.
type Phase uint8

// The phases.
const (
	Closed   Phase = 0
	HalfOpen Phase = 1
	Open     Phase = 2
)

// Phases lists them.
var Phases = []Phase{Closed, HalfOpen, Open}

// String returns the phase's name in answers and metrics.
func (p Phase) String() string {
	switch p {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	case Open:
		return "open"
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

// MarshalText implements encoding.TextMarshaler.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// View is a breaker as one node sees it. Times are stamps in ms.
type View struct {
	Service    string
	Phase      Phase
	Generation uint64
	OpenOn     []uint16 // the nodes it is open on, if not on all; ascending
	Since      uint64   // of the phase open or closed
	RetryAt    uint64   // no probe before, while open
	Reason     string   // why it opened; empty: it is closed, or nobody said
	Probe      uint16   // the node that has the permit; 0: none
	ProbeUntil uint64
	Forced     Position  // "": by its own rules
	Who        string    // forced it, or set it to auto last; "": nobody has
	ForcedAt   time.Time // by the clock of who forced it
}

// View returns the breaker of a service as node sees it; that of a service the
// group does not know is closed.
func (s *State) View(name string, node uint16) View {
	b := s.services[name]
	if b == nil {
		return View{Service: name}
	}
	c := b.circuitOf(node)
	v := View{Service: name, Generation: b.generationOf(node), Since: c.Since, Who: b.forced.Who, ForcedAt: b.forced.At, Forced: b.forced.To}
	if v.Since == 0 {
		v.Since = b.all.Since
	}
	if !b.all.Open {
		for _, n := range b.nodes {
			if n.Open {
				v.OpenOn = append(v.OpenOn, n.Node)
			}
		}
	}
	switch {
	case v.Forced == ForcedOpen:
		v.Phase = Open
	case c.Open:
		v.Phase, v.RetryAt, v.Reason = Open, c.RetryAt, c.Reason
		if b.probe.Node == node || b.all.Open && b.probe.Node != 0 {
			v.Phase, v.Probe, v.ProbeUntil = HalfOpen, b.probe.Node, b.probe.Until
		}
	}
	return v
}

// Views lists the breakers of all services as node sees them, ascending by name.
func (s *State) Views(node uint16) []View {
	names := s.names()
	views := make([]View, len(names))
	for i, name := range names {
		views[i] = s.View(name, node)
	}
	return views
}

// Knows reports whether the group has a breaker for the service.
func (s *State) Knows(name string) bool {
	_, ok := s.services[name]
	return ok
}

func (v View) same(w View) bool {
	return v.Phase == w.Phase && v.Generation == w.Generation && v.Forced == w.Forced && slices.Equal(v.OpenOn, w.OpenOn)
}
