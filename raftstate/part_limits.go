package raftstate

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"github.com/go-json-experiment/json/jsontext"

	"forebay/raftstate/account"
	"forebay/raftstate/limiter"
)

// The kinds of the limiter, 32 to 47.
const (
	kindLease  = 32 // limiter.Command
	kindWindow = 33 // the window in ms, 8 bytes big-endian
)

// limitsPart is the part that says what counts against accounts' plans. It
// takes the plans from the accounts' part, as they are at each command.
type limitsPart struct {
	*limiter.State
	accounts *accountsPart
	spender  atomic.Pointer[limiter.Spender] // of this node; nil: none has asked to be told
	// window is State's, in ms. Every request asks for it, and must not wait until
	// a command of thousands of accounts has been applied.
	window atomic.Int64
}

var _ part = (*limitsPart)(nil)

func newLimitsPart(accounts *accountsPart) *limitsPart {
	p := &limitsPart{accounts: accounts}
	p.replace(limiter.NewState())
	accounts.changed = p.plansChanged
	return p
}

func (p *limitsPart) name() string { return "limiter" }

func (p *limitsPart) kinds() map[uint8]string {
	return map[uint8]string{kindLease: "lease", kindWindow: "window"}
}

var errWindow = errors.New("window is damaged")

func (p *limitsPart) apply(kind uint8, body []byte, stamp uint64) (any, error) {
	if kind == kindWindow {
		if len(body) != 8 || int64(binary.BigEndian.Uint64(body)) < 1 {
			return nil, errWindow
		}
		p.SetWindow(int64(stamp), int64(binary.BigEndian.Uint64(body)))
		p.window.Store(p.State.Window())
		return nil, nil
	}
	cmd, err := limiter.DecodeCommand(body)
	if err != nil {
		return nil, err
	}
	answers, short := p.State.Apply(int64(stamp), cmd, p.limitsOf)
	if s := p.spender.Load(); s != nil && len(short) > 0 {
		s.Reclaim(short)
	}
	return answers, nil
}

// limitsOf implements limiter.Plans.
func (p *limitsPart) limitsOf(id string) (limiter.Limits, bool) {
	a, ok := p.accounts.Account(id)
	if !ok {
		return limiter.Limits{}, false
	}
	plan, ok := p.accounts.Plan(a.Tier)
	return LimitsOf(&plan), ok
}

// plansChanged tells the node's spender of an account whose plan is another now.
func (p *limitsPart) plansChanged(id string) {
	s := p.spender.Load()
	if s == nil {
		return
	}
	if l, ok := p.limitsOf(id); ok {
		s.Change(id, l)
	}
}

// remembers is false: a lease's repeats are known by their sequence, and to set
// a window twice does no harm.
func (p *limitsPart) remembers(uint8) bool { return false }

// decodeAnswer is for a window that a follower proposes: its answer is empty.
func (p *limitsPart) decodeAnswer(kind uint8, _ jsontext.Value) (any, error) {
	if kind != kindWindow {
		return nil, errors.New("answers to leases are not remembered")
	}
	return nil, nil
}

func (p *limitsPart) snapshot() section { return p.State.Snapshot() }

func (p *limitsPart) restore(dec *jsontext.Decoder) (func(), error) {
	s := limiter.NewState()
	if dec != nil {
		var err error
		if s, err = limiter.DecodeState(dec); err != nil {
			return nil, err
		}
	}
	return func() { p.replace(s) }, nil
}

func (p *limitsPart) replace(s *limiter.State) {
	p.State = s
	p.window.Store(s.Window())
}

// LimitsOf returns what a plan allows, as the limiter wants it.
func LimitsOf(p *account.Plan) limiter.Limits {
	return limiter.Limits{Rate: int64(p.RequestsPerMinute), Burst: int64(p.Burst), Concurrent: int64(p.Concurrent),
		Shadow: p.Mode == account.ModeShadow}
}
