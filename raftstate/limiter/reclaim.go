package limiter

import "time"

// missed is what others lacked at that time.
type missed struct {
	entry *entry
	at    time.Duration
}

// Reclaim has the node give back what it holds of these accounts and does not use:
// others lack it. What was in use a moment ago goes back as soon as it has not been
// for spareAfter: who was refused for want of it is told to come again in a second,
// and must then be let in.
func (s *Spender) Reclaim(accounts []string) {
	now := s.cfg.Now()
	for _, account := range accounts {
		e := s.shardOf(account).known(account)
		if e == nil {
			continue
		}
		e.mu.Lock()
		s.reclaimLocked(e, now)
		e.mu.Unlock()
	}
}

// reclaimLocked gives back what is spare of e, now or later; e is locked.
func (s *Spender) reclaimLocked(e *entry, now time.Duration) {
	switch {
	case e.missed || !e.spareLocked():
	case now-e.used >= spareAfter:
		e.give = true
		s.enqueueLocked(e)
	default:
		e.missed = true
		s.queueMu.Lock()
		s.missed = append(s.missed, missed{e, now})
		s.queueMu.Unlock()
	}
}

// giveMissed gives back what has become spare of what others lack. What was used
// again stays here: they say so again when they still lack it.
func (s *Spender) giveMissed(now time.Duration) {
	s.queueMu.Lock()
	list := s.missed
	s.missed = nil
	s.queueMu.Unlock()
	for _, m := range list {
		e := m.entry
		e.mu.Lock()
		if e.missed = false; e.used <= m.at {
			s.reclaimLocked(e, now)
		}
		e.mu.Unlock()
	}
}
