package breaker

import (
	"maps"
	"slices"
	"time"
)

// model is the rules of a breaker, as they are told to operators.
type model struct {
	settings Settings
	now      uint64
	count    uint64 // transitions of all breakers
	breakers map[string]*modelBreaker
}

// modelBreaker has a switch that all nodes share, and behind it one for each
// node that stands alone.
type modelBreaker struct {
	hand   Position
	who    string
	shared modelSwitch
	alone  map[uint16]modelSwitch
	prober uint16 // has the permit, until then
	until  uint64
	okAt   map[uint16]uint64
	failed uint16 // made the last probe that failed
}

type modelSwitch struct {
	open       bool
	generation uint64
	strikes    int // probes that failed in a row
	retry      uint64
}

func newModel() *model {
	return &model{settings: DefaultSettings(), breakers: map[string]*modelBreaker{}}
}

// pause is how long after the last of these strikes the next probe comes.
func (m *model) pause(strikes int) uint64 {
	times := []uint64{1, 2, 4, 8, 10}[min(strikes, 4)]
	return times * uint64(m.settings.Recovery.Milliseconds())
}

func (m *model) of(name string) *modelBreaker {
	if m.breakers[name] == nil {
		m.breakers[name] = &modelBreaker{alone: map[uint16]modelSwitch{}, okAt: map[uint16]uint64{}}
	}
	return m.breakers[name]
}

func (b *modelBreaker) of(node uint16) modelSwitch {
	if b.shared.open {
		return b.shared
	}
	return b.alone[node]
}

func (b *modelBreaker) set(node uint16, s modelSwitch) {
	if b.shared.open {
		b.shared = s
	} else {
		b.alone[node] = s
	}
}

func (b *modelBreaker) generation(node uint16) uint64 {
	return max(b.shared.generation, b.alone[node].generation)
}

func (m *model) apply(cmd Command, stamp uint64) {
	m.now = max(m.now, stamp)
	switch c := cmd.(type) {
	case Report:
		for _, item := range c.Items {
			m.overdue(m.of(item.Service))
			m.report(m.of(item.Service), c.Node, item)
		}
	case Force:
		m.overdue(m.of(c.Service))
		m.count++
		to := c.To
		if to == Auto {
			to = ""
		}
		m.breakers[c.Service] = &modelBreaker{hand: to, who: c.Who, shared: modelSwitch{generation: m.count},
			alone: map[uint16]modelSwitch{}, okAt: map[uint16]uint64{}}
	case Configure:
		m.settings = c.Settings
		for _, b := range m.breakers {
			b.shared.retry = min(b.shared.retry, m.now+m.pause(b.shared.strikes))
			for n, s := range b.alone {
				s.retry = min(s.retry, m.now+m.pause(s.strikes))
				b.alone[n] = s
			}
		}
	}
}

// overdue takes a permit that nobody came back with for a probe that failed. It
// is noticed with the next command.
func (m *model) overdue(b *modelBreaker) {
	if b.prober != 0 && m.now >= b.until {
		m.strike(b, b.prober, b.until)
	}
}

func (m *model) report(b *modelBreaker, node uint16, item Item) {
	if b.hand != "" || item.Generation != b.generation(node) {
		return
	}
	if item.OK {
		b.okAt[node] = max(b.okAt[node], m.now-min(m.now, item.OKAgeMS))
	}
	s := b.of(node)
	if !s.open {
		if item.Failures >= m.settings.Threshold {
			m.opens(b, node, modelSwitch{retry: m.now + m.pause(0)})
		}
		return
	}
	if b.prober != 0 && b.prober != node {
		return
	}
	switch item.Probe {
	case ProbeSuccess:
		m.count++
		b.set(node, modelSwitch{generation: m.count})
		b.prober, b.failed, b.okAt[node] = 0, 0, max(b.okAt[node], m.now)
		return
	case ProbeFailure:
		m.strike(b, node, m.now)
		return
	case ProbeUnused:
		if b.prober == node {
			m.count++
			s.generation, b.prober = m.count, 0
			b.set(node, s)
			return
		}
	}
	if item.Ask && b.prober == 0 && (item.Early || m.now >= m.turn(b, node)) {
		m.count++
		s.generation = m.count
		b.set(node, s)
		b.prober, b.until = node, m.now+uint64((m.settings.Timeout*5/4+500*time.Millisecond)/time.Millisecond)
	}
}

// turn is when a node may probe: the one that failed last a little later, if
// another has ever got through.
func (m *model) turn(b *modelBreaker, node uint16) uint64 {
	at := b.of(node).retry
	if b.shared.open && b.failed == node {
		for other := range b.okAt {
			if other != node {
				return at + min(2000, uint64(m.settings.Recovery.Milliseconds())/10)
			}
		}
	}
	return at
}

func (m *model) strike(b *modelBreaker, node uint16, at uint64) {
	s := b.of(node)
	s.strikes++
	s.retry = at + m.pause(s.strikes)
	b.prober, b.failed = 0, node
	m.opens(b, node, s)
}

// opens opens the switch of all, or that of the node alone if another has got
// through within the recovery time and may still.
func (m *model) opens(b *modelBreaker, node uint16, s modelSwitch) {
	m.count++
	s.open, s.generation = true, m.count
	if !b.shared.open {
		for other, at := range b.okAt {
			if other != node && !b.alone[other].open && m.now <= at+uint64(m.settings.Recovery.Milliseconds()) {
				b.alone[node] = s
				return
			}
		}
	}
	if b.prober != 0 {
		s.retry = max(s.retry, b.until) // after the probe of one that stood alone
	}
	b.shared, b.alone, b.prober = s, map[uint16]modelSwitch{}, 0
}

func (m *model) views() map[string]View {
	views := map[string]View{}
	for _, name := range modelServices {
		b := m.breakers[name]
		for _, node := range modelNodes {
			v := View{Service: name}
			if b != nil {
				v = b.view(name, node)
			}
			views[key(name, node)] = v
		}
	}
	return views
}

func (b *modelBreaker) view(name string, node uint16) View {
	v := View{Service: name, Generation: b.generation(node), Forced: b.hand, Who: b.who}
	for _, n := range slices.Sorted(maps.Keys(b.alone)) {
		if b.alone[n].open && !b.shared.open {
			v.OpenOn = append(v.OpenOn, n)
		}
	}
	s := b.of(node)
	switch {
	case b.hand == ForcedOpen:
		v.Phase = Open
	case s.open && (b.prober == node || b.shared.open && b.prober != 0):
		v.Phase, v.RetryAt, v.Probe, v.ProbeUntil = HalfOpen, s.retry, b.prober, b.until
	case s.open:
		v.Phase, v.RetryAt = Open, s.retry
	}
	return v
}
