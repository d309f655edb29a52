package limiter

import "slices"

// ledger is what counts against one account. Times are cluster time in ms.
type ledger struct {
	spent []slot // ascending by end
	total int64  // of spent

	// level is the bucket's, in parts of a token: one is window parts, so that
	// Rate of them flow in each ms. With what nodes hold it is at most Burst.
	level  int64
	filled int64  // until when level has been filled
	limits Limits // under which; what flows in is the lesser of old and new

	holdings []holding // ascending by node

	// forget is the time at which nothing of this will count any more. It only
	// grows, so that every node forgets at the same command.
	forget int64
}

// slot is what was spent within one sub-window that ended at end.
type slot struct {
	end int64
	n   int64
}

// holding is what one node has been lent.
type holding struct {
	node   uint16
	tokens int64
	slots  int64
	until  int64 // the node stops spending before
}

// active reports whether the node may still spend it.
func (h *holding) active(now int64) bool { return h.until > now }

// advance brings the ledger to now: what has aged out goes, and the bucket fills.
func (a *ledger) advance(now, window int64, l Limits) {
	a.fill(now, window, l)
	held := hold(window)
	n := 0
	for n < len(a.spent) && a.spent[n].end+held <= now {
		a.total -= a.spent[n].n
		n++
	}
	a.spent = slices.Delete(a.spent, 0, n)
	a.holdings = slices.DeleteFunc(a.holdings, func(h holding) bool {
		return h.until+max(held, slotGrace.Milliseconds()) <= now
	})
}

// fill lets the bucket fill until now. The room for it grows whenever a holding
// ends, so it goes from one end to the next.
func (a *ledger) fill(now, window int64, l Limits) {
	rate, burst := min(a.limits.Rate, l.Rate), min(a.limits.Burst, l.Burst)
	for a.filled < now {
		next := now
		for i := range a.holdings {
			if u := a.holdings[i].until; u > a.filled && u < next {
				next = u
			}
		}
		room := (burst-a.outstanding(a.filled))*window - a.level
		if passed := next - a.filled; room > 0 {
			if passed > room/rate {
				a.level += room
			} else {
				a.level += passed * rate
			}
		}
		a.filled = next
	}
	a.limits = l
	a.clamp(now, window, l)
}

// clamp keeps the bucket and what is out of it at or under Burst.
func (a *ledger) clamp(now, window int64, l Limits) {
	a.level = max(0, min(a.level, (l.Burst-a.outstanding(now))*window))
}

// outstanding is what nodes may still spend.
func (a *ledger) outstanding(now int64) (n int64) {
	for i := range a.holdings {
		if a.holdings[i].active(now) {
			n += a.holdings[i].tokens
		}
	}
	return n
}

// counted is what counts against Rate.
func (a *ledger) counted(now, window int64) int64 {
	n := a.total
	for i := range a.holdings {
		if a.holdings[i].until+hold(window) > now {
			n += a.holdings[i].tokens
		}
	}
	return n
}

// slotsBeside is the slots of all nodes but one.
func (a *ledger) slotsBeside(node uint16) (n int64) {
	for i := range a.holdings {
		if a.holdings[i].node != node {
			n += a.holdings[i].slots
		}
	}
	return n
}

// spend counts n as spent by now.
func (a *ledger) spend(n, now, window int64) {
	if n == 0 {
		return
	}
	part := max(1, window/subWindows)
	end := (now + part - 1) / part * part
	a.total += n
	if k := len(a.spent) - 1; k >= 0 && a.spent[k].end >= end {
		a.spent[k].n += n
		return
	}
	a.spent = append(a.spent, slot{end: end, n: n})
}

// holding returns the place of a node's.
func (a *ledger) holding(node uint16) (i int, found bool) {
	for i := range a.holdings {
		if a.holdings[i].node >= node {
			return i, a.holdings[i].node == node
		}
	}
	return len(a.holdings), false
}

// settle takes in a node's report: what it spent is spent, and what it neither
// spent nor kept is free again.
func (a *ledger) settle(h *holding, e *Entry, now, window int64, l Limits) {
	a.spend(e.Spent, now, window)
	before := h.tokens - e.Spent
	h.tokens = max(0, min(e.Held, before))
	if back := before - h.tokens; back > 0 && h.active(now) {
		a.level += back * window
	}
	h.slots = min(h.slots, max(e.Slots, e.InFlight))
	if !h.active(now) { // what was lent is over; what is on its way to disk is not
		h.tokens = min(e.Busy, h.tokens)
	}
	a.clamp(now, window, l)
}

// release ends a holding: its process is dead. Slots are free with it.
func (a *ledger) release(node uint16, now, window int64) {
	i, found := a.holding(node)
	if !found {
		return
	}
	a.spend(a.holdings[i].tokens, now, window)
	a.holdings = slices.Delete(a.holdings, i, i+1)
	a.keepUntil(now, window)
}

// waitRate is how long until counted leaves room for one, if nothing is spent
// meanwhile.
func (a *ledger) waitRate(now, window int64, l Limits) int64 {
	over := a.counted(now, window) - l.Rate + 1
	if over <= 0 {
		return 0
	}
	for _, s := range a.spent {
		if over -= s.n; over <= 0 {
			return s.end + hold(window) - now
		}
	}
	// The rest is held: it will be spent or given back soon.
	return hold(window) + window/subWindows + 2000
}

// waitBurst is how long until the bucket has a token.
func (a *ledger) waitBurst(now, window int64, l Limits) int64 {
	if a.level >= window {
		return 0
	}
	wait := (window-a.level)/l.Rate + 1
	if l.Burst-a.outstanding(now) < 1 {
		wait += 1000 // others hold it all, and will be asked for it
	}
	return wait
}

// reset is when something of the window comes back.
func (a *ledger) reset(now, window int64) int64 {
	if len(a.spent) == 0 {
		if a.counted(now, window) == 0 {
			return 0
		}
		return hold(window)
	}
	return max(1, a.spent[0].end+hold(window)-now)
}

// keepUntil works out when nothing counts any more.
func (a *ledger) keepUntil(now, window int64) {
	until, full := now, now
	if k := len(a.spent) - 1; k >= 0 {
		until = max(until, a.spent[k].end+hold(window))
	}
	for i := range a.holdings {
		full = max(full, a.holdings[i].until)
		until = max(until, a.holdings[i].until+max(hold(window), slotGrace.Milliseconds()))
	}
	until = max(until, full+(a.limits.Burst*window-a.level)/a.limits.Rate+1)
	a.forget = max(a.forget, until)
}
