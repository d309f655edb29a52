package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Endpoint is one address of one account. The address itself is not in it: its
// path may be all the secret that its receiver has.
type Endpoint struct {
	Account string
	ID      string // 16 hex digits of the SHA-256 of scheme, host, port and path
	Host    string // host and port
}

// EndpointOf is the endpoint that an account's address belongs to; false: it is no
// address that anything is posted to.
func EndpointOf(account, address string) (Endpoint, bool) {
	u, problem := parseAddress(address, true)
	if problem != "" {
		return Endpoint{}, false
	}
	return endpointOf(account, u), true
}

func endpointOf(account string, u *url.URL) Endpoint {
	host := hostOf(u)
	sum := sha256.Sum256([]byte(u.Scheme + "://" + host + u.EscapedPath()))
	return Endpoint{Account: account, ID: hex.EncodeToString(sum[:8]), Host: host}
}

// Standing is what is remembered of an endpoint that fails.
type Standing struct {
	Endpoint
	Since    time.Time // of failing without a success between
	Warned   int       // percent of the patience of which somebody was told: 0, 50, 70 or 90
	Disabled time.Time // when it was switched off; zero: it is not
	Reason   string    // of that: ReasonGone or ReasonFailed
}

// The reasons for which an endpoint is switched off.
const (
	ReasonGone   = "gone"   // it answered 410
	ReasonFailed = "failed" // it failed for as long as the patience lasts
)

// Keeper keeps standings where a restart does not lose them and every node of
// the cluster sees them. Only endpoints that have failed for longer than
// keepAfter are kept, so it is written seldom.
type Keeper interface {
	// Standings returns all that are kept, and Standing one of them. They do not
	// block, and Standing is asked before each call.
	Standings() []Standing
	Standing(e Endpoint) (Standing, bool)
	Keep(ctx context.Context, s Standing) error
	Forget(ctx context.Context, e Endpoint) error
}

// PatienceConfig is what a Patience is made of.
type PatienceConfig struct {
	Keeper Keeper
	// Limit is how long an endpoint may fail before it is switched off; 0: 5 days,
	// longer than the whole schedule of retries of anybody's messages.
	Limit time.Duration
	// Warn hears of each stage, once in the cluster's life of the failure, from
	// Run: Warned is 50, 70 or 90, or Disabled is set. It may take as long as an
	// append to the log.
	Warn       func(context.Context, Standing)
	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are not registered
}

const (
	defaultLimit = 5 * 24 * time.Hour
	keepAfter    = 10 * time.Minute // failing for less than that is nobody's business but the breaker's
	lookEvery    = time.Second
	// maxFailing bounds what is remembered in memory. Past it new failures are
	// not followed: nothing is switched off that should not be.
	maxFailing = 100_000
)

// stages are the parts of the patience, in percent, at which somebody is told.
var stages = [...]int{50, 70, 90}

// Patience switches endpoints off that are gone or have failed for days, and
// says so at 50, 70 and 90 percent of the way and at the end. An attempt's end is
// noted in memory; Run carries what lasts to the Keeper.
type Patience struct {
	keeper Keeper
	limit  time.Duration
	warn   func(context.Context, Standing)
	log    *slog.Logger
	meters *metrics

	mu      sync.Mutex
	failing map[Endpoint]*failing
	kept    map[Endpoint]Standing // what the keeper has, as of the last look
}

type failing struct {
	since, last time.Time // of the first and the latest failure
	fresh       bool      // it failed since the last look
	gone        time.Time // a 410 that is not kept yet
	better      bool      // a success came; forget it
	kept        bool      // the keeper has had it from here
}

// NewPatience makes a Patience that knows what its keeper has.
func NewPatience(c PatienceConfig) (*Patience, error) {
	if c.Keeper == nil || c.Limit < 0 {
		return nil, errors.New("webhook: patience without a keeper, or negative")
	}
	if c.Limit == 0 {
		c.Limit = defaultLimit
	}
	if c.Warn == nil {
		c.Warn = func(context.Context, Standing) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	meters, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, err
	}
	p := &Patience{keeper: c.Keeper, limit: c.Limit, warn: c.Warn, log: c.Logger, meters: meters, failing: map[Endpoint]*failing{}}
	p.refresh()
	return p, nil
}

// refresh reads what the keeper has.
func (p *Patience) refresh() {
	kept := map[Endpoint]Standing{}
	for _, s := range p.keeper.Standings() {
		kept[s.Endpoint] = s
	}
	p.meters.stand(kept)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = kept
}

// Disabled reports whether nothing may be sent to the endpoint.
func (p *Patience) Disabled(e Endpoint) bool {
	p.mu.Lock()
	f := p.failing[e]
	gone := f != nil && !f.gone.IsZero()
	p.mu.Unlock()
	if gone {
		return true
	}
	s, _ := p.keeper.Standing(e)
	return !s.Disabled.IsZero()
}

// Succeeded notes that the endpoint took a message.
func (p *Patience) Succeeded(e Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.failing[e]
	if _, kept := p.kept[e]; kept {
		if f == nil {
			f = &failing{}
			p.failing[e] = f
		}
		f.better, f.gone = true, time.Time{}
		return
	}
	delete(p.failing, e)
}

// Failed notes that an attempt at the endpoint failed.
func (p *Patience) Failed(e Endpoint, at time.Time) { p.note(e, at, false) }

// Gone notes that the endpoint answered 410: it is switched off from now on.
func (p *Patience) Gone(e Endpoint, at time.Time) { p.note(e, at, true) }

func (p *Patience) note(e Endpoint, at time.Time, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.failing[e]
	if f == nil || f.better && gone {
		if len(p.failing) >= maxFailing && !gone {
			return
		}
		f = &failing{since: at}
		if s, ok := p.kept[e]; ok {
			f.since, f.kept = s.Since, true
		}
		p.failing[e] = f
	}
	f.last, f.fresh = at, true
	if gone && f.gone.IsZero() {
		f.gone = at
	}
}

// Run carries standings to the keeper and warns, until ctx ends. What the keeper
// could not take is tried again at the next look.
func (p *Patience) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.look(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// look is one step of Run.
func (p *Patience) look(ctx context.Context) {
	p.refresh()
	for _, step := range p.due() {
		var err error
		if step.forget {
			if err = p.keeper.Forget(ctx, step.Endpoint); err == nil {
				p.settled(step)
			}
		} else if err = p.keeper.Keep(ctx, step.Standing); err == nil {
			p.settled(step)
			if step.Warned > 0 || !step.Disabled.IsZero() {
				p.tell(ctx, step.Standing)
			}
		}
		if err != nil && ctx.Err() == nil {
			p.log.Warn("what is known of a failing webhook address could not be kept; trying again", "account", step.Account, "host", step.Host, "error", err.Error())
			return
		}
	}
	p.refresh()
}

type step struct {
	Standing
	forget bool
}

// due says what is to be kept or forgotten now, in a fixed order.
func (p *Patience) due() []step {
	p.mu.Lock()
	defer p.mu.Unlock()
	var steps []step
	for e, f := range p.failing {
		have, kept := p.kept[e]
		switch {
		case f.better:
			steps = append(steps, step{Standing: Standing{Endpoint: e}, forget: true})
		case !have.Disabled.IsZero():
			// Said and done.
		case f.kept && !kept && f.gone.IsZero():
			// Another node reached it, or an operator switched it on again: the
			// failure begins anew.
			if f.since, f.kept = f.last, false; !f.fresh {
				delete(p.failing, e)
			}
		default:
			next := have
			next.Endpoint = e
			if !kept || f.since.Before(have.Since) {
				next.Since = f.since
			}
			p.advance(&next, f)
			if next != have && (kept || f.last.Sub(next.Since) >= keepAfter || !next.Disabled.IsZero()) {
				steps = append(steps, step{Standing: next})
			} else {
				f.fresh = false
			}
		}
	}
	slices.SortFunc(steps, func(a, b step) int {
		return strings.Compare(a.Account+"\x00"+a.ID, b.Account+"\x00"+b.ID)
	})
	return steps
}

// advance brings a standing up to the latest failure. One failure advances it by
// one stage at most: an address that is seldom written to is not switched off by
// its second failure, unwarned.
func (p *Patience) advance(s *Standing, f *failing) {
	failed := f.last.Sub(s.Since)
	switch {
	case !f.gone.IsZero():
		s.Disabled, s.Reason = f.gone, ReasonGone
	case !f.fresh:
	case s.Warned == stages[len(stages)-1]:
		if failed >= p.limit {
			s.Disabled, s.Reason = f.last, ReasonFailed
		}
	default:
		for _, percent := range stages {
			if percent > s.Warned {
				if failed >= p.limit*time.Duration(percent)/100 {
					s.Warned = percent
				}
				break
			}
		}
	}
}

// settled notes that the keeper took a step.
func (p *Patience) settled(s step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.failing[s.Endpoint]
	if s.forget {
		delete(p.kept, s.Endpoint)
		if f != nil && f.better {
			delete(p.failing, s.Endpoint)
		}
		return
	}
	p.kept[s.Endpoint] = s.Standing
	if f == nil {
		return
	}
	f.kept, f.fresh, f.gone = true, false, time.Time{} // kept says it now
}

// tell says by the log and by the other path what has been kept.
func (p *Patience) tell(ctx context.Context, s Standing) {
	switch {
	case s.Reason == ReasonGone:
		p.log.Error("a webhook address is switched off for an account: it answered 410; switch it on again with forebay account endpoint enable",
			"account", s.Account, "endpoint", s.ID, "host", s.Host)
	case !s.Disabled.IsZero():
		p.log.Error("a webhook address is switched off for an account: it has failed for days; switch it on again with forebay account endpoint enable",
			"account", s.Account, "endpoint", s.ID, "host", s.Host, "failing_since", s.Since)
	default:
		p.log.Warn("a webhook address keeps failing and will be switched off", "account", s.Account, "endpoint", s.ID, "host", s.Host,
			"failing_since", s.Since, "patience_used_percent", s.Warned, "switched_off_at", s.Since.Add(p.limit))
	}
	p.meters.stages.WithLabelValues(stageOf(s)).Inc()
	p.warn(ctx, s)
}
