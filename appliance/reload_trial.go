package appliance

import (
	"context"
	"fmt"
	"time"

	"forebay/appliance/config"
)

const (
	defaultProbation = time.Minute
	// probationLooks is how often the appliance is looked at while a version is
	// on probation, and over how many looks before it that is compared.
	probationLooks = 12
	// worseLooks in a row condemn a version: one slow moment does not.
	worseLooks = 2
)

// Sample is how well the appliance does at a moment.
type Sample struct {
	Rate      float64       // submissions a second, accepted and refused
	ErrorRate float64       // fraction of them answered 5xx
	P99       time.Duration // of acceptance
}

// trial is the probation of what has changed lately. A change while another one
// is on probation goes on top of it: both are then measured against, and would
// be taken back to, what ran before the first. But for secrets: they make no
// answer slow, and none that was changed because it had leaked may come back
// because the machine happens to be busy.
type trial struct {
	base    config.Config // what ran before; effective
	version uint64        // the newest one that is tried
	until   time.Time
	before  Sample // how well it did, at its worst and its busiest
	worse   int    // looks in a row that were worse
}

// look takes a sample and judges the version on probation, if there is one. It
// is called every twelfth of the probation, by Run.
func (r *reloads) look(ctx context.Context, now time.Time) {
	if !r.enter(ctx) {
		return
	}
	defer r.leave()
	s := r.probe()
	if r.trial == nil {
		if r.samples = append(r.samples, s); len(r.samples) > probationLooks {
			r.samples = r.samples[1:]
		}
		return
	}
	reason := worse(r.trial.before, s, r.state.Load().effective.Alerts)
	if reason == "" {
		r.trial.worse = 0
	} else if r.trial.worse++; r.trial.worse >= worseLooks {
		r.takeBack(ctx, reason)
		return
	}
	if !now.Before(r.trial.until) && r.trial.worse == 0 { // else the next look decides
		r.logger.Info("configuration: the probation is over, the version stays", "version", r.trial.version)
		r.settle(r.trial.version, config.OutcomeApplied, "")
		r.trial, r.samples = nil, nil
	}
}

// moreLoad is how many times as much must come in as before for slow answers to
// say nothing of the change.
const moreLoad = 1.5

// worse says in what the appliance does worse than before, beyond what counts as
// well anyway; empty: in nothing. Where nothing comes in, nothing is known; and
// where less came in before, a slow answer says nothing of the change: it may as
// well be the load that has grown since. An error does: clients that try again
// are more load, too.
func worse(before, now Sample, limits config.Alerts) string {
	switch {
	case now.Rate <= 0:
		return ""
	case now.ErrorRate > before.ErrorRate+limits.ErrorRate:
		return fmt.Sprintf("%.1f %% of the submissions were answered with a server error, before it %.1f %%", 100*now.ErrorRate, 100*before.ErrorRate)
	case before.P99 > 0 && now.Rate <= moreLoad*before.Rate && now.P99 > limits.P99Latency && now.P99 > 2*before.P99:
		return fmt.Sprintf("acceptance took %v (p99), before it %v", now.P99.Round(time.Millisecond), before.P99.Round(time.Millisecond))
	}
	return ""
}

// begin puts a version on probation. The caller holds the turn.
func (r *reloads) begin(base config.Config, version uint64) time.Time {
	if r.trial == nil {
		r.trial = &trial{base: base}
		for _, s := range r.samples {
			r.trial.before.ErrorRate = max(r.trial.before.ErrorRate, s.ErrorRate)
			r.trial.before.P99 = max(r.trial.before.P99, s.P99)
			r.trial.before.Rate = max(r.trial.before.Rate, s.Rate)
		}
	} else {
		r.settle(r.trial.version, config.OutcomeApplied, fmt.Sprintf("version %d came while it was on probation", version))
	}
	r.trial.version, r.trial.until, r.trial.worse = version, time.Now().Add(r.probation), 0
	return r.trial.until
}

// takeBack goes back to what ran before the probation began, with the secrets of
// now, as a new version.
func (r *reloads) takeBack(ctx context.Context, reason string) {
	t := r.trial
	r.trial, r.samples = nil, nil
	r.logger.Error("configuration: the appliance does worse since this version; it is taken back", "version", t.version, "reason", reason)
	r.settle(t.version, config.OutcomeRolledBack, reason)
	old := r.state.Load()
	target := config.KeepSecrets(t.base, old.effective)
	if failed, err := r.apply(ctx, old.effective, target); err != nil {
		r.metrics.reloads.WithLabelValues("failed").Inc()
		r.logger.Error("configuration: the version could not be taken back", "step", failed, "err", err)
		r.note(fmt.Sprintf("version %d made the appliance worse and could not be taken back: %v", t.version, err))
		return
	}
	r.enact(target, old.loaded, config.Version{Who: "forebay", Source: config.SourceAutomatic, Outcome: config.OutcomeApplied,
		Reason: fmt.Sprintf("version %d made the appliance worse: %s", t.version, reason)})
	r.metrics.reloads.WithLabelValues("rolled_back").Inc()
	r.note(fmt.Sprintf("version %d was taken back: %s", t.version, reason))
}
