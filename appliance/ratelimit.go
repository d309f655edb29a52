package appliance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"forebay/appliance/config"
	"forebay/httpapi"
	"forebay/httpapi/admin"
	"forebay/raftstate"
	"forebay/raftstate/account"
	"forebay/raftstate/limiter"
)

// This file wires the limiter: the replicated state or a local one behind the
// node's spender, and that behind the public API.

// returnGrace is what the group gets, at a stop, to take back what the node holds.
const returnGrace = time.Second

// rateLimit is the limiter as the public API and the operators see it.
type rateLimit struct {
	group   *raftstate.Group
	local   *limiter.Local // nil: the limits are the whole group's
	spender *limiter.Spender
	enabled atomic.Bool
	top     busyList
}

func (a *Appliance) buildLimits() error {
	cfg := a.cfg.RateLimiting
	r := &rateLimit{group: a.group}
	r.enabled.Store(cfg.Enabled)
	var group limiter.Group = a.group
	connected := func() bool { return a.group.Leader() != 0 }
	if !cfg.Distributed {
		r.local = limiter.NewLocal(cfg.Window, a.group.Limits)
		group, connected = r.local, func() bool { return true }
	}
	var err error
	r.spender, err = limiter.NewSpender(limiter.Config{Node: a.cfg.Node, Group: group,
		Refuse: cfg.WithoutQuorum == "refuse", Connected: connected}, rand.Uint64())
	if err != nil {
		return err
	}
	if err := r.spender.Register(a.registry); err != nil {
		return fmt.Errorf("register metrics of the limiter: %w", err)
	}
	a.group.Follow(r.spender)
	a.limits = r
	return nil
}

// configure puts other settings in force. The window is the whole group's, but
// where this node counts alone.
func (r *rateLimit) configure(ctx context.Context, c config.RateLimiting) error {
	if r.local != nil {
		r.local.SetWindow(c.Window)
	} else if err := r.group.SetWindow(ctx, c.Window); err != nil {
		return err
	}
	r.spender.SetRefuse(c.WithoutQuorum == "refuse")
	r.enabled.Store(c.Enabled)
	return nil
}

// refusesAlone reports whether nothing is admitted while the group has no leader.
func (r *rateLimit) refusesAlone() bool {
	return r.enabled.Load() && r.local == nil && r.spender.Refuses()
}

// window is the sliding window in force.
func (r *rateLimit) window() time.Duration {
	if r.local != nil {
		return r.local.Window()
	}
	return r.group.Window()
}

// Enter implements httpapi.Limiter.
func (r *rateLimit) Enter(ctx context.Context, account string, plan httpapi.Plan) (httpapi.Pass, error) {
	if !r.enabled.Load() {
		return nil, nil
	}
	p := &pass{limit: r}
	var v limiter.Verdict
	p.Pass, v = r.spender.Enter(ctx, account, limitsOf(plan))
	if v.Reason == limiter.Allowed || v.Shadow {
		p.inFlight = 1
	}
	return p, limited(v)
}

// Quota implements httpapi.Limiter. It takes in what the group knows beyond
// this node.
func (r *rateLimit) Quota(account string, plan httpapi.Plan) (httpapi.Quota, bool) {
	if !r.enabled.Load() {
		return httpapi.Quota{}, false
	}
	l := limitsOf(plan)
	q := r.spender.Quota(account, l, r.window())
	u := r.use(account, l)
	q.Rate = max(0, min(l.Rate, l.Rate-u.Spent-u.Held+q.Stock))
	if u.Spent+u.Held == 0 {
		q.Burst = min(l.Burst, max(q.Burst, u.Level))
	}
	return quotaOf(q, r.window(), 0), true
}

func (r *rateLimit) use(id string, l limiter.Limits) limiter.Use {
	if r.local != nil {
		return r.local.Use(id, l)
	}
	_, u, err := r.group.Use(id)
	if err != nil {
		return limiter.Use{Level: l.Burst}
	}
	return u
}

func limitsOf(p httpapi.Plan) limiter.Limits {
	return limiter.Limits{Rate: int64(p.RequestsPerMinute), Burst: int64(p.Burst), Concurrent: int64(p.Concurrent), Shadow: p.Shadow}
}

func planOf(p *account.Plan) httpapi.Plan {
	return httpapi.Plan{Name: p.Name, RequestsPerMinute: p.RequestsPerMinute, Burst: p.Burst, Concurrent: p.Concurrent,
		Shadow: p.Mode == account.ModeShadow}
}

// limited turns a refusal into the API's.
func limited(v limiter.Verdict) error {
	code := httpapi.CodeUnavailable
	switch v.Reason {
	case limiter.Allowed:
		return nil
	case limiter.Rate:
		code = httpapi.CodeRateLimited
	case limiter.Burst:
		code = httpapi.CodeBurstLimited
	case limiter.Concurrent:
		code = httpapi.CodeTooManyConcurrent
	}
	return &httpapi.Limited{Code: code, Retry: v.Retry, Shadow: v.Shadow}
}

// quotaOf leaves the asking request itself out: it is over with its answer.
func quotaOf(q limiter.Quota, window time.Duration, itself int64) httpapi.Quota {
	flying := max(0, q.InFlight-itself)
	return httpapi.Quota{Minute: q.Rate, Burst: q.Burst, Concurrent: max(0, q.Limits.Concurrent-flying-q.Elsewhere),
		InFlight: flying, Window: window, Reset: q.Reset, Refill: q.Refill}
}

// pass is a request in flight as the public API sees it.
type pass struct {
	limiter.Pass
	limit    *rateLimit
	inFlight int64 // 1, unless the request was refused: then it is not among those in flight
}

// Take implements httpapi.Pass.
func (p *pass) Take(ctx context.Context, n int) (int, error) {
	got, v := p.Pass.Take(ctx, int64(n))
	return int(got), limited(v)
}

// Settle implements httpapi.Pass.
func (p *pass) Settle(admitted, counted int) { p.Pass.Settle(int64(admitted), int64(counted)) }

// Quota implements httpapi.Pass.
func (p *pass) Quota() httpapi.Quota {
	window := p.limit.window()
	return quotaOf(p.Pass.Quota(window), window, p.inFlight)
}

// topAccounts is how many accounts the status names.
const topAccounts = 10

func (a *Appliance) limiterStatus(s *admin.Status) {
	r := a.limits
	stats := r.spender.Stats()
	l := &admin.LimiterStatus{Mode: "distributed", Leases: uint64(stats.Accounts),
		CommandsPerSecond: a.leaseRate.read(time.Now(), stats.Answered)}
	for reason, n := range stats.Decided {
		if reason != limiter.Allowed {
			l.Limited += n
		}
	}
	busiest := r.group.Busiest
	switch {
	case !r.enabled.Load():
		l.Mode = "off"
	case r.local != nil:
		l.Mode, busiest = "local", r.local.Busiest
	default:
		l.Degraded = a.group.Leader() == 0
	}
	for _, b := range a.limits.top.read(time.Now(), busiest) {
		limits, _ := a.group.Limits(b.Account)
		l.TopAccounts = append(l.TopAccounts, admin.TopAccount{Account: b.Account, Tier: a.tierOf(b.Account),
			Rate: float64(b.Counted), Limit: uint64(limits.Rate)})
	}
	s.Limiter = l
}

// busiestEvery is how old the list of the busiest accounts may be: who makes it
// looks at every account of the state, and commands wait meanwhile.
const busiestEvery = 5 * time.Second

// busyList keeps the list of the busiest accounts for a while.
type busyList struct {
	mu   sync.Mutex // guards what follows
	made time.Time
	list []limiter.Busy // is not changed
}

func (b *busyList) read(now time.Time, busiest func(n int) []limiter.Busy) []limiter.Busy {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.made.IsZero() || now.Sub(b.made) >= busiestEvery {
		b.made, b.list = now, busiest(topAccounts)
	}
	return b.list
}

func (a *Appliance) tierOf(id string) string {
	v, err := a.group.Account(id)
	if err != nil {
		return "" // deleted; what it sent still counts
	}
	return v.Tier
}

// ratePerSecond turns a count that grows into a rate.
type ratePerSecond struct {
	mu    sync.Mutex // guards what follows
	at    time.Time
	count uint64
	rate  float64
}

// read may be called by several at once, and as often: the rate is that of half a
// second and more.
func (r *ratePerSecond) read(now time.Time, count uint64) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if passed := now.Sub(r.at).Seconds(); passed >= 0.5 {
		if !r.at.IsZero() {
			r.rate = float64(count-r.count) / passed
		}
		r.at, r.count = now, count
	}
	return r.rate
}

// viewLimit is how long a view waits for the newest figures of its node.
const viewLimit = 500 * time.Millisecond

// Limits implements admin.Limits.
func (r *rateLimit) Limits(ctx context.Context, id string) (admin.LimitsView, error) {
	v, err := r.group.Account(id)
	if err != nil {
		return admin.LimitsView{}, refuse(err)
	}
	l, ok := r.group.Limits(id)
	if !ok {
		return admin.LimitsView{}, errors.New("the account's plan is not there")
	}
	ctx, cancel := context.WithTimeout(ctx, viewLimit)
	defer cancel()
	r.spender.Report(ctx, id)
	u := r.use(id, l)
	out := admin.LimitsView{Account: id, Tier: v.Tier, RequestsPerMinute: l.Rate, Burst: l.Burst, Concurrent: l.Concurrent,
		Shadow: l.Shadow, WindowSeconds: r.window().Seconds(), Spent: u.Spent, Held: u.Held, Remaining: max(0, l.Rate-u.Spent-u.Held),
		BurstLeft: u.Level, Slots: u.Slots, Holdings: []admin.HoldingView{}}
	for _, h := range u.Holdings {
		out.Holdings = append(out.Holdings, admin.HoldingView{Node: h.Node, Tokens: h.Tokens, Slots: h.Slots, EndsInSeconds: float64(h.EndsIn) / 1000})
	}
	return out, nil
}
