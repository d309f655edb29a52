package limiter

import (
	"math"
	"sync"
	"time"
)

// Times of the node's side.
const (
	foresight   = 250 * time.Millisecond // so much demand is asked for ahead
	idleAfter   = time.Minute            // an account without requests gives back what it holds
	spareAfter  = 500 * time.Millisecond // and when others lack it, already then
	lazyReport  = 30 * time.Second       // what is spent is reported so long after the first of it, at the latest
	eagerReport = 500 * time.Millisecond // and when more than half of the plan is used
	refusalTime = time.Second            // how long a refusal is repeated without asking again
	slotRefusal = 100 * time.Millisecond
)

// entry is what a node knows of one account it serves.
type entry struct {
	mu      sync.Mutex // guards all below
	account string
	limits  Limits

	left  int64         // tokens to spend
	busy  int64         // taken by messages that may yet be refused by others
	spent int64         // and not reported
	since time.Duration // when the first of spent was taken
	until time.Duration // left may be spent before

	slots    int64 // a request may enter while fewer are in flight
	inFlight int64
	peak     int64 // of inFlight, of late
	asking   int64 // slots, in the request under way
	lent     int64 // slots that the group may count as this node's
	under    bool  // a request to the group is under way
	void     bool  // and it is from before limits were lowered

	stock int64   // left after the last grant: a third of it is the signal to ask
	taken int64   // since the last request
	rate  float64 // tokens a second, of late
	asked time.Duration
	used  time.Duration

	want      int64 // tokens that calls wait for
	wantSlots int64
	owed      int64         // by messages of a plan in shadow: whether they had tokens the next answer tells
	wake      chan struct{} // closed at the next answer; nil: nobody waits

	reason       Reason        // of the last answer that granted too little
	reasonUntil  time.Duration // for which it is taken as read
	retryAt      time.Duration
	noSlotsUntil time.Duration

	remaining, level, elsewhere int64         // for anybody, at the last answer
	resetAt                     time.Duration // 0: nothing is used
	answered                    time.Duration

	queued bool // in the list of those that need an exchange
	give   bool // to give back everything that is not in use
	missed bool // in the list of those that others lack
	gone   bool // forgotten; look it up again
}

// change takes in the limits of the account's plan. Lowered ones void what is
// held, and what is on its way: it goes back, and comes again within the new ones.
func (e *entry) changeLocked(l Limits) (lowered bool) {
	lowered = l.below(e.limits)
	if lowered {
		e.left, e.stock = 0, 0
		e.slots = min(e.slots, e.inFlight)
		e.void = e.under
	}
	if l != e.limits {
		e.reason, e.reasonUntil, e.noSlotsUntil = Allowed, 0, 0
	}
	e.limits = l
	return lowered
}

// expireLocked drops what the node may not spend any more.
func (e *entry) expireLocked(now time.Duration) {
	if now >= e.until && (e.left > 0 || e.slots > e.inFlight) {
		e.left, e.stock = 0, 0
		e.slots = e.inFlight
	}
}

// roomLocked reports whether a request may enter.
func (e *entry) roomLocked() bool { return e.inFlight < min(e.slots, e.limits.Concurrent) }

// fullLocked refuses a request for which there is no slot. Slots come back within
// a second; where the last answer had no token for it either, that takes longer.
func (e *entry) fullLocked(now time.Duration) Verdict {
	v := Verdict{Reason: Concurrent, Retry: time.Second}
	if e.reason != Allowed && e.left == 0 {
		v.Retry = max(v.Retry, e.retryAt-now)
	}
	return v
}

// takeLocked takes up to n tokens.
func (e *entry) takeLocked(n int64, now time.Duration) int64 {
	e.expireLocked(now)
	got := min(n, e.left)
	e.left -= got
	e.busy += got
	e.taken += n
	e.used = now
	return got
}

// spendLocked counts n tokens as spent, and not reported yet.
func (e *entry) spendLocked(n int64) {
	if e.spent == 0 {
		e.since = e.used
	}
	e.spent += n
}

// lowLocked reports whether it is time to ask, or to report.
func (e *entry) lowLocked() bool {
	parts := int64(calmReportParts)
	if e.remaining < e.limits.Rate/2 {
		parts = reportParts
	}
	return e.left*3 <= e.stock || e.spent >= max(1, e.limits.Rate/parts)
}

// prepareLocked makes what goes to the group. What it gives up is gone before
// the group learns of it.
func (e *entry) prepareLocked(now time.Duration) Entry {
	e.expireLocked(now)
	passed := max(now-e.asked, 10*time.Millisecond)
	rate := float64(e.taken) / passed.Seconds()
	e.rate = max(rate, (e.rate+rate)/2)
	e.asked, e.taken, e.queued = now, 0, false

	// Who waits for a slot will want a token, too.
	out := Entry{Account: e.account, Spent: e.spent, Busy: e.busy, Want: e.want + e.wantSlots + e.owed, InFlight: e.inFlight}
	e.spent = 0
	if e.give && out.Want == 0 {
		e.left, e.stock, e.slots = 0, 0, min(e.slots, e.inFlight)
		out.Slots = e.slots
	} else {
		out.Ahead = max(1, int64(math.Ceil(e.rate*foresight.Seconds())))
		out.Slots = max(e.inFlight+e.wantSlots, e.peak)
		out.Slots = min(out.Slots+max(1, e.peak/4), max(e.limits.Concurrent, e.inFlight))
		e.slots = min(e.slots, out.Slots)
	}
	e.give, e.under, e.void = false, true, false
	e.asking = out.Slots
	out.Held = e.left + e.busy
	return out
}

// acceptLocked takes in the answer to what was prepared and sent first at sent.
// over is how many messages that went in shadow it finds over a limit.
func (e *entry) acceptLocked(g *Grant, sent, now time.Duration) (over int64) {
	e.until = sent + nodeLease
	e.left += g.Tokens
	e.slots, e.lent = g.Slots, g.Slots
	if g.Slots < e.asking { // it may count for more until that many are in flight no more
		e.lent = e.asking
	}
	if e.void {
		e.left, e.slots = 0, min(e.slots, e.inFlight)
	}
	e.under, e.void = false, false
	e.reason = g.Reason
	over = e.payLocked()
	e.stock = e.left
	if g.Reason != Allowed {
		wait := time.Duration(g.Wait) * time.Millisecond
		wait += wait/500 + 5*time.Millisecond // clocks run apart
		e.retryAt = now + wait
		e.reasonUntil = now + min(wait, refusalTime)
	}
	e.noSlotsUntil = 0
	if g.Slots < e.asking { // that is all there is
		e.noSlotsUntil = now + slotRefusal
	}
	e.remaining, e.level, e.elsewhere, e.answered = g.Remaining, g.Level, g.Elsewhere, now
	e.resetAt = 0
	if g.Reset > 0 {
		e.resetAt = now + time.Duration(g.Reset)*time.Millisecond
	}
	e.wakeLocked()
	e.expireLocked(now)
	return over
}

func (e *entry) wakeLocked() {
	if e.wake != nil {
		close(e.wake)
		e.wake = nil
	}
}

func (e *entry) waitLocked() <-chan struct{} {
	if e.wake == nil {
		e.wake = make(chan struct{})
	}
	return e.wake
}

// resetLocked forgets what an earlier session held.
func (e *entry) resetLocked() {
	e.left, e.stock, e.spent = 0, 0, 0
	e.slots, e.lent, e.until = 0, 0, 0
	e.under, e.void = false, false
}

// spareLocked reports whether the node holds what no call of its own waits for.
func (e *entry) spareLocked() bool {
	return e.want == 0 && e.wantSlots == 0 && (e.left > 0 || e.lent > e.inFlight)
}

// idleLocked reports whether nothing uses the account at this moment.
func (e *entry) idleLocked() bool {
	return e.busy == 0 && e.inFlight == 0 && e.want == 0 && e.wantSlots == 0 && e.owed == 0
}

// calmLocked reports whether the entry can do without a look for a while: it is
// far from its limit, and holds no more than stands ready for any account.
func (e *entry) calmLocked() bool {
	return e.remaining >= e.limits.Rate/2 && e.peak <= 1 && e.left <= 2*(e.limits.Rate/floorParts)+1
}

// lookLocked is the look at an entry: whether it needs an exchange, and whether it
// can be forgotten.
func (e *entry) lookLocked(now time.Duration) (exchange, forget bool) {
	e.expireLocked(now)
	e.peak = max(e.inFlight, e.peak-max(1, e.peak/2))
	if e.taken == 0 {
		e.rate /= 2
	}
	holds := e.left > 0 || e.spent > 0 || e.lent > 0
	if e.idleLocked() && now-e.used >= idleAfter {
		e.give = holds
		return holds, !holds && !e.queued && !e.under
	}
	report := lazyReport
	if e.remaining < e.limits.Rate/2 {
		report = eagerReport
	}
	if keep := max(int64(e.rate), e.limits.Rate/floorParts); e.left > 2*keep+1 && now-e.asked > spareAfter {
		e.left = keep
		e.stock = keep
		return true, false
	}
	return e.spent > 0 && now-e.since >= report || (holds || e.inFlight > 0) && e.until-now < nodeLease/2, false
}
