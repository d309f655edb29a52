package limiter

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// sendEvery is the least time from one request to the next: what is needed
// meanwhile travels together. What nobody waits for gathers for longer.
const (
	sendEvery = 5 * time.Millisecond
	gatherFor = 20 * time.Millisecond
)

// outgoing is the request under way: one at a time, repeated until answered.
type outgoing struct {
	request Request
	entries []*entry
	sent    time.Duration // before it was first sent
}

// Run exchanges requests with the group until ctx ends. Then the node gives back
// what it holds and does not need, as far as the group answers within grace.
func (s *Spender) Run(ctx context.Context, grace time.Duration) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-look.C:
			now := s.cfg.Now()
			s.giveMissed(now)
			s.look(now)
		case <-s.hurry:
			s.exchange(ctx)
		case <-s.wake:
			s.gather(ctx)
			s.exchange(ctx)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	s.giveBack(ctx)
	return nil
}

// gather lets more come together, until somebody waits for it.
func (s *Spender) gather(ctx context.Context) {
	timer := time.NewTimer(gatherFor)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.hurry:
	case <-ctx.Done():
	}
}

// exchange makes a round, and no other too soon.
func (s *Spender) exchange(ctx context.Context) {
	began := s.cfg.Now()
	if !s.round(ctx) {
		return
	}
	if rest := sendEvery - (s.cfg.Now() - began); rest > 0 {
		pause(ctx, rest)
	}
}

// round exchanges what is queued, if anything is, and tries until that worked
// or ctx ends.
func (s *Spender) round(ctx context.Context) bool {
	if !s.opened(ctx) {
		return false
	}
	out := s.prepare(s.cfg.Now())
	if out == nil {
		return false
	}
	for ctx.Err() == nil {
		answer, err := s.ask(ctx, &out.request)
		if err != nil {
			pause(ctx, retryPause)
			continue
		}
		s.accept(out, answer, s.cfg.Now())
		return true
	}
	return false
}

// opened opens a session where there is none.
func (s *Spender) opened(ctx context.Context) bool {
	for s.session == 0 && ctx.Err() == nil {
		next := s.seq + 1 // while no session is open, seq is the newest number heard of
		answer, err := s.ask(ctx, &Request{Node: s.cfg.Node, Session: next, Nonce: s.nonce})
		switch {
		case err != nil:
			pause(ctx, retryPause)
		default:
			s.open(next, answer)
		}
	}
	return s.session != 0
}

// open takes in the answer to the opening of a session.
func (s *Spender) open(asked uint64, answer *Answer) {
	if answer.Session == asked && answer.Seq == s.nonce {
		s.session, s.seq = asked, 0
		return
	}
	s.seq = answer.Session
}

// prepare makes the next request of what is queued; nil: nothing is.
func (s *Spender) prepare(now time.Duration) *outgoing {
	s.queueMu.Lock()
	n := min(len(s.queue), entriesARequest)
	entries := append([]*entry(nil), s.queue[:n]...)
	s.queue = append(s.queue[:0], s.queue[n:]...)
	more := len(s.queue) > 0
	clear(s.queue[len(s.queue):cap(s.queue)])
	s.queueMu.Unlock()
	if more {
		signal(s.hurry)
	}
	if n == 0 {
		return nil
	}
	s.seq++
	out := &outgoing{sent: now, entries: entries,
		request: Request{Node: s.cfg.Node, Session: s.session, Seq: s.seq, Entries: make([]Entry, n)}}
	for i, e := range entries {
		e.mu.Lock()
		out.request.Entries[i] = e.prepareLocked(now)
		e.mu.Unlock()
	}
	return out
}

// ask makes one try.
func (s *Spender) ask(ctx context.Context, q *Request) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	answer, err := s.cfg.Group.Exchange(ctx, q)
	if err == nil && answer.Session == q.Session && q.Seq > 0 && (answer.Seq != q.Seq || len(answer.Grants) != len(q.Entries)) {
		err = errAnswer
	}
	s.stats.exchanged(err)
	if err != nil {
		s.failing.CompareAndSwap(0, int64(s.cfg.Now())+1)
		return nil, fmt.Errorf("exchange with the group: %w", err)
	}
	s.failing.Store(0)
	return answer, nil
}

var errAnswer = errors.New("the answer is to another request")

// accept takes in the answer to out.
func (s *Spender) accept(out *outgoing, answer *Answer, now time.Duration) {
	if answer.Session != out.request.Session {
		s.lost(answer.Session)
		return
	}
	for i, e := range out.entries {
		e.mu.Lock()
		s.stats.shadow.Add(uint64(e.acceptLocked(&answer.Grants[i], out.sent, now)))
		if e.owed > 0 { // since the request was made
			s.enqueueLocked(e)
		}
		e.mu.Unlock()
	}
}

// lost ends the session: a newer one of this node is known. What it held is gone.
func (s *Spender) lost(newest uint64) {
	s.session, s.seq = 0, newest
	s.each(func(e *entry) (exchange bool) {
		e.resetLocked()
		e.wakeLocked() // they ask again
		return true
	})
}

// giveBack returns everything, so that the other nodes need not wait for it.
func (s *Spender) giveBack(ctx context.Context) {
	if s.session == 0 {
		return // nothing is held
	}
	s.each(func(e *entry) bool {
		e.give = true
		return e.left > 0 || e.spent > 0 || e.lent > 0
	})
	for s.round(ctx) {
	}
}

// signal never waits: one that has not been noticed yet is enough.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
