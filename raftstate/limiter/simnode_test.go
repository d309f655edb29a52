package limiter

import (
	"context"
	"errors"
	"slices"
	"time"
)

type noGroup struct{}

func (noGroup) Exchange(context.Context, *Request) (*Answer, error) {
	return nil, errors.New("not used")
}

// start begins a new process of the node.
func (n *simNode) start() {
	n.life++
	began := n.w.now
	s, err := NewSpender(Config{Node: n.id, Group: noGroup{},
		Now: func() time.Duration { return time.Duration(float64(n.w.now-began) * n.rate) }}, n.w.rng.Uint64())
	if err != nil {
		panic(err)
	}
	n.spender, n.out, n.flying, n.waiting = s, nil, map[int]*simRequest{}, nil
	n.tick()
	n.look()
	n.give()
}

// crash ends the process: what was on its way to disk may be there.
func (n *simNode) crash() {
	for _, r := range n.flying {
		if r.taken && n.w.rng.IntN(2) == 0 {
			n.accept(r)
		}
	}
	n.land()
	n.pausedUntil = 0
	n.life++
	n.w.after(n.w.upTo(5*time.Second), n, n.start)
}

// land ends all flights, with the process.
func (n *simNode) land() {
	for _, r := range n.flying {
		if r.in {
			n.w.flights[r.account] = append(n.w.flights[r.account], flight{r.entered, n.w.now})
		}
	}
	n.flying, n.waiting = map[int]*simRequest{}, nil
}

func (n *simNode) accept(r *simRequest) {
	n.w.accepted[r.account] = append(n.w.accepted[r.account], n.w.now)
}

// tick sends what is queued, or repeats what is not answered.
func (n *simNode) tick() {
	n.exchange()
	n.w.after(10*time.Millisecond, n, n.tick)
}

// give is what a node does at each look, whichever shards' turn it is.
func (n *simNode) give() {
	n.spender.giveMissed(n.spender.cfg.Now())
	n.w.after(lookEvery, n, n.give)
}

func (n *simNode) look() {
	if n.out == nil {
		now := n.spender.cfg.Now()
		for i := range n.spender.shards {
			n.spender.lookAt(&n.spender.shards[i], now)
		}
	}
	n.w.after(time.Second, n, n.look)
}

func (n *simNode) exchange() {
	s := n.spender
	switch {
	case n.opening:
		n.opening = n.w.rng.IntN(10) > 0 // or try again
	case n.out != nil:
		if n.w.rng.IntN(5) == 0 {
			n.send(n.out)
		}
	case s.session == 0:
		next := s.seq + 1
		n.opening = true
		n.carry(&Request{Node: n.id, Session: next, Nonce: s.nonce}, func(a *Answer) {
			n.opening = false
			if s.session == 0 {
				s.open(next, a)
			}
		})
	default:
		if out := s.prepare(s.cfg.Now()); out != nil {
			if n.w.bug == bugUnderreport {
				for i := range out.request.Entries {
					out.request.Entries[i].Spent /= 2
				}
			}
			n.out = out
			n.send(out)
		}
	}
}

func (n *simNode) send(out *outgoing) {
	n.carry(&out.request, func(a *Answer) {
		if n.out != out {
			return // answered already
		}
		n.out = nil
		n.spender.accept(out, a, n.spender.cfg.Now())
		n.plant(out, a)
		n.retry()
	})
}

// plant is where a node's planted mistakes are.
func (n *simNode) plant(out *outgoing, a *Answer) {
	if a.Session != out.request.Session {
		return
	}
	for i, e := range out.entries {
		switch n.w.bug {
		case bugAnswerTwice:
			e.left += a.Grants[i].Tokens
		case bugNoDeadline:
			e.until += time.Hour
		case bugSlotTooMany:
			e.slots++
		}
	}
}

// carry takes a request to the group and the answer back, if nothing happens.
func (n *simNode) carry(q *Request, answered func(*Answer)) {
	w, life := n.w, n.life
	copies := 1
	if w.rng.Float64() < w.faults.twice {
		copies++
	}
	for i := range copies {
		delay := w.upTo(w.faults.delay)
		if i > 0 && w.rng.Float64() < w.faults.late {
			delay = w.upTo(10 * time.Second)
		}
		if w.rng.Float64() < w.faults.lost || n.cutUntil > w.now {
			if n.alone != nil && n.cutUntil > w.now {
				answer, _ := n.alone.Apply(w.now.Milliseconds(), &Command{Nodes: len(w.nodes), Requests: []Request{*q}}, w.plan)
				w.after(delay, n, func() { answered(&answer[0]) })
			}
			continue
		}
		body := q.Append(nil)
		w.after(delay, nil, func() {
			got, err := DecodeRequest(body)
			if err != nil {
				panic(err)
			}
			answer, ok := w.apply(got)
			if !ok || n.life != life || n.cutUntil > w.now || w.rng.Float64() < w.faults.lost {
				return
			}
			decoded, err := DecodeAnswer(answer.Append(nil))
			if err != nil {
				panic(err)
			}
			w.after(w.upTo(w.faults.delay), n, func() { answered(decoded) })
		})
	}
}

func (n *simNode) request(account string) {
	r := &simRequest{account: account, since: n.w.now}
	if !n.step(r) {
		n.waiting = append(n.waiting, r)
	}
}

// retry goes on with those that wait; who has waited for three seconds goes.
func (n *simNode) retry() {
	waiting := n.waiting
	n.waiting = nil
	for _, r := range waiting {
		e := n.entry(r)
		if r.waits {
			e.wantSlots--
		}
		if r.wants {
			e.want--
		}
		r.waits, r.wants = false, false
		e.mu.Unlock()
		if n.w.now-r.since > 3*time.Second {
			n.leave(r)
		} else if !n.step(r) {
			n.waiting = append(n.waiting, r)
		}
	}
}

func (n *simNode) entry(r *simRequest) *entry {
	return n.spender.lookup(r.account, n.w.plans[r.account])
}

// step brings a request on as Enter and Take do; false: it waits.
func (n *simNode) step(r *simRequest) bool {
	now := n.spender.cfg.Now()
	e := n.entry(r)
	if l := n.w.plans[r.account]; l != e.limits {
		e.changeLocked(l)
	}
	e.expireLocked(now)
	if !r.in {
		if !e.roomLocked() {
			defer e.mu.Unlock()
			if now < e.noSlotsUntil {
				return true
			}
			e.wantSlots++
			r.waits = true
			n.spender.enqueueLocked(e)
			return false
		}
		e.enterLocked(now)
		r.in, r.entered = true, n.w.now
		n.next++
		n.flying[n.next] = r
		id := n.next
		n.w.after(time.Duration(n.w.rng.ExpFloat64()*float64(n.w.hold)), n, func() { n.finish(id, r) })
	}
	if !r.taken && e.takeLocked(1, now) == 1 {
		r.taken = true
	}
	low := e.lowLocked() && (now >= e.reasonUntil || e.left > 0)
	refused := !r.taken && e.reason != Allowed && now < e.reasonUntil
	switch {
	case r.taken || refused:
		if low {
			n.spender.enqueueLocked(e)
		}
		e.mu.Unlock()
		return true
	}
	e.want++
	r.wants = true
	n.spender.enqueueLocked(e)
	e.mu.Unlock()
	return false
}

// finish ends a request that is in: accepted, refused by others, or over a limit.
func (n *simNode) finish(id int, r *simRequest) {
	if r.wants {
		if n.w.now-r.since < 3*time.Second {
			n.w.after(20*time.Millisecond, n, func() { n.finish(id, r) })
			return
		}
		e := n.entry(r) // it has waited long enough
		e.want--
		e.mu.Unlock()
		r.wants = false
		n.waiting = slices.DeleteFunc(n.waiting, func(other *simRequest) bool { return other == r })
	}
	if r.taken {
		accepted := int64(1)
		if n.w.rng.Float64() < n.w.faults.refused {
			accepted = 0
		} else {
			n.accept(r)
		}
		e := n.entry(r)
		e.mu.Unlock()
		(&Pass{spender: n.spender, entry: e}).Settle(1, accepted)
	}
	if r.in {
		n.leave(r)
	}
	delete(n.flying, id)
}

func (n *simNode) leave(r *simRequest) {
	if !r.in {
		return
	}
	r.in = false
	n.w.flights[r.account] = append(n.w.flights[r.account], flight{r.entered, n.w.now})
	e := n.entry(r)
	e.inFlight--
	e.mu.Unlock()
}
