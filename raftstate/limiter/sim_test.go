package limiter

import (
	"bytes"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// A simulation of the whole protocol: real Spenders and a real State, and
// between them a network, clocks, leaders and processes that misbehave. It is a
// list of events in the order of true time, without goroutines; all chance comes
// from one seed.

// faults are what a world does to its parts: chances of a message, or mean times
// between events; 0: never.
type faults struct {
	lost, twice float64       // of messages, each way
	delay       time.Duration // of messages, at most
	late        float64       // of doubles: up to 10 s
	elections   time.Duration
	crashes     time.Duration
	pauses      time.Duration
	partitions  time.Duration
	plans       time.Duration
	drift       float64 // clocks run at 1 ± drift
	refused     float64 // of messages that were admitted, by others than the limiter
}

// bug is a planted mistake that the checker must find.
type bug string

const (
	noBug           bug = ""
	bugClockAhead   bug = "a new leader's clock runs ahead"
	bugNoDeadline   bug = "nodes spend past their deadline"
	bugAnswerTwice  bug = "an answer is taken in twice"
	bugUnderreport  bug = "what was spent is reported as given back"
	bugForgetCrash  bug = "what a crashed node held is forgotten"
	bugShortWindow  bug = "the window is too short"
	bugSlotTooMany  bug = "a slot more than granted"
	bugBurstAtGrant bug = "the bucket fills while its tokens are out"
)

var allBugs = []bug{bugClockAhead, bugNoDeadline, bugAnswerTwice, bugUnderreport, bugForgetCrash, bugShortWindow, bugSlotTooMany, bugBurstAtGrant}

const simWindow = 10 * time.Second

type world struct {
	rng    *rand.Rand
	faults faults
	bug    bug
	hold   time.Duration // how long requests are in flight, on average

	now    time.Duration // true time
	events eventQueue
	order  uint64

	state  *State
	plans  map[string]Limits
	leader struct {
		up    bool
		base  int64 // stamp
		since time.Duration
		rate  float64
	}
	nodes []*simNode

	accepted map[string][]time.Duration
	flights  map[string][]flight
	steps    int
	commands int               // that the group has carried out
	gone     map[string]bool   // accounts that are deleted
	grown    map[string]Limits // the most that was ever in force
}

type flight struct{ from, to time.Duration }

type simNode struct {
	w           *world
	id          uint16
	rate        float64
	spender     *Spender
	life        int // which process
	pausedUntil time.Duration
	cutUntil    time.Duration
	out         *outgoing
	opening     bool
	flying      map[int]*simRequest
	next        int
	waiting     []*simRequest
	alone       *State // of a leader that nobody follows and that answers all the same; a planted bug
}

// simRequest is a client's: enter, take one token, be accepted or refused, leave.
type simRequest struct {
	account string
	since   time.Duration
	entered time.Duration
	in      bool
	taken   bool
	waits   bool
	wants   bool
}

type event struct {
	at    time.Duration
	order uint64
	node  *simNode // whose process runs it; nil: nobody's
	life  int
	run   func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(v any)   { *q = append(*q, v.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	v := old[len(old)-1]
	*q = old[:len(old)-1]
	return v
}

func newWorld(seed uint64, nodes int, plans map[string]Limits, f faults, b bug) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7)), faults: f, bug: b, hold: 40 * time.Millisecond, state: NewState(), plans: plans,
		accepted: map[string][]time.Duration{}, flights: map[string][]flight{}, grown: map[string]Limits{}, gone: map[string]bool{}}
	for a, l := range plans {
		w.grown[a] = l
	}
	window := simWindow
	if b == bugShortWindow {
		window = window * 9 / 10
	}
	w.state.SetWindow(0, window.Milliseconds())
	w.elect()
	for i := range nodes {
		n := &simNode{w: w, id: uint16(i + 1), rate: w.clockRate()}
		w.nodes = append(w.nodes, n)
		n.start()
	}
	w.every(f.elections, func() { w.leader.up = false; w.after(w.upTo(3*time.Second), nil, w.elect) })
	w.every(f.crashes, func() { w.anyNode().crash() })
	w.every(f.pauses, func() { w.anyNode().pausedUntil = w.now + w.upTo(15*time.Second) })
	w.every(f.partitions, func() { w.anyNode().cutUntil = w.now + w.upTo(4*time.Minute) })
	w.every(f.plans, w.changePlan)
	return w
}

func (w *world) anyNode() *simNode { return w.nodes[w.rng.IntN(len(w.nodes))] }

func (w *world) clockRate() float64 { return 1 + w.faults.drift*(2*w.rng.Float64()-1) }

func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(d) + 1))
}

func (w *world) after(d time.Duration, n *simNode, run func()) {
	w.order++
	e := event{at: w.now + d, order: w.order, node: n, run: run}
	if n != nil {
		e.life = n.life
	}
	heap.Push(&w.events, e)
}

// every runs f at random moments, on average once in mean.
func (w *world) every(mean time.Duration, f func()) {
	if mean == 0 {
		return
	}
	w.after(time.Duration(w.rng.ExpFloat64()*float64(mean)), nil, func() {
		f()
		w.every(mean, f)
	})
}

func (w *world) run(until time.Duration) {
	for len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		if e.node != nil {
			if e.life != e.node.life {
				continue // of a process that is gone
			}
			if e.node.pausedUntil > w.now {
				w.order++
				e.at, e.order = e.node.pausedUntil, w.order
				heap.Push(&w.events, e)
				continue
			}
		}
		w.steps++
		e.run()
	}
	w.now = until
}

// elect makes a new leader: it restores the state from its bytes, and its clock
// goes on from the last stamp.
func (w *world) elect() {
	before := stateBytes(w.state)
	s, err := DecodeState(jsontext.NewDecoder(bytes.NewReader(before)))
	if err != nil {
		panic(err)
	}
	if after := stateBytes(s); !bytes.Equal(before, after) {
		panic(fmt.Sprintf("a restored state has other bytes:\n%s\n%s", before, after))
	}
	w.state = s
	w.leader.up, w.leader.base, w.leader.since, w.leader.rate = true, s.now, w.now, w.clockRate()
	if w.bug == bugClockAhead {
		w.leader.base += 3000
	}
}

// plan implements Plans.
func (w *world) plan(account string) (Limits, bool) {
	l, ok := w.plans[account]
	return l, ok && !w.gone[account]
}

func decoderOf(s *State) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewReader(stateBytes(s)))
}

func stateBytes(s *State) []byte {
	var b bytes.Buffer
	if err := s.Snapshot().Encode(jsontext.NewEncoder(&b)); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func (w *world) changePlan() {
	for a := range w.plans {
		if a != "changing" {
			continue
		}
		l := Limits{Rate: 10 + w.rng.Int64N(200), Burst: 1 + w.rng.Int64N(60), Concurrent: 1 + w.rng.Int64N(30)}
		w.plans[a] = l
		g := w.grown[a]
		w.grown[a] = Limits{Rate: max(g.Rate, l.Rate), Burst: max(g.Burst, l.Burst), Concurrent: max(g.Concurrent, l.Concurrent)}
		for _, n := range w.nodes {
			w.after(w.upTo(time.Second), n, func() { n.spender.Change(a, w.plans[a]) })
		}
	}
}

// arrive has clients send requests for an account to a node, on average gap
// apart.
func (w *world) arrive(account string, pick func() *simNode, gap time.Duration) {
	w.after(time.Duration(w.rng.ExpFloat64()*float64(gap)), nil, func() {
		n := pick()
		w.after(0, n, func() { n.request(account) })
		w.arrive(account, pick, gap)
	})
}

// apply is the group's side: true if there is a leader to do it.
func (w *world) apply(q *Request) (Answer, bool) {
	if !w.leader.up {
		return Answer{}, false
	}
	stamp := w.leader.base + int64(float64((w.now-w.leader.since).Milliseconds())*w.leader.rate)
	if w.bug == bugForgetCrash && q.Seq == 0 {
		for _, a := range w.state.ledgers {
			if i, found := a.holding(q.Node); found {
				a.holdings[i].tokens = 0
			}
		}
	}
	w.commands++
	answers, short := w.state.Apply(stamp, &Command{Nodes: len(w.nodes), Requests: []Request{*q}}, w.plan)
	if w.bug == bugBurstAtGrant {
		for _, e := range q.Entries {
			a, l := w.state.ledgers[e.Account], w.plans[e.Account]
			a.level = max(a.level, (l.Burst-1)*w.state.window)
		}
	}
	if len(short) > 0 {
		for _, n := range w.nodes {
			w.after(w.upTo(60*time.Millisecond), n, func() { n.spender.Reclaim(short) })
		}
	}
	return answers[0], true
}
