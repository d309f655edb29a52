package limiter

import "slices"

// Plans tells the limits of an account, as the replicated state has them at the
// command that asks; false: there is no such account.
type Plans func(account string) (Limits, bool)

// State is the replicated part: what counts against every account, and what
// nodes hold. It is not safe for concurrent use, but for its views.
type State struct {
	now    int64 // cluster time of the last command, ms; never decreases
	window int64 // ms
	nodes  int64 // of the last command

	ledgers  map[string]*ledger
	sessions map[uint16]*session
	expiry   expiry // has one entry for each of ledgers
}

// session is one node's newest process.
type session struct {
	number uint64
	nonce  uint64
	seen   int64  // cluster time of the last request
	last   Answer // to the newest request, for when it is repeated
}

// NewState returns a state in which nobody has used anything.
func NewState() *State {
	return &State{window: DefaultWindow.Milliseconds(), nodes: 1, ledgers: map[string]*ledger{}, sessions: map[uint16]*session{}}
}

// SetWindow changes the window, in ms, at least 1. What was spent stays counted,
// for the new window; what has aged out of a shorter one is not known any more.
func (s *State) SetWindow(stamp, window int64) {
	s.now = max(s.now, stamp)
	if window == s.window {
		return
	}
	for _, a := range s.ledgers {
		a.advance(s.now, s.window, a.limits)
		a.level = int64(float64(a.level) / float64(s.window) * float64(window))
		a.clamp(s.now, window, a.limits)
		a.keepUntil(s.now, window)
	}
	s.window = window
}

// Window is the window in ms.
func (s *State) Window() int64 { return s.window }

// Apply carries out a command stamped with the leader's cluster time in ms. The
// answers are in the order of the requests. short names the accounts, ascending,
// that were refused something while nodes hold it: nodes that do not need it
// should give it back.
func (s *State) Apply(stamp int64, c *Command, plans Plans) (answers []Answer, short []string) {
	s.now = max(s.now, stamp)
	s.nodes = int64(max(1, c.Nodes))
	answers = make([]Answer, len(c.Requests))
	for i := range c.Requests {
		answers[i], short = s.request(&c.Requests[i], plans, short)
	}
	s.sweep()
	slices.Sort(short)
	return answers, slices.Compact(short)
}

func (s *State) request(q *Request, plans Plans, short []string) (Answer, []string) {
	n := s.sessions[q.Node]
	if n == nil {
		n = &session{}
		s.sessions[q.Node] = n
	}
	switch {
	case q.Seq == 0:
		s.open(n, q)
		return Answer{Session: n.number, Seq: n.nonce}, short
	case q.Session != n.number || q.Seq < n.last.Seq:
		return Answer{Session: n.number}, short
	case q.Seq == n.last.Seq:
		return n.last, short
	}
	n.seen = s.now
	answer := Answer{Session: q.Session, Seq: q.Seq, Grants: make([]Grant, len(q.Entries))}
	for i := range q.Entries {
		e := &q.Entries[i]
		l, ok := plans(e.Account)
		if !ok {
			l = Limits{Rate: 1, Burst: 1, Concurrent: 1} // the account is gone: only settle
		}
		var lacks bool
		answer.Grants[i], lacks = s.entry(q.Node, e, l, ok)
		if lacks {
			short = append(short, e.Account)
		}
	}
	n.last = answer
	return answer, short
}

// open begins a node's session, if it is the next one.
func (s *State) open(n *session, q *Request) {
	if q.Session != n.number+1 {
		return
	}
	*n = session{number: q.Session, nonce: q.Nonce, seen: s.now}
	for _, a := range s.ledgers {
		// First the bucket: until now it had no room for what is released.
		a.advance(s.now, s.window, a.limits)
		a.release(q.Node, s.now, s.window)
	}
}

// entry settles what a node reports of an account, and lends it what it needs
// and what there is.
func (s *State) entry(node uint16, e *Entry, l Limits, grant bool) (g Grant, lacks bool) {
	a, known := s.ledger(e.Account, l)
	a.advance(s.now, s.window, l)
	i, found := a.holding(node)
	if !found {
		a.holdings = slices.Insert(a.holdings, i, holding{node: node})
	}
	h := &a.holdings[i]
	a.settle(h, e, s.now, s.window, l)
	if grant {
		// A node that has let its lease run out and is busy still gets a new one:
		// its busy tokens stay in it.
		h.until = s.now + LeaseTime.Milliseconds()
		lacks = s.lend(a, h, e, l, &g)
	}
	g.Elsewhere = a.slotsBeside(node)
	// Where more is in flight than there may be, nobody enters until it is less.
	g.Slots = min(h.slots, max(0, l.Concurrent-g.Elsewhere))
	g.Remaining = max(0, l.Rate-a.counted(s.now, s.window))
	g.Level = a.level / s.window
	g.Reset = a.reset(s.now, s.window)
	if h.tokens == 0 && h.slots == 0 {
		a.holdings = slices.Delete(a.holdings, i, i+1)
	}
	a.keepUntil(s.now, s.window)
	if !known {
		s.expiry.push(e.Account, a.forget)
	}
	return g, lacks
}

// lend gives the holding what is asked for. First what requests wait for, then
// slots, then what is for later: of that, every node leaves the others' share.
func (s *State) lend(a *ledger, h *holding, e *Entry, l Limits, g *Grant) (lacks bool) {
	others := a.slotsBeside(h.node)
	room := max(0, l.Concurrent-others)
	h.slots = max(min(max(e.Slots, e.InFlight), room), h.slots)
	lacks = min(h.slots, room) < e.Slots && others > 0

	a.clamp(s.now, s.window, l)
	free := max(0, min(l.Rate-a.counted(s.now, s.window), a.level/s.window))
	now := min(e.Want, free)
	if now < e.Want {
		g.Reason = Rate
		if a.level/s.window-now < 1 {
			g.Reason = Burst
		}
		lacks = lacks || a.outstanding(s.now) > h.tokens
	}
	if l.Shadow || e.InFlight > 0 || min(h.slots, room) > 0 { // else tokens would lie there, and another node may have a slot
		stock := h.tokens - min(e.Busy, h.tokens)
		later := max(0, max(e.Ahead, s.floor(a, h, e, l))-stock)
		g.Tokens = now + min(later, (free-now)/s.nodes)
	}
	h.tokens += g.Tokens
	a.level -= g.Tokens * s.window
	if g.Reason != Allowed {
		g.Wait = max(1, a.waitRate(s.now, s.window, l), a.waitBurst(s.now, s.window, l))
	}
	return lacks
}

// floor is the stock that a node should have for an account it serves. Of small
// plans not all nodes get one, so that half of the plan is in nobody's stock.
func (s *State) floor(a *ledger, h *holding, e *Entry, l Limits) int64 {
	if e.Ahead == 0 && e.Want == 0 { // it gives back
		return 0
	}
	floor := floorOf(l, s.nodes)
	if s.nodes == 1 {
		return floor
	}
	beside := a.outstanding(s.now) - h.tokens
	return max(0, min(floor, min(l.Rate, l.Burst)/2-beside))
}

func (s *State) ledger(account string, l Limits) (a *ledger, known bool) {
	if a, known = s.ledgers[account]; !known {
		a = &ledger{level: l.Burst * s.window, filled: s.now, limits: l}
		s.ledgers[account] = a
	}
	return a, known
}

// sweep forgets the accounts of which nothing counts any more.
func (s *State) sweep() {
	for {
		account, due := s.expiry.next(s.now)
		if !due {
			break
		}
		if a := s.ledgers[account]; a.forget > s.now {
			s.expiry.push(account, a.forget)
		} else {
			delete(s.ledgers, account)
		}
	}
}
