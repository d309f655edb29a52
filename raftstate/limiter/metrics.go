package limiter

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Register makes the Spender's counts metrics of reg.
func (s *Spender) Register(reg prometheus.Registerer) error {
	counter := func(n *atomic.Uint64, name, help, outcome string) error {
		return reg.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "forebay", Name: name, Help: help,
			ConstLabels: prometheus.Labels{"outcome": outcome}}, func() float64 { return float64(n.Load()) }))
	}
	const decisions, requests = "limiter_decisions_total", "limiter_lease_requests_total"
	for r := range s.stats.outcomes {
		if err := counter(&s.stats.outcomes[r], decisions, "Decisions about messages, and about requests that were too many in flight.", Reason(r).String()); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		n       *atomic.Uint64
		name    string
		help    string
		outcome string
	}{
		{&s.stats.shadow, decisions, "Decisions about messages, and about requests that were too many in flight.", "shadow"},
		{&s.stats.answered, requests, "Requests of this node to the group for tokens and slots.", "answered"},
		{&s.stats.failed, requests, "Requests of this node to the group for tokens and slots.", "failed"},
	} {
		if err := counter(c.n, c.name, c.help, c.outcome); err != nil {
			return err
		}
	}
	return nil
}
