package limiter

import "time"

// Quota is what an account has left of its plan, as far as this node knows.
type Quota struct {
	Limits    Limits
	Rate      int64         // messages left in the window
	Burst     int64         // messages that may come at once
	InFlight  int64         // requests on this node
	Elsewhere int64         // that other nodes may have in flight
	Stock     int64         // of Rate and Burst: what this node holds
	Reset     time.Duration // until something of the window comes back; 0: all is there
	Refill    time.Duration // in which an empty bucket fills
}

// Quota returns it for the account of the request.
func (p *Pass) Quota(window time.Duration) Quota {
	p.entry.mu.Lock()
	defer p.entry.mu.Unlock()
	return p.entry.quotaLocked(p.spender.cfg.Now(), window)
}

// Quota returns it for an account that may have no request in flight.
func (s *Spender) Quota(account string, l Limits, window time.Duration) Quota {
	e := s.lookup(account, l)
	defer e.mu.Unlock()
	return e.quotaLocked(s.cfg.Now(), window)
}

func (e *entry) quotaLocked(now, window time.Duration) Quota {
	l := e.limits
	refilled := int64(float64(now-e.answered) / float64(window) * float64(l.Rate))
	q := Quota{Limits: l, InFlight: e.inFlight, Elsewhere: e.elsewhere, Stock: e.left,
		Rate:   max(0, min(l.Rate, e.remaining+e.left)),
		Burst:  max(0, min(l.Burst, e.level+refilled+e.left)),
		Refill: time.Duration(float64(window) / float64(l.Rate) * float64(l.Burst)),
	}
	if e.left == 0 && now < e.retryAt { // a refusal stands, whatever should have come in since
		switch e.reason {
		case Rate:
			q.Rate = 0
		case Burst:
			q.Burst = 0
		}
	}
	switch {
	case e.resetAt > now:
		q.Reset = e.resetAt - now
	case q.Rate < l.Rate:
		q.Reset = window
	}
	return q
}
