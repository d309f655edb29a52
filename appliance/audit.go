package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forebay/httpapi/admin"
	"forebay/wal"
)

const (
	auditStretch = 1 << 20 // sequence numbers looked at in one go
	auditNamed   = 1000    // missing numbers that are listed; all are counted
)

const auditEvery = 24 * time.Hour

// auditDaily runs an audit once a day and logs its receipt. How many messages the
// last whole audit missed, whoever asked for it, is a metric, which must read 0.
func (a *Appliance) auditDaily(ctx context.Context) error {
	missing := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "forebay_audit_missing_messages", Help: "Accepted messages that the last whole audit found neither in the log nor in the store. Must be 0.",
	}, func() float64 { return float64(a.missing.Load()) })
	a.registry.MustRegister(missing)
	defer a.registry.Unregister(missing)
	ticker := time.NewTicker(auditEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		r, err := a.audit(ctx, time.Time{})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			a.logger.Warn("the daily audit could not be made", "err", err)
			continue
		}
		level := slog.LevelInfo
		if r.Missing > 0 {
			level = slog.LevelError
		}
		a.logger.Log(ctx, level, "daily audit", "from", r.From, "to", r.To, "accepted", r.Accepted, "stored", r.Stored,
			"final", r.Final, "waiting", r.Waiting, "missing", r.Missing, "abandoned", r.Abandoned, "missing_numbers", r.MissingNumbers)
	}
}

// audit holds every number that this node gave out since then against the log
// and the store. What is in neither is missing, and there must be none; but for
// what an appliance that was lost had accepted after its last backup.
func (a *Appliance) audit(ctx context.Context, since time.Time) (admin.Audit, error) {
	last := a.log.Stats().LastSeq
	first, err := a.store.FirstSince(ctx, a.cfg.Node, since)
	if err != nil {
		return admin.Audit{}, fmt.Errorf("find the first message: %w", forOperators(fromStore(err)))
	}
	if first == 0 { // nothing is stored yet, or all has been dropped for its age
		first = last + 1
	}
	if lowest, ok := a.log.LowestHeld(ctx); ok && since.IsZero() {
		first = min(first, lowest)
	}
	out := admin.Audit{Node: a.cfg.Node, From: first, To: last}
	for from := first; from <= last; from += auditStretch {
		if err := a.auditStretch(ctx, from, min(last, from+auditStretch-1), &out); err != nil {
			return admin.Audit{}, err
		}
	}
	if since.IsZero() {
		a.missing.Store(out.Missing)
	}
	return out, nil
}

func (a *Appliance) auditStretch(ctx context.Context, from, to uint64, out *admin.Audit) error {
	// In this order: a message leaves the log only once it is in the store, so
	// what the store lacks and the log does not hold has either moved in
	// between, which a second look at the store tells, or it is gone.
	absent, err := a.store.Missing(ctx, a.cfg.Node, from, to, auditStretch)
	if err != nil {
		return fmt.Errorf("audit: %w", forOperators(fromStore(err)))
	}
	held, err := a.log.Holds(ctx, absent)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	var suspects []uint64
	for i, seq := range absent {
		if held[i] {
			out.Waiting++
		} else {
			suspects = append(suspects, seq)
		}
	}
	if len(suspects) > 0 {
		gaps := a.log.Gaps()
		still, err := a.store.Missing(ctx, a.cfg.Node, suspects[0], suspects[len(suspects)-1], auditStretch)
		if err != nil {
			return fmt.Errorf("audit: %w", forOperators(fromStore(err)))
		}
		for _, seq := range suspects {
			if _, gone := slices.BinarySearch(still, seq); !gone {
				continue
			}
			if slices.ContainsFunc(gaps, func(g wal.Gap) bool { return seq >= g.From && seq <= g.To }) {
				out.Abandoned++
				continue
			}
			if out.Missing++; len(out.MissingNumbers) < auditNamed {
				out.MissingNumbers = append(out.MissingNumbers, seq)
			}
		}
	}
	tally, err := a.store.Count(ctx, a.cfg.Node, from, to)
	if err != nil {
		return fmt.Errorf("audit: %w", forOperators(fromStore(err)))
	}
	out.Accepted += to - from + 1
	out.Stored += tally.Stored
	out.Final += tally.Final
	return nil
}
