package breaker

import (
	"cmp"
	"slices"
	"time"
)

// MaxServices bounds the services that the group keeps a breaker for. Past it,
// a new one is kept by each node alone.
const MaxServices = 4096

// State is the breakers of a group. It is deterministic and not safe for
// concurrent use.
type State struct {
	settings   Settings
	configured bool
	generation uint64 // of the last transition of any service
	last       uint64 // stamp of the last command
	services   map[string]*service
}

// NewState returns the state of a new group, with the default settings.
func NewState() *State {
	return &State{settings: DefaultSettings(), services: map[string]*service{}}
}

// Settings returns the group's settings, and whether anybody has set them.
func (s *State) Settings() (settings Settings, configured bool) { return s.settings, s.configured }

// Last returns the stamp of the last command.
func (s *State) Last() uint64 { return s.last }

// Apply carries out a command at a stamp in ms that never decreases. It returns
// the names of the services whose breaker the command was about.
func (s *State) Apply(cmd Command, at uint64) (touched []string) {
	s.last = max(s.last, at)
	at = s.last
	switch c := cmd.(type) {
	case Report:
		for _, item := range c.Items {
			s.report(c.Node, item, at)
			touched = append(touched, item.Service)
		}
	case Force:
		s.force(c, at)
		touched = []string{c.Service}
	case Configure:
		s.configure(c.Settings, at)
		touched = s.names()
	}
	return touched
}

// Names lists the services, ascending.
func (s *State) names() []string {
	names := make([]string, 0, len(s.services))
	for name := range s.services {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// nextGeneration numbers a transition.
func (s *State) nextGeneration() uint64 {
	s.generation++
	return s.generation
}

// at returns the breaker of a service as it is at that time, and makes it if
// there is none; nil: there are too many.
func (s *State) at(name string, at uint64) *service {
	b := s.services[name]
	if b == nil {
		if !ValidName(name) || len(s.services) >= MaxServices && !s.forget(at) {
			return nil
		}
		b = &service{name: name}
		s.services[name] = b
	}
	b.touched = at
	// A permit that nobody came back with: its node is gone, or the call hangs.
	if b.probe.Node != 0 && at >= b.probe.Until {
		s.probeFailed(b, b.probe.Until, reasonSilent)
	}
	return b
}

func (s *State) report(node uint16, item Item, at uint64) {
	b := s.at(item.Service, at)
	if b == nil || b.forced.To != "" || item.Generation != b.generationOf(node) {
		return
	}
	if item.OK {
		b.succeeded(node, at-min(at, item.OKAgeMS))
	}
	c := b.circuitOf(node)
	switch {
	case !c.Open:
		if item.Failures >= s.settings.Threshold {
			s.open(b, node, circuit{Since: at, Factor: 1, RetryAt: at + ms(s.settings.Recovery), Reason: reasonOf(item.Reason)})
		}
	case b.probe.Node == node && item.Probe == ProbeUnused:
		s.probeReturned(b, at)
	case b.probe.Node != 0 && b.probe.Node != node:
		// Another node has the permit; this one's own trial, made while it could
		// not reach the group, comes too late to matter.
	case item.Probe == ProbeSuccess:
		// Of the permit's holder, or of a node that made its own trial of this
		// generation while it could not reach the group.
		s.close(b, node, at)
	case item.Probe == ProbeFailure:
		b.probe = probe{Node: node, Until: at}
		s.probeFailed(b, at, reasonOf(item.Reason))
	case item.Ask && b.probe.Node == 0 && (item.Early || at >= c.RetryAt && b.turnOf(node, at, s.settings)):
		s.grant(b, node, at)
	}
}

// open opens the breaker for the node alone where others get through, else for
// all. It is also where a failed probe ends.
func (s *State) open(b *service, node uint16, c circuit) {
	c.Open, c.Generation = true, s.nextGeneration()
	if !b.all.Open && b.othersSucceed(node, s.last, ms(s.settings.Recovery)) {
		b.setNode(node, c)
		if b.probe.Node == node {
			b.probe = probe{}
		}
		return
	}
	if b.probe.Node != node { // its call may still be on its way: the next one waits for it
		c.RetryAt = max(c.RetryAt, b.probe.Until)
	}
	b.all, b.nodes, b.probe = c, nil, probe{}
}

func (s *State) close(b *service, node uint16, at uint64) {
	c := circuit{Generation: s.nextGeneration(), Since: at}
	if b.all.Open {
		b.all = c
	} else {
		b.setNode(node, c)
	}
	b.probe, b.failed = probe{}, 0
	b.succeeded(node, at)
}

// grant makes the breaker half-open: node has the only permit.
func (s *State) grant(b *service, node uint16, at uint64) {
	b.probe = probe{Node: node, Until: at + s.settings.probeTime()}
	b.renumber(node, s.nextGeneration())
}

// reasonSilent is that of a probe whose permit ran out.
const reasonSilent = "the node with the probe has not said how it ended"

// probeFailed opens the breaker anew, for twice as long.
func (s *State) probeFailed(b *service, at uint64, reason string) {
	node := b.probe.Node
	c := b.circuitOf(node)
	c.Reason = reason
	c.Factor = min(2*c.Factor, maxFactor)
	c.RetryAt = at + c.Factor*ms(s.settings.Recovery)
	b.failed = node
	s.open(b, node, c)
}

// probeReturned opens the breaker anew as it was.
func (s *State) probeReturned(b *service, at uint64) {
	node := b.probe.Node
	b.probe = probe{}
	b.renumber(node, s.nextGeneration())
}

func (s *State) force(f Force, at uint64) {
	b := s.at(f.Service, at)
	if b == nil {
		return
	}
	b.all, b.nodes, b.probe, b.seen, b.failed = circuit{Generation: s.nextGeneration(), Since: at}, nil, probe{}, nil, 0
	b.forced = forced{To: f.To, Who: f.Who, At: f.At.UTC().Truncate(time.Millisecond)}
	if f.To == Auto {
		b.forced.To = ""
	}
}

// configure brings open breakers under the new recovery time if that is shorter.
func (s *State) configure(settings Settings, at uint64) {
	s.settings, s.configured = settings, true
	shorten := func(c circuit) circuit {
		if c.Open {
			c.RetryAt = min(c.RetryAt, at+c.Factor*ms(settings.Recovery))
		}
		return c
	}
	for _, b := range s.services {
		b.all = shorten(b.all)
		for i := range b.nodes {
			b.nodes[i].circuit = shorten(b.nodes[i].circuit)
		}
	}
}

// forget drops the services that have nothing to tell any more, and reports
// whether there were any.
func (s *State) forget(at uint64) bool {
	before := len(s.services)
	for name, b := range s.services {
		if b.idle() && at >= b.touched+ms(s.settings.Recovery) {
			delete(s.services, name)
		}
	}
	if len(s.services) < before {
		return true
	}
	// All have been used lately: the longest unused of the closed ones goes.
	var closed []*service
	for _, b := range s.services {
		if b.idle() {
			closed = append(closed, b)
		}
	}
	if len(closed) == 0 {
		return false
	}
	oldest := slices.MinFunc(closed, func(x, y *service) int {
		return cmp.Or(cmp.Compare(x.touched, y.touched), cmp.Compare(x.name, y.name))
	})
	delete(s.services, oldest.name)
	return true
}
