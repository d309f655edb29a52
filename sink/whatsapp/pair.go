package whatsapp

import (
	"sync"
	"time"
)

// Meta's pace for one recipient: a message in 6 seconds, and a burst of 45 that
// is lent and must be waited off.
const (
	pairEvery = 6 * time.Second
	pairBurst = 45
	// After a refusal the recipient waits 4^n seconds, for the nth in a row.
	maxPairWait = 4096 * time.Second
	// maxPairs bounds the recipients that are remembered. A stranger beyond it
	// goes unpaced: Meta's own refusal then slows it.
	maxPairs = 200_000
)

// pairs keep the pace of each recipient by a bucket's fill time (GCRA): full is
// when the bucket is full again, so a recipient of the past needs no memory.
type pairs struct {
	mu    sync.Mutex
	pairs map[string]pair
	swept time.Time
}

type pair struct {
	full    time.Time // when the burst is whole again
	blocked time.Time // refused by Meta until then
	refused int       // in a row
}

// take asks for one message to a recipient; a wait over zero: not yet.
func (p *pairs) take(to string, now time.Time) (wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(now)
	have, known := p.pairs[to]
	if wait := have.blocked.Sub(now); wait > 0 {
		return wait
	}
	full := now
	if have.full.After(now) {
		full = have.full
	}
	full = full.Add(pairEvery)
	if wait := full.Sub(now) - pairBurst*pairEvery; wait > 0 {
		return wait
	}
	if have.full = full; known || len(p.pairs) < maxPairs {
		p.set(to, have)
	}
	return 0
}

// refused notes that Meta found the recipient's pace too high, and returns how
// long it waits now.
func (p *pairs) refused(to string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	have := p.pairs[to]
	wait := min(time.Second<<(2*min(have.refused, 6)), maxPairWait)
	have.refused++
	have.blocked = now.Add(wait)
	if have.full.Before(have.blocked) {
		have.full = have.blocked
	}
	p.set(to, have)
	return wait
}

// sent notes that a message went through.
func (p *pairs) sent(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := p.pairs[to]; ok && have.refused > 0 {
		have.refused = 0
		p.pairs[to] = have
	}
}

func (p *pairs) set(to string, have pair) {
	if p.pairs == nil {
		p.pairs = map[string]pair{}
	}
	p.pairs[to] = have
}

// sweep forgets, once in a minute, whoever's burst is whole. Who was refused is
// remembered for an hour longer.
func (p *pairs) sweep(now time.Time) {
	if now.Sub(p.swept) < time.Minute {
		return
	}
	p.swept = now
	for to, have := range p.pairs {
		if now.After(have.full) && (have.refused == 0 || now.Sub(have.full) > time.Hour) {
			delete(p.pairs, to)
		}
	}
}
