package limiter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// Group carries requests to the replicated state and brings the answers. An
// error means that it is not known whether the request was carried out.
type Group interface {
	Exchange(ctx context.Context, q *Request) (*Answer, error)
}

// Config says how to make a Spender. Node and Group must be set.
type Config struct {
	Node  uint16
	Group Group

	// Refuse: without the group nothing is admitted, whatever the node holds.
	Refuse bool
	// Connected is asked in that case; nil: by whether exchanges fail.
	Connected func() bool

	// WaitLimit bounds how long a call waits for the group, default 3 s: an
	// election should be over by then. A group that has not answered for as
	// long is not waited for at all.
	WaitLimit time.Duration

	// Now is the time since any moment, by a clock that is never set; nil: the
	// process's.
	Now func() time.Duration
}

// DefaultWaitLimit is Config.WaitLimit's.
const DefaultWaitLimit = 3 * time.Second

const (
	shardCount      = 64
	entriesARequest = 8192
	exchangeTimeout = time.Second // a leader that is gone and does not say so is not waited for longer
	retryPause      = 50 * time.Millisecond
)

// Spender is the node's side of the limits: it admits requests and messages from
// what the group has lent this node. It is safe for concurrent use; Run must be
// running.
type Spender struct {
	cfg    Config
	seed   maphash.Seed
	shards [shardCount]shard

	queueMu sync.Mutex // guards queue and missed; taken with an entry's lock held
	queue   []*entry
	missed  []missed      // what others lack, and was in use here when they said so
	wake    chan struct{} // capacity 1: something is queued
	hurry   chan struct{} // capacity 1: and somebody waits for it

	session uint64
	seq     uint64
	nonce   uint64
	looked  int   // the shards whose turn it was
	due     []due // of the look under way

	refuse  atomic.Bool  // Config.Refuse, or what SetRefuse said since
	failing atomic.Int64 // since when exchanges fail, as Now has it, plus 1; 0: they don't
	stats   stats
}

// NewSpender makes a Spender; nonce is a random number, another for each process.
func NewSpender(cfg Config, nonce uint64) (*Spender, error) {
	if cfg.Node == 0 || cfg.Group == nil {
		return nil, errors.New("configure limiter: node and group must be set")
	}
	if cfg.WaitLimit < 0 {
		return nil, fmt.Errorf("configure limiter: wait limit must not be negative, got %s", cfg.WaitLimit)
	}
	if cfg.WaitLimit == 0 {
		cfg.WaitLimit = DefaultWaitLimit
	}
	if cfg.Now == nil {
		start := time.Now()
		cfg.Now = func() time.Duration { return time.Since(start) }
	}
	s := &Spender{cfg: cfg, seed: maphash.MakeSeed(), wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), nonce: nonce}
	s.refuse.Store(cfg.Refuse)
	for i := range s.shards {
		s.shards[i].entries = map[string]*entry{}
	}
	return s, nil
}

// SetRefuse changes Config.Refuse while the Spender runs.
func (s *Spender) SetRefuse(on bool) { s.refuse.Store(on) }

// Refuses reports whether Config.Refuse is in force.
func (s *Spender) Refuses() bool { return s.refuse.Load() }

// Verdict says whether something was admitted, and if not, why.
type Verdict struct {
	Reason Reason
	// Retry is after how long the same would be admitted, if the account does
	// nothing else; 0 with Allowed.
	Retry time.Duration
	// Shadow: the plan only reports; what is over the limit is to be admitted.
	Shadow bool
}

// Pass is a request in flight that was admitted. Leave must be called.
type Pass struct {
	spender *Spender
	entry   *entry
	shadow  bool
	would   Reason // of a request in shadow: what kept it out, if the plan were enforced
}

func (s *Spender) shardOf(account string) *shard {
	return &s.shards[maphash.String(s.seed, account)%shardCount]
}

// lookup returns the account's entry, locked.
func (s *Spender) lookup(account string, l Limits) *entry {
	sh := s.shardOf(account)
	for {
		e := sh.known(account)
		if e == nil {
			sh.mu.Lock()
			if e = sh.entries[account]; e == nil {
				e = sh.add(account, l)
			}
			sh.mu.Unlock()
		}
		e.mu.Lock()
		if !e.gone {
			return e
		}
		e.mu.Unlock()
	}
}

// Enter admits a request of the account: it takes a slot. It waits for the group
// only if this node holds none. The Pass is there whatever the verdict, to ask
// for the Quota; it must be left unless the verdict is a refusal.
func (s *Spender) Enter(ctx context.Context, account string, l Limits) (Pass, Verdict) {
	now := s.cfg.Now()
	e := s.lookup(account, l)
	defer e.mu.Unlock()
	if l != e.limits && e.changeLocked(l) {
		s.enqueueLocked(e)
	}
	p := Pass{spender: s, entry: e, shadow: l.Shadow}
	if p.shadow {
		p.would = s.enterShadow(e, now)
		return p, Verdict{Reason: p.would, Retry: time.Second, Shadow: p.would != Allowed}
	}
	v := s.cutOff()
	if v.Reason == Allowed {
		v = s.enterOrWait(ctx, e, now)
	}
	s.stats.refused(v.Reason)
	return p, v
}

// enterOrWait takes a slot; e is locked, also on return.
func (s *Spender) enterOrWait(ctx context.Context, e *entry, now time.Duration) (v Verdict) {
	e.expireLocked(now)
	if !e.roomLocked() {
		v = s.awaitSlot(ctx, e, now)
	}
	if v.Reason == Allowed {
		e.enterLocked(now)
	}
	return v
}

func (e *entry) enterLocked(now time.Duration) {
	e.inFlight++
	e.peak = max(e.peak, e.inFlight)
	e.used = now
}

// cutOff refuses where the configuration wants nothing admitted without a group.
func (s *Spender) cutOff() Verdict {
	if !s.refuse.Load() {
		return Verdict{}
	}
	connected := s.failing.Load() == 0
	if s.cfg.Connected != nil {
		connected = s.cfg.Connected()
	}
	if connected {
		return Verdict{}
	}
	return Verdict{Reason: Unavailable, Retry: s.cfg.WaitLimit}
}

// awaitSlot asks the group for slots; e is locked, also on return.
func (s *Spender) awaitSlot(ctx context.Context, e *entry, now time.Duration) Verdict {
	deadline := now + s.cfg.WaitLimit
	e.wantSlots++
	defer func() { e.wantSlots-- }()
	for again := false; ; {
		if e.roomLocked() && now < e.until {
			return Verdict{}
		}
		switch refused := now < e.noSlotsUntil; {
		case e.inFlight >= e.limits.Concurrent, refused && (again || e.wantSlots > 1 || e.elsewhere == 0):
			return e.fullLocked(now)
		case refused:
			// Other nodes have slots, and have just been told to give back those that
			// they do not use. One call at a time asks once more.
			again = true
			_ = s.await(ctx, e, e.noSlotsUntil)
		default:
			s.enqueueLocked(e)
			if v := s.await(ctx, e, deadline); v.Reason != Allowed {
				return v
			}
		}
		now = s.cfg.Now()
	}
}

// Take takes tokens for up to n messages and returns for how many. Fewer: the
// verdict says why; a plan in shadow lets all of them go. It waits for the group
// only if this node holds too few. Every token must be settled.
func (p *Pass) Take(ctx context.Context, n int64) (got int64, v Verdict) {
	s, e := p.spender, p.entry
	now := s.cfg.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.shadow {
		got, over, why := s.takeShadow(p, n, now)
		s.askIfLow(e, now)
		s.stats.shadowed(n, over)
		return got, Verdict{Reason: why, Retry: time.Second, Shadow: over > 0}
	}
	if v = s.cutOff(); v.Reason == Allowed {
		if got = e.takeLocked(n, now); got < n {
			var more int64
			more, v = s.awaitTokens(ctx, e, n-got, now)
			got += more
		}
		s.askIfLow(e, now)
	}
	s.stats.take(got, n, v.Reason)
	return got, v
}

// askIfLow has the group asked for more in time; e is locked.
func (s *Spender) askIfLow(e *entry, now time.Duration) {
	if e.lowLocked() && (now >= e.reasonUntil || e.left > 0) {
		s.enqueueLocked(e)
	}
}

// awaitTokens asks the group for n tokens; e is locked, also on return.
func (s *Spender) awaitTokens(ctx context.Context, e *entry, n int64, now time.Duration) (got int64, v Verdict) {
	deadline := now + s.cfg.WaitLimit
	for asked := false; ; {
		if e.reason != Allowed && (now < e.reasonUntil || asked) && e.left == 0 {
			return got, Verdict{Reason: e.reason, Retry: max(time.Millisecond, e.retryAt-now)}
		}
		s.enqueueLocked(e)
		e.want += n - got
		refused := s.await(ctx, e, deadline)
		e.want -= n - got
		if refused.Reason != Allowed {
			return got, refused
		}
		now, asked = s.cfg.Now(), true
		e.expireLocked(now)
		more := min(n-got, e.left)
		e.left -= more
		e.busy += more
		if got += more; got == n {
			return got, Verdict{}
		}
	}
}

// await waits for the next answer about e, no longer than until deadline. e is
// locked, also on return, and not meanwhile.
func (s *Spender) await(ctx context.Context, e *entry, deadline time.Duration) Verdict {
	missing := Verdict{Reason: Unavailable, Retry: s.cfg.WaitLimit}
	now := s.cfg.Now()
	if since := s.failing.Load(); since > 0 && now-time.Duration(since) >= s.cfg.WaitLimit || now >= deadline {
		return missing
	}
	wake := e.waitLocked()
	signal(s.hurry)
	e.mu.Unlock()
	defer e.mu.Lock()
	timer := time.NewTimer(deadline - now)
	defer timer.Stop()
	select {
	case <-wake:
		return Verdict{}
	case <-timer.C:
		return missing
	case <-ctx.Done():
		return missing
	}
}

// Settle says what became of tokens that Take gave: so many of them were spent
// on messages that were accepted; the others go back as if never taken.
func (p *Pass) Settle(taken, accepted int64) {
	e := p.entry
	e.mu.Lock()
	e.busy -= taken
	e.spendLocked(accepted)
	if back := taken - accepted; back > 0 {
		e.left += back
		e.expireLocked(p.spender.cfg.Now())
	}
	if e.lowLocked() && !e.queued && e.spent > 0 {
		p.spender.enqueueLocked(e)
	}
	e.mu.Unlock()
}

// Leave gives the slot back.
func (p *Pass) Leave() {
	p.entry.mu.Lock()
	p.entry.inFlight--
	p.entry.mu.Unlock()
}

// Report tells the group at once what this node has spent of the account, which
// gathers otherwise. It waits for the answer, no longer than ctx and the wait limit
// allow.
func (s *Spender) Report(ctx context.Context, account string) {
	e := s.shardOf(account).known(account)
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	deadline := s.cfg.Now() + s.cfg.WaitLimit
	for range 2 { // the first answer may be to what was asked before
		if e.spent == 0 && !e.under {
			return
		}
		if e.spent > 0 {
			s.enqueueLocked(e)
		}
		_ = s.await(ctx, e, deadline)
	}
}

// enqueueLocked has the next exchange take e along; e is locked. One that was
// forgotten while its caller waited for the lock stays out: it would report that
// nothing is held, and that would be taken as said of the account's new entry.
func (s *Spender) enqueueLocked(e *entry) {
	if e.queued || e.gone {
		return
	}
	e.queued = true
	s.queueMu.Lock()
	s.queue = append(s.queue, e)
	s.queueMu.Unlock()
	signal(s.wake)
}

// Change tells the limits of an account's plan at once, where they would
// otherwise be seen with its next request.
func (s *Spender) Change(account string, l Limits) {
	e := s.shardOf(account).known(account)
	if e == nil {
		return
	}
	e.mu.Lock()
	if l != e.limits && e.changeLocked(l) {
		s.enqueueLocked(e)
	}
	e.mu.Unlock()
}
