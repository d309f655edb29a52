package limiter

import "time"

// A plan in shadow refuses nothing and keeps nobody waiting; what it would refuse
// is counted, each message once. Whether there is a token for a message is often
// not known when it comes: then the message goes, the account owes a token, and
// the group's next answer says whether it would have had one.

// enterShadow lets a request in, and says what a plan that is enforced would have
// said, as far as the group's last answer tells; e is locked.
func (s *Spender) enterShadow(e *entry, now time.Duration) (would Reason) {
	would = s.cutOff().Reason
	e.expireLocked(now)
	if !e.roomLocked() && would == Allowed {
		if e.noSlotsUntil > 0 || e.slots >= e.limits.Concurrent {
			would = Concurrent
		}
		if now >= e.noSlotsUntil {
			s.enqueueLocked(e)
		}
	}
	e.enterLocked(now)
	return would
}

// takeShadow takes what tokens there are for n messages, all of which go. over is
// how many of them are known to be over a limit.
func (s *Spender) takeShadow(p *Pass, n int64, now time.Duration) (got, over int64, why Reason) {
	e := p.entry
	if p.would != Allowed {
		return 0, n, p.would // and what is refused uses up nothing
	}
	got = e.takeLocked(n, now)
	if got < n {
		over = e.oweLocked(n-got, now)
		s.enqueueLocked(e)
	}
	if over > 0 {
		why = e.reason
	}
	return got, over, why
}

// oweLocked lets n messages go for which the node holds no tokens. over: so many
// of them are over a limit, by an answer that still holds.
func (e *entry) oweLocked(n int64, now time.Duration) (over int64) {
	if e.reason != Allowed && now < e.reasonUntil {
		return n
	}
	e.owed += n
	return 0
}

// payLocked pays with what an answer has brought. over: so much of what was owed
// never will be, for it was over a limit.
func (e *entry) payLocked() (over int64) {
	paid := min(e.owed, e.left)
	e.owed -= paid
	e.left -= paid
	e.spendLocked(paid)
	if e.reason != Allowed {
		over, e.owed = e.owed, 0
	}
	return over
}
