package sink

import (
	"context"
	"sync"
	"time"

	"forebay/wal/message"
)

// outlet is the way to one channel: what waits for it in memory, and who is
// next. Within a priority accounts take turns, by deficit round robin (Shreedhar
// and Varghese, 1995) with one message as the unit and the account's weight as
// the quantum. A message whose account has as much in flight as it may stays
// where it is; one whose host has, steps aside and lets others of its account
// by. All its fields are guarded by Dispatcher.mu.
type outlet struct {
	d       *Dispatcher
	channel message.Channel
	wake    chan struct{} // capacity 1
	meter   meter

	sender   Channel // nil: switched off
	policy   Policy
	reports  bool      // its provider tells later what became of messages
	unheard  time.Time // the store has not said in time what was reported; nobody asks before
	workers  int
	calls    int // that may be under way; 0: workers alone bound them
	inflight int // calls under way
	// recording are attempts whose call is over and whose end the log does not
	// have yet. With those in flight they are at most workers: a kill repeats
	// these attempts and no others.
	recording int
	pace      pace
	strangers strangers

	accounts index[*account]
	hosts    index[*host]
	rings    [message.Lanes]ring
	express  [message.Lanes]fifo // their places in account and host are taken
	queued   [message.Lanes]int
	bytes    int // of payload, in memory and in flight

	stoppedUntil time.Time
	stops        int // in a row
	parked       int // about how many rest in the log
	failed       uint64
}

type account struct {
	name      string
	hash      uint64
	weight    int
	jobs      [message.Lanes]fifo
	deficit   [message.Lanes]int
	inRing    [message.Lanes]bool
	queued    [message.Lanes]int // in memory and not in flight, wherever
	inflight  int
	aside     map[*host]int // its jobs that wait for a host
	strangers int           // calls under way to hosts that are strangers
}

type host struct {
	name     string
	hash     uint64
	inflight int
	queued   int // in memory, wherever
	aside    [message.Lanes]fifo
	// credit is how many may be in memory while others are shelved: one after
	// its breaker has refused a call, and twice as many with every success, so
	// that a service that has just come back meets no stampede.
	credit int
	ill    bool // its breaker has refused the last call
	// width is how many calls may be under way: one to a host of which nothing is
	// known, twice as many with every success, half with every failure. So one
	// that accepts and never answers costs the others one place and not all that
	// a host may have.
	width int
}

const (
	fullCredit = 2048
	fullWidth  = 1 << 14 // more than any PerHost
)

// learnLocked takes what a call said of its host.
func (h *host) learnLocked(v Verdict) {
	switch v {
	case Success:
		h.width = min(2*h.width, fullWidth)
	case Failure:
		h.width = max(min(h.width, h.inflight)/2, 1)
	}
}

// maxHosts are remembered; it is more than a queue can have messages for.
const maxHosts = 1 << 15

func newOutlet(d *Dispatcher, c message.Channel) *outlet {
	return &outlet{d: d, channel: c, wake: make(chan struct{}, 1), accounts: newIndex[*account](), hosts: newIndex[*host]()}
}

func (o *outlet) configureLocked(c DeliveryConfig) {
	cc := c.Channels[o.channel]
	o.sender, o.workers, o.calls, o.policy, o.reports = cc.Sender, c.Workers, cc.Calls, c.UnknownOutcome, cc.Reports
	if cc.UnknownOutcome != 0 {
		o.policy = cc.UnknownOutcome
	}
	o.pace.set(cc.PerSecond)
	o.stoppedUntil = time.Time{} // an operator may have mended it: try at once
	for _, a := range o.accounts.named {
		a.weight = o.weight(a.name)
		o.enterLocked(a)
	}
	for _, h := range o.hosts.named {
		o.promoteLocked(h)
	}
}

func (o *outlet) weight(name string) int {
	if o.d.cfg.Weight == nil {
		return 1
	}
	return max(o.d.cfg.Weight(name), 1)
}

// openLocked reports whether attempts may be made at all.
func (o *outlet) openLocked(now time.Time) bool {
	return o.sender != nil && !now.Before(o.stoppedUntil)
}

// accountLimit is how much of a queue one account may fill.
func (o *outlet) accountLimit() int { return max(o.d.cfg.QueueLimit/4, 1) }

// roomLocked is how many more messages of the account the queue takes.
func (o *outlet) roomLocked(a *account, p message.Priority) int {
	if o.bytes >= o.d.delivery.QueueBytes {
		return 0
	}
	have := 0
	if a != nil {
		have = a.queued[p]
	}
	return min(o.accountLimit()-have, o.d.cfg.QueueLimit-o.queued[p])
}

func (o *outlet) accountLocked(name string) *account {
	a := o.accounts.named[name]
	if a == nil {
		a = &account{name: name, hash: hashOf(name), weight: o.weight(name), aside: map[*host]int{}}
		o.accounts.add(name, a.hash, a)
	}
	return a
}

func (o *outlet) hostLocked(name string) *host {
	h := o.hosts.named[name]
	if h == nil {
		if len(o.hosts.named) >= maxHosts {
			// Clients choose the hosts, and one that once failed would be remembered
			// for ever. What is forgotten is only how carefully to begin with it
			// again; its breaker knows that, too.
			for _, h := range o.hosts.named {
				if h.queued == 0 {
					o.hosts.remove(h.name, h.hash)
				}
			}
		}
		h = &host{name: name, hash: hashOf(name), credit: fullCredit, width: 1}
		o.hosts.add(name, h.hash, h)
	}
	return h
}

// pushLocked puts a job into the queue.
func (o *outlet) pushLocked(j *job) {
	p := j.rec.ID.Lane()
	j.account, j.host = o.accountLocked(j.rec.Account), o.hostLocked(j.service)
	j.account.jobs[p].push(j)
	j.host.queued++
	o.bytes += len(j.entry.Payload)
	o.queued[p]++
	j.account.queued[p]++
	o.enterLocked(j.account)
}

// enterLocked puts the account where its turn comes, if it has something and
// may have more in flight.
func (o *outlet) enterLocked(a *account) {
	if a.inflight >= o.d.delivery.PerAccount {
		return
	}
	for p := range a.jobs {
		if !a.inRing[p] && a.jobs[p].len() > 0 {
			a.inRing[p] = true
			o.rings[p].items = append(o.rings[p].items, a)
		}
	}
}

// nextLocked returns the next job to attempt, with its places taken, or for how
// long there is none whatever comes; 0: until something changes.
func (o *outlet) nextLocked(now time.Time) (*job, time.Duration) {
	limit := o.workers
	if o.stops > 0 {
		limit = 1 // a probe
	}
	if o.inflight+o.recording >= limit || o.calls > 0 && o.inflight >= o.calls || o.sender == nil {
		return nil, 0
	}
	if wait := o.stoppedUntil.Sub(now); wait > 0 {
		return nil, wait
	}
	if wait := o.pace.wait(now); wait > 0 {
		if o.queued == [message.Lanes]int{} {
			return nil, 0
		}
		return nil, wait
	}
	for again := true; again; {
		again = false
		for p := range message.Priority(message.Lanes) {
			j, freed := o.takeLocked(p)
			if j != nil {
				j.phase, j.calling = picked, true
				o.inflight++
				o.pace.spend(now)
				return j, 0
			}
			again = again || freed // for one of a priority that was looked at before
		}
	}
	return nil, 0
}

// takeLocked returns the next job of a priority. freed: places of a canceled one were
// given to others.
func (o *outlet) takeLocked(p message.Priority) (j *job, freed bool) {
	for j := o.express[p].pop(); j != nil; j = o.express[p].pop() {
		o.unqueuedLocked(j)
		if j.phase == waiting {
			return j, freed
		}
		freed = true
		o.givePlacesLocked(j) // canceled
		o.leftLocked(j)
		o.promoteAllLocked(j)
	}
	r := &o.rings[p]
	for len(r.items) > 0 {
		a := r.current()
		if a.inflight >= o.d.delivery.PerAccount || a.jobs[p].len() == 0 {
			a.inRing[p], a.deficit[p] = false, 0
			r.remove()
			if a.inflight == 0 && len(a.aside) == 0 && a.empty() {
				o.accounts.remove(a.name, a.hash)
			}
			continue
		}
		if a.deficit[p] <= 0 {
			a.deficit[p] = a.weight
		}
		j := a.jobs[p].pop()
		if j.phase != waiting { // canceled
			o.unqueuedLocked(j)
			o.leftLocked(j)
			continue
		}
		if o.fullLocked(j.host) || o.barredLocked(j.host, a) {
			j.host.aside[p].push(j)
			a.aside[j.host]++
			o.noteStrangerLocked(j.host)
			continue
		}
		if a.deficit[p]--; a.deficit[p] <= 0 {
			r.next++
		}
		o.takePlacesLocked(j)
		o.unqueuedLocked(j)
		return j, freed
	}
	return nil, freed
}

// unqueuedLocked takes a job out of the counts of what waits.
func (o *outlet) unqueuedLocked(j *job) {
	p := j.rec.ID.Lane()
	o.queued[p]--
	j.account.queued[p]--
}

// overLocked gives back the places of a job whose call is over, so that the next
// call need not wait for the record of this one.
func (o *outlet) overLocked(j *job) {
	if !j.calling {
		return
	}
	j.calling = false
	o.recording++
	o.inflight--
	o.givePlacesLocked(j)
	o.leftLocked(j)
	o.promoteAllLocked(j)
	o.forgetLocked(j)
	signal(o.wake)
}

// leftLocked takes a job out of the counts.
func (o *outlet) leftLocked(j *job) {
	j.host.queued--
	o.bytes -= len(j.entry.Payload)
}

// forgetLocked drops what has nothing left to remember.
func (o *outlet) forgetLocked(j *job) {
	if a := j.account; a.inflight == 0 && len(a.aside) == 0 && a.empty() {
		o.accounts.remove(a.name, a.hash) // its places in the rings find it empty
	}
	if h := j.host; h.queued == 0 && h.credit == fullCredit && !h.ill {
		o.hosts.remove(h.name, h.hash)
	}
}

func (a *account) empty() bool {
	for p := range a.jobs {
		if a.jobs[p].len() > 0 || a.inRing[p] {
			return false
		}
	}
	return true
}

// emptyLocked takes everything out of the queue.
func (o *outlet) emptyLocked() (all []*job) {
	for p := range message.Priority(message.Lanes) {
		for j := o.express[p].pop(); j != nil; j = o.express[p].pop() {
			o.givePlacesLocked(j)
			all = append(all, j)
		}
	}
	for _, a := range o.accounts.named {
		for p := range a.jobs {
			for j := a.jobs[p].pop(); j != nil; j = a.jobs[p].pop() {
				all = append(all, j)
			}
		}
		clear(a.aside)
		a.queued = [message.Lanes]int{}
	}
	for _, h := range o.hosts.named {
		for p := range h.aside {
			for j := h.aside[p].pop(); j != nil; j = h.aside[p].pop() {
				all = append(all, j)
			}
		}
	}
	kept := all[:0]
	for _, j := range all {
		if o.leftLocked(j); j.phase == waiting {
			j.phase = picked
			kept = append(kept, j)
		}
	}
	o.queued = [message.Lanes]int{}
	clear(o.strangers.waiting)
	return kept
}

// run makes attempts until taking ends, and returns when all are over.
func (o *outlet) run(taking, work context.Context) {
	var attempts sync.WaitGroup
	defer attempts.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for taking.Err() == nil {
		o.d.mu.Lock()
		j, wait := o.nextLocked(time.Now())
		sender, policy := o.sender, o.policy
		o.d.mu.Unlock()
		if j != nil {
			attempts.Go(func() {
				o.attempt(work, j, sender, policy)
				o.d.mu.Lock()
				o.overLocked(j)
				o.recording--
				o.d.mu.Unlock()
				signal(o.wake)
				signal(o.d.fetch)
			})
			continue
		}
		if wait <= 0 {
			wait = time.Hour
		}
		timer.Reset(wait)
		select {
		case <-taking.Done():
		case <-o.wake:
		case <-timer.C:
		}
	}
}
