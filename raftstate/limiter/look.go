package limiter

import (
	"slices"
	"sync"
	"time"
)

// A node looks at its accounts now and then, for what no request brings about:
// what is spent is to be reported, a lease renewed, what is idle given back.
const (
	lookEvery = 250 * time.Millisecond
	looks     = 4               // until every shard has had its turn: once a second
	calmLook  = 5 * time.Second // until an account that is calm is looked at again
)

// shard is a part of the accounts that a node serves.
type shard struct {
	mu      sync.RWMutex // guards all below
	entries map[string]*entry
	// visits has one for each of entries. It stands apart from them: of ten thousand
	// most are calm, and to pass those over must not touch them. Run's goroutine
	// alone takes any out.
	visits []visit
}

// visit says when an entry is looked at next.
type visit struct {
	entry *entry
	at    time.Duration
}

// due is a visit that is made now, and what comes of it.
type due struct {
	visit
	place  int // in the shard's
	forget bool
}

// known is the account's entry; nil: there is none.
func (sh *shard) known(account string) *entry {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.entries[account]
}

// add makes an entry for the account; mu is held.
func (sh *shard) add(account string, l Limits) *entry {
	// Nothing is known yet: all of the plan is there, for all that this node can
	// tell.
	e := &entry{account: account, limits: l, remaining: l.Rate, level: l.Burst}
	sh.entries[account] = e
	sh.visits = append(sh.visits, visit{entry: e})
	return e
}

// look looks at one in looks of the shards: what of them is to be reported travels
// together.
func (s *Spender) look(now time.Duration) {
	s.looked = (s.looked + 1) % looks
	for i := s.looked; i < shardCount; i += looks {
		s.lookAt(&s.shards[i], now)
	}
}

// lookAt makes the visits of a shard that are due.
func (s *Spender) lookAt(sh *shard, now time.Duration) {
	s.due = s.due[:0]
	sh.mu.RLock()
	for i, v := range sh.visits {
		if v.at <= now {
			s.due = append(s.due, due{visit: v, place: i})
		}
	}
	sh.mu.RUnlock()
	if len(s.due) == 0 {
		return
	}
	for i := range s.due {
		d := &s.due[i]
		d.at = now
		e := d.entry
		e.mu.Lock()
		var exchange bool
		if exchange, d.forget = e.lookLocked(now); exchange {
			s.enqueueLocked(e)
		}
		if !exchange && e.calmLocked() {
			d.at += calmLook
		}
		e.gone = e.gone || d.forget
		e.mu.Unlock()
	}
	sh.settle(s.due)
	clear(s.due) // what is forgotten is let go
}

// settle writes down when the visited entries are looked at next, and drops those
// that are forgotten. It goes from the last to the first: the place of one that is
// dropped is taken by the last of all.
func (sh *shard) settle(visited []due) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, d := range slices.Backward(visited) {
		if !d.forget {
			sh.visits[d.place].at = d.at
			continue
		}
		delete(sh.entries, d.entry.account)
		last := len(sh.visits) - 1
		sh.visits[d.place] = sh.visits[last]
		sh.visits[last] = visit{}
		sh.visits = sh.visits[:last]
	}
}

// each runs f with every entry, locked; f says whether it needs an exchange.
func (s *Spender) each(f func(*entry) (exchange bool)) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.RLock()
		visits := slices.Clone(sh.visits)
		sh.mu.RUnlock()
		for _, v := range visits {
			v.entry.mu.Lock()
			if f(v.entry) {
				s.enqueueLocked(v.entry)
			}
			v.entry.mu.Unlock()
		}
	}
}
