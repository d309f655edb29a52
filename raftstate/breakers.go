package raftstate

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"forebay/raftstate/breaker"
)

// breakersPart is the part that the circuit breakers are. What it decides it
// hands to this node's Watch at once.
type breakersPart struct {
	state *breaker.State
	watch *breaker.Watch
}

var _ part = (*breakersPart)(nil)

// breakersAnswer is what a command came to.
type breakersAnswer struct{}

func (p *breakersPart) name() string { return "breakers" }

func (p *breakersPart) kinds() map[uint8]string {
	names := make(map[uint8]string, len(breaker.Kinds))
	for kind, name := range breaker.Kinds {
		names[uint8(kind)] = name
	}
	return names
}

func (p *breakersPart) apply(kind uint8, body []byte, stamp uint64) (any, error) {
	cmd, err := breaker.Decode(breaker.Kind(kind), body)
	if err != nil {
		return nil, err
	}
	p.watch.Follow(p.state, p.state.Apply(cmd, stamp), stamp)
	return breakersAnswer{}, nil
}

// remembers is false for reports: each item has the generation that it is about,
// so a repeat of one that had an effect has none.
func (p *breakersPart) remembers(kind uint8) bool { return breaker.Kind(kind) != breaker.KindReport }

func (p *breakersPart) decodeAnswer(_ uint8, text jsontext.Value) (any, error) {
	var answer breakersAnswer
	err := json.Unmarshal(text, &answer)
	return answer, err
}

func (p *breakersPart) snapshot() section { return p.state.Snapshot() }

func (p *breakersPart) restore(dec *jsontext.Decoder) (func(), error) {
	s := breaker.NewState()
	if dec != nil {
		var err error
		if s, err = breaker.DecodeState(dec); err != nil {
			return nil, err
		}
	}
	return func() {
		p.state = s
		p.watch.Follow(s, nil, s.Last())
	}, nil
}

// ErrNoBreaker: nothing is called by that name.
var ErrNoBreaker = errors.New("there is no such breaker")

// Breakers is this node's view of the group's circuit breakers. Run keeps it
// going.
func (g *Group) Breakers() *breaker.Watch { return g.machine.breakers.watch }

func (g *Group) openBreakers() error {
	watch, err := breaker.New(breaker.Config{
		Node:       g.cfg.NodeID,
		Settings:   g.cfg.Breakers,
		Propose:    g.reportBreakers,
		Logger:     g.log,
		Registerer: g.cfg.Registerer,
	})
	if err != nil {
		return err
	}
	g.machine.breakers = &breakersPart{state: breaker.NewState(), watch: watch}
	g.machine.add(g.machine.breakers)
	return nil
}

func (g *Group) reportBreakers(ctx context.Context, r breaker.Report) error {
	return g.proposeBreaker(ctx, r)
}

func (g *Group) proposeBreaker(ctx context.Context, cmd breaker.Command) error {
	if err := cmd.Validate(); err != nil {
		return err
	}
	body, err := breaker.Encode(cmd)
	if err != nil {
		return fmt.Errorf("encode %s: %w", breaker.Kinds[cmd.Kind()], err)
	}
	if err := g.WaitLeader(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	_, err = propose[breakersAnswer](ctx, g, uint8(cmd.Kind()), body)
	return err
}

// ForceBreaker puts the breaker of a service where an operator wants it, on all
// nodes and over restarts, until it is set to auto. ErrNoBreaker: neither the
// group nor this node has called a service by that name.
func (g *Group) ForceBreaker(ctx context.Context, service string, to breaker.Position, who string) error {
	if !g.hasBreaker(service) {
		return fmt.Errorf("%w: %q", ErrNoBreaker, service)
	}
	return g.proposeBreaker(ctx, breaker.Force{Service: service, To: to, Who: who, At: wallClock()})
}

func (g *Group) hasBreaker(service string) bool {
	for _, name := range breaker.Names {
		if service == name {
			return true
		}
	}
	g.machine.mu.RLock()
	known := g.machine.breakers.state.Knows(service)
	g.machine.mu.RUnlock()
	if known {
		return true
	}
	for _, s := range g.Breakers().Services() {
		if s.Service == service {
			return true
		}
	}
	return false
}

// SetBreakers makes settings those of the whole group; it proposes nothing if
// they are.
func (g *Group) SetBreakers(ctx context.Context, settings breaker.Settings) error {
	if err := g.WaitLeader(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return g.setBreakers(ctx, settings)
}

func (g *Group) setBreakers(ctx context.Context, settings breaker.Settings) error {
	g.machine.mu.RLock()
	have, configured := g.machine.breakers.state.Settings()
	g.machine.mu.RUnlock()
	if configured && have == settings {
		return nil
	}
	cmd := breaker.Configure{Settings: settings}
	if err := cmd.Validate(); err != nil {
		return err
	}
	body, err := breaker.Encode(cmd)
	if err != nil {
		return fmt.Errorf("encode %s: %w", breaker.Kinds[cmd.Kind()], err)
	}
	_, err = propose[breakersAnswer](ctx, g, uint8(cmd.Kind()), body)
	return err
}
