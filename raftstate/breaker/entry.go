package breaker

import "time"

// own is what a node holds of a breaker by itself, beside the group's view of
// the same generation.
type own uint8

const (
	ownNone   own = iota // as the group says
	ownOpen              // this node has met the threshold, and the group does not know yet
	ownClosed            // this node's own trial got through, and the group does not know yet
)

// entry is one breaker on this node. The Watch's lock guards it.
type entry struct {
	name   string
	parent *entry // "webhook" of "webhook:HOST:PORT"; nil: none
	used   time.Time

	// The group's view, its stamps turned into this node's time.
	view       View
	since      time.Time
	retryAt    time.Time
	probeUntil time.Time

	// What this node has seen in the view's generation.
	failures int    // in a row
	reason   string // of the last of them
	okAt     time.Time
	okTold   time.Time // the last success that the group was told of
	own      own
	ownRetry time.Time
	factor   int
	// alone: the group has heard that this node has the breaker open, and has it
	// closed still. It has too many services, say, or its threshold is another now.
	alone bool

	// The probe, if this node makes it.
	trial  uint64 // counts them, so that the end of one is not taken for another's
	trying bool
	free   time.Time // since when the permit has lain unused; zero: it does not
	ended  Probe     // and the group has not been told, or has not answered

	wanted bool // somebody was held back
	asked  time.Time
	// first is when this process first asked for a permit in this generation. The
	// group granted it no earlier, so the permit is good from then at least; when
	// the grant was heard of says nothing, for a node may hear of it late.
	first time.Time
	told  time.Time // last report of this generation
	dirty bool
}

// phase is how calls of this node find the breaker.
func (e *entry) phase() Phase {
	switch {
	case e.view.Forced == ForcedOpen:
		return Open
	case e.view.Forced == ForcedClosed:
		return Closed
	case e.own == ownClosed:
		return Closed
	case e.own == ownOpen && e.view.Phase == Closed:
		if e.trying {
			return HalfOpen
		}
		return Open
	}
	return e.view.Phase
}

// lastStart is until when the group's permit covers a whole call. Zero: never,
// for this process has not asked for it.
func (e *entry) lastStart(s Settings) time.Time {
	if e.first.IsZero() {
		return time.Time{}
	}
	end := e.first.Add(time.Duration(s.probeTime()) * time.Millisecond)
	if e.probeUntil.Before(end) {
		end = e.probeUntil
	}
	return end.Add(-s.Timeout - probeMargin)
}

// granted reports whether this node has the group's permit.
func (e *entry) granted(node uint16) bool {
	return e.view.Phase == HalfOpen && e.view.Probe == node && e.own == ownNone
}

func (e *entry) beginTrial() {
	e.trial++
	e.trying, e.free, e.wanted, e.ended = true, time.Time{}, false, ""
}

// trip opens the breaker by this node's own count.
func (e *entry) trip(now time.Time, recovery time.Duration) {
	e.own, e.factor, e.ownRetry, e.dirty = ownOpen, 1, now.Add(recovery), true
}

// unchanged is for when the group has heard what this node decided, and has the
// breaker closed as before.
func (e *entry) unchanged() {
	switch e.own {
	case ownClosed: // both agree
		e.own, e.ended, e.factor, e.alone = ownNone, "", 0, false
	case ownOpen:
		e.alone = true
	}
}

// idle reports whether forgetting the entry changes nothing.
func (e *entry) idle() bool {
	return e.phase() == Closed && e.own == ownNone && e.view.Forced == "" && e.failures == 0 && !e.dirty && len(e.view.OpenOn) == 0
}

// adopt takes over the group's view. What was seen under another generation is
// void.
func (e *entry) adopt(v View, now time.Time, at uint64, node uint16) {
	news := v.Generation != e.view.Generation || v.Forced != e.view.Forced
	e.view = v
	e.since, e.retryAt, e.probeUntil = when(now, at, v.Since), when(now, at, v.RetryAt), when(now, at, v.ProbeUntil)
	if !news {
		return
	}
	e.failures, e.own, e.factor, e.alone = 0, ownNone, 0, false
	e.trying, e.ended, e.free, e.dirty, e.told, e.asked = false, "", time.Time{}, false, time.Time{}, time.Time{}
	if !e.granted(node) {
		e.first = time.Time{}
	}
	switch {
	case e.granted(node):
		e.free = now
	case v.Phase == Closed:
		e.wanted = false
	}
}

// when turns a stamp into this node's time, given that it is at now. Far off is
// far enough.
func when(now time.Time, at, stamp uint64) time.Time {
	if stamp == 0 {
		return time.Time{}
	}
	const far = uint64(1000 * time.Hour / time.Millisecond)
	if stamp >= at {
		return now.Add(time.Duration(min(stamp-at, far)) * time.Millisecond)
	}
	return now.Add(-time.Duration(min(at-stamp, far)) * time.Millisecond)
}
