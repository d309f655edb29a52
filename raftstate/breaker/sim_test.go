package breaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sim is three nodes with a Watch and a replica of the State each, one log, and
// a service that answers some nodes at some times. One goroutine makes the calls
// and the faults; the Watches run by themselves in the bubble's time.
type sim struct {
	rng   *rand.Rand // of the driver
	began time.Time
	nodes map[uint16]*simNode
	split bool // planted: a node's reports reach its own replica and no other

	mu   sync.Mutex // guards what follows, and the replicas
	wire *rand.Rand // of the reports' fates
	calm bool       // no more faults
	log  []logged
	late []Report
	seen tally

	wrong []string // the driver's
}

type logged struct {
	cmd Command
	at  uint64
}

type simNode struct {
	number  uint16
	state   *State
	applied int
	cut     bool // from the group
	watch   *Watch
	stop    func()
	down    int // ticks until it starts again
	calls   []simCall
	row     int    // failures in a row, of ordinary calls
	rowOf   uint64 // in this generation
}

type simCall struct {
	permit  Permit
	verdict Verdict
	ends    time.Time
	probe   bool // with the group's permit
}

const (
	simTick    = 50 * time.Millisecond
	simService = "email"
	maxBehind  = 4 // ticks that a node's replica may be behind
)

var simSettings = Settings{Threshold: 3, Timeout: 2 * time.Second, Recovery: time.Second}

var errLost = errors.New("lost")

func (s *sim) stamp() uint64 { return ms(time.Since(s.began)) + 1 }

// propose decides what becomes of a report: it arrives, it does not, it arrives
// later, or twice, or its answer is lost.
func (s *sim) propose(n *simNode, r Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.cut {
		return errLost
	}
	if s.split {
		at := s.stamp()
		n.watch.Follow(n.state, n.state.Apply(r, at), at)
		return nil
	}
	fate := "in time"
	if !s.calm {
		fate = []string{"lost", "late", "answer lost", "twice", "in time", "in time", "in time", "in time"}[s.wire.IntN(8)]
	}
	s.seen[fate]++
	switch fate {
	case "lost":
		return errLost
	case "late":
		s.late = append(s.late, r)
		return errLost
	case "twice":
		s.late = append(s.late, r)
	}
	s.log = append(s.log, logged{r, s.stamp()})
	if fate == "answer lost" {
		return errLost
	}
	s.catchUp(n)
	return nil
}

func (s *sim) catchUp(n *simNode) {
	for ; n.applied < len(s.log); n.applied++ {
		l := s.log[n.applied]
		n.watch.Follow(n.state, n.state.Apply(l.cmd, l.at), l.at)
	}
}

// start starts a node from a snapshot of its replica.
func (s *sim) start(n *simNode) {
	var err error
	if n.state, err = restored(n.state); err != nil {
		panic(err)
	}
	n.watch, err = New(Config{Node: n.number, Settings: simSettings,
		Propose: func(_ context.Context, r Report) error { return s.propose(n, r) }})
	if err != nil {
		panic(err)
	}
	n.watch.Follow(n.state, nil, n.state.Last())
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = n.watch.Run(ctx) })
	n.stop = func() { cancel(); running.Wait() }
	n.row = 0
}

func (s *sim) saw(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[what]++
}

func (s *sim) failed(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf("at %v: ", time.Since(s.began))+fmt.Sprintf(format, args...))
}

// tick ends the calls that are due and makes new ones. answers says whom the
// service answers.
func (s *sim) tick(answers map[uint16]bool) {
	now := time.Now()
	for _, number := range slices.Sorted(maps.Keys(s.nodes)) {
		n := s.nodes[number]
		if n.watch == nil {
			continue
		}
		n.calls = slices.DeleteFunc(n.calls, func(c simCall) bool {
			if now.Before(c.ends) {
				return false
			}
			s.end(n, c)
			return true
		})
		if len(n.calls) >= 4 || s.rng.IntN(3) == 0 {
			continue
		}
		p, ok := n.watch.Acquire(simService)
		if !ok {
			continue
		}
		c := simCall{permit: p, verdict: Success, ends: now.Add(time.Duration(s.rng.IntN(400)) * time.Millisecond)}
		switch {
		case s.rng.IntN(20) == 0:
			c.verdict = Neutral
		case !answers[number] && s.rng.IntN(3) == 0:
			c.verdict, c.ends = Failure, now.Add(simSettings.Timeout)
		case !answers[number]:
			c.verdict = Failure
		}
		n.watch.mu.Lock()
		c.probe = p.trial != 0 && p.entry.granted(number) && p.generation == p.entry.view.Generation
		n.watch.mu.Unlock()
		if c.probe {
			s.saw("probe")
			s.onlyProbe(number, now)
		}
		n.calls = append(n.calls, c)
	}
}

// onlyProbe wants no other node to be at a probe.
func (s *sim) onlyProbe(node uint16, now time.Time) {
	for other, o := range s.nodes {
		for _, c := range o.calls {
			if other != node && c.probe && now.Before(c.ends) {
				s.failed("nodes %d and %d probe at the same time", node, other)
			}
		}
	}
}

// end ends a call, and wants the breaker not to be closed after a threshold of
// failures that this node has counted for itself.
func (s *sim) end(n *simNode, c simCall) {
	n.watch.mu.Lock()
	current := c.permit.entry.view.Generation
	counts := c.permit.trial == 0 && c.permit.generation == current && c.permit.entry.phase() == Closed
	n.watch.mu.Unlock()
	if n.rowOf != current {
		n.row, n.rowOf = 0, current
	}
	c.permit.Done(c.verdict)
	switch {
	case c.verdict == Success: // of a trial of its own, too
		n.row = 0
	case !counts || c.verdict == Neutral:
	default:
		n.row++
	}
	if phase, _ := n.watch.State(simService); n.row >= simSettings.Threshold && counts && phase == Closed {
		s.failed("node %d: closed after %d failures in a row", n.number, n.row)
	}
}

// fault lets a node crash, start again or part from the group, lets replicas
// fall behind, and late reports arrive.
func (s *sim) fault() {
	for _, number := range slices.Sorted(maps.Keys(s.nodes)) {
		n := s.nodes[number]
		if n.watch == nil {
			if n.down--; n.down <= 0 || s.calm {
				s.mu.Lock()
				s.start(n)
				s.mu.Unlock()
			}
			continue
		}
		if !s.calm && s.rng.IntN(400) == 0 {
			s.saw("restart")
			n.stop()
			n.watch, n.calls, n.down = nil, nil, s.rng.IntN(100)
			continue
		}
		s.mu.Lock()
		if s.calm {
			n.cut = false
		} else if s.rng.IntN(200) == 0 {
			n.cut = !n.cut
			s.seen["cut"]++
		}
		if !s.split && !n.cut && (s.calm || s.rng.IntN(maxBehind) == 0) {
			s.catchUp(n)
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.late) > 0 && (s.calm || s.rng.IntN(10) == 0) {
		i := s.rng.IntN(len(s.late))
		s.log = append(s.log, logged{s.late[i], s.stamp()})
		s.late = slices.Delete(s.late, i, i+1)
	}
}

// simulate runs a seed for so many ticks, then heals everything but, for every
// other seed, the service, and wants the nodes to agree.
func simulate(t *testing.T, seed uint64, ticks int, split bool) (wrong []string, seen tally) {
	synctest.Test(t, func(*testing.T) {
		s := &sim{rng: rand.New(rand.NewPCG(seed, 1)), wire: rand.New(rand.NewPCG(seed, 2)), began: time.Now(), split: split,
			nodes: map[uint16]*simNode{}, seen: tally{}}
		s.log = append(s.log, logged{Configure{simSettings}, 1})
		for number := uint16(1); number <= 3; number++ {
			n := &simNode{number: number, state: NewState()}
			s.nodes[number] = n
			s.mu.Lock()
			s.start(n)
			s.catchUp(n)
			s.mu.Unlock()
		}
		answers := map[uint16]bool{1: true, 2: true, 3: true}
		step := func() {
			s.tick(answers)
			s.fault()
			settle(simTick)
		}
		for range ticks {
			switch s.rng.IntN(200) {
			case 0: // for all
				up := s.rng.IntN(2) == 0
				answers = map[uint16]bool{1: up, 2: up, 3: up}
			case 1: // for one
				n := uint16(1 + s.rng.IntN(3))
				answers[n] = !answers[n]
			}
			step()
		}
		up := seed%2 == 0
		s.mu.Lock()
		s.calm = true
		s.mu.Unlock()
		answers = map[uint16]bool{1: up, 2: up, 3: up}
		for range int(5 * maxFactor * simSettings.Recovery / simTick) {
			step()
		}
		s.agree(up)
		for _, n := range s.nodes {
			n.stop()
		}
		wrong, seen = s.wrong, s.seen
	})
	return wrong, seen
}

// agree wants the same state in all replicas, and every Watch to be as it says.
func (s *sim) agree(up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes { // a report may have come after the last step
		if !s.split {
			s.catchUp(n)
		}
	}
	for number, n := range s.nodes {
		phase, _ := n.watch.State(simService)
		v := n.state.View(simService, number)
		if phase != v.Phase || (phase == Closed) != up {
			s.failed("node %d: %v, its replica %v, the service is up: %v", number, phase, v.Phase, up)
		}
		if other := s.nodes[1].state.View(simService, number); other.Generation != v.Generation || other.Phase != v.Phase {
			s.failed("node %d has %+v, node 1 has %+v", number, v, other)
		}
	}
}

// TestProperty14_NodesAgreeAndProbeInTurn runs the whole protocol, with reports
// lost, late and twice, nodes that crash, part and are behind.
func TestProperty14_NodesAgreeAndProbeInTurn(t *testing.T) {
	total := tally{}
	for seed := range uint64(40) {
		wrong, seen := simulate(t, seed, 2000, false)
		for _, text := range wrong {
			t.Errorf("seed %d: %s", seed, text)
		}
		for what, n := range seen {
			total[what] += n
		}
	}
	for _, what := range []string{"lost", "late", "answer lost", "twice", "restart", "cut", "probe"} {
		if total[what] < 20 {
			t.Errorf("%s: %d times, which proves little", what, total[what])
		}
	}
	t.Logf("seen: %v", total)
}

// TestProperty14_ControlFindsTwoGroups plants nodes that each keep a log of
// their own: the checker must see it.
func TestProperty14_ControlFindsTwoGroups(t *testing.T) {
	together := false
	for seed := uint64(0); seed < 20 && !together; seed++ {
		wrong, _ := simulate(t, seed, 2000, true)
		together = slices.ContainsFunc(wrong, func(s string) bool { return strings.Contains(s, "probe at the same time") })
	}
	if !together {
		t.Error("nodes without a common log were not noticed")
	}
}
