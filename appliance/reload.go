package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// reloads changes the configuration while the appliance runs.
//
// A change is loaded and validated as a whole; then the steps whose keys differ
// are applied in order. If one fails, it and those before it are applied again
// with what was before, in reverse order: so what runs is always one
// configuration, the new one or the old. What has taken effect is on probation
// for a minute (see trial).
//
// Two configurations are kept apart: loaded is what the files say, effective is
// what runs. They differ in keys that wait for a restart, and after a rollback;
// the difference is the drift.
type reloads struct {
	files     config.Files
	steps     []step
	probation time.Duration
	probe     func() Sample
	unwatched bool                         // the files are not watched
	group     func(config.Config) []string // keys that the group holds otherwise
	logger    *slog.Logger
	metrics   reloadMetrics

	state atomic.Pointer[running]

	// turn is held by whoever changes the configuration; it guards what follows.
	turn    chan struct{}
	history *config.History
	trial   *trial
	samples []Sample // of before a trial
}

// running is immutable.
type running struct {
	version           uint64
	at                time.Time
	effective, loaded config.Config
	lastError         string // of the last change, if it failed
	recent            []admin.ConfigChange
}

type reloadMetrics struct {
	version prometheus.Gauge
	success prometheus.Gauge
	reloads *prometheus.CounterVec
}

// The outcomes of forebay_config_reloads_total.
var reloadOutcomes = []string{admin.ConfigApplied, admin.ConfigUnchanged, admin.ConfigRejected, admin.ConfigFailed, "rolled_back"}

func (a *Appliance) openReloads(o Options) error {
	factory := promauto.With(a.registry)
	r := &reloads{files: o.Files, steps: a.steps(o.Process), probation: o.Probation, probe: o.Probe, unwatched: o.Unwatched, group: a.groupDrift,
		logger: a.logger.With("part", "configuration"), turn: make(chan struct{}, 1),
		metrics: reloadMetrics{
			version: factory.NewGauge(prometheus.GaugeOpts{Name: "forebay_config_version", Help: "The version of the configuration that runs."}),
			success: factory.NewGauge(prometheus.GaugeOpts{Name: "forebay_config_last_reload_success", Help: "Whether the last change of the configuration took effect (1) or not (0)."}),
			reloads: factory.NewCounterVec(prometheus.CounterOpts{Name: "forebay_config_reloads_total", Help: "Changes of the configuration that were asked for, by outcome."}, []string{"outcome"}),
		}}
	if r.probation == 0 {
		r.probation = defaultProbation
	}
	if r.probe == nil {
		r.probe = a.sample
	}
	for _, outcome := range reloadOutcomes {
		r.metrics.reloads.WithLabelValues(outcome)
	}
	r.metrics.success.Set(1)
	history, unreadable, err := config.OpenHistory(a.path("config"))
	if err != nil {
		return err
	}
	for _, err := range unreadable {
		r.logger.Error("a version of the configuration's history cannot be read; it stays where it is", "err", err)
	}
	r.history = history
	r.started(a.cfg)
	a.reloads = r
	return nil
}

// started makes the configuration of the start a version, unless the newest
// version is the same.
func (r *reloads) started(c config.Config) {
	r.state.Store(&running{effective: c, loaded: c, at: time.Now()})
	if list := r.history.List(); len(list) > 0 && list[0].Text == c.Text() && list[0].Outcome != config.OutcomeFailed {
		v := list[0]
		if v.Outcome == config.OutcomeProbation {
			v.Outcome, v.Reason = config.OutcomeApplied, "the appliance was started again while it was on probation"
			r.put(v)
		}
		r.adopt(&running{version: v.Version, at: time.Now(), effective: c, loaded: c})
		return
	}
	r.enact(c, c, config.Version{Who: currentUser(), Source: config.SourceStart, Outcome: config.OutcomeApplied})
}

// enact makes what has been applied a version, in force from now on.
func (r *reloads) enact(effective, loaded config.Config, v config.Version) uint64 {
	old := r.state.Load()
	v.Version, v.At, v.Text = r.history.Next(), time.Now().UTC(), effective.Text()
	if v.Source == config.SourceStart {
		v.Changed = r.sinceLast(effective)
	} else {
		v.Changed = config.Diff(old.effective, effective)
	}
	r.put(v)
	r.adopt(&running{version: v.Version, at: v.At, effective: effective, loaded: loaded})
	r.logger.Info("configuration: a new version runs", "version", v.Version, "who", v.Who, "source", v.Source, "at", v.At, "changes", changeLog(v.Changed))
	return v.Version
}

// sinceLast is what a start changes against the newest version of before. What
// the files of secrets held then is not known, so they are not compared.
func (r *reloads) sinceLast(c config.Config) []config.Change {
	list := r.history.List()
	if len(list) == 0 {
		return []config.Change{}
	}
	before, _, err := config.Parse(list[0].Text, "history", c)
	if err != nil {
		return []config.Change{} // of a version of forebay that knew other keys
	}
	now, _, err := config.Parse(c.Text(), "start", c)
	if err != nil {
		return []config.Change{}
	}
	return config.Diff(before, now)
}

func (r *reloads) adopt(s *running) {
	s.recent = r.recent()
	r.state.Store(s)
	r.metrics.version.Set(float64(s.version))
}

// put writes to the history. That it cannot be written, on a full disk for one,
// must not keep an operator from changing what would help.
func (r *reloads) put(v config.Version) {
	if err := r.history.Put(v); err != nil {
		r.logger.Error("the configuration's history cannot be written; going back to this version will not be possible", "version", v.Version, "err", err)
	}
}

// settle gives a version its last outcome.
func (r *reloads) settle(version uint64, outcome, reason string) {
	v, err := r.history.Get(version)
	if err != nil {
		return // it could not be written, which was logged
	}
	v.Outcome, v.Reason = outcome, reason
	r.put(v)
	s := *r.state.Load()
	r.adopt(&s)
}

// note keeps what the last change failed of; empty: it succeeded.
func (r *reloads) note(lastError string) {
	s := *r.state.Load()
	s.lastError = lastError
	r.adopt(&s)
	success := 1.0
	if lastError != "" {
		success = 0
	}
	r.metrics.success.Set(success)
}

func (r *reloads) enter(ctx context.Context) bool {
	select {
	case r.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *reloads) leave() { <-r.turn }

// applyTimeout bounds all steps of one change.
const applyTimeout = 30 * time.Second

// Reload reads the configuration's files anew and puts what they say in force.
// who and source say in the history who wanted that. It returns when all is done.
func (a *Appliance) Reload(ctx context.Context, source, who string) (admin.ConfigResult, error) {
	r := a.reloads
	if r.files.Path == "" {
		return admin.ConfigResult{}, admin.Refuse(admin.CodeInvalid, "the appliance was started without a configuration file; there is nothing to reload")
	}
	if !r.enter(ctx) {
		return admin.ConfigResult{}, context.Cause(ctx)
	}
	defer r.leave()
	next, warnings, err := loadFiles(r.files)
	if err == nil && source == config.SourceFile {
		err = r.whole()
	}
	if err != nil {
		return r.reject(who, source, err), nil
	}
	for _, text := range warnings {
		r.logger.Warn("configuration", "warning", text)
	}
	result := r.change(ctx, next, next, config.Version{Source: source, Who: who})
	result.Warnings = warnings
	// Also where nothing has changed: an access token is mended in its own file.
	a.dispatcher.Resume()
	return result, nil
}

// whole refuses an empty file that was noticed by itself: whoever writes a file
// in place empties it first, and empty means the default of every key.
func (r *reloads) whole() error {
	for _, name := range r.files.Inputs(r.state.Load().loaded) {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			return config.Problems{{Where: name, Message: "is empty, perhaps because it is being written; `forebay config reload` takes it as it is"}}
		}
	}
	return nil
}

// reject is the answer to what cannot be used; nothing has changed.
func (r *reloads) reject(who, source string, err error) admin.ConfigResult {
	result := admin.ConfigResult{Outcome: admin.ConfigRejected, Version: r.state.Load().version, Rejected: problemsOf(err)}
	r.logger.Error("configuration: the change is rejected, what runs goes on", "who", who, "source", source, "problems", err)
	r.metrics.reloads.WithLabelValues(admin.ConfigRejected).Inc()
	r.note(strings.ReplaceAll(err.Error(), "\n", "; "))
	return result
}

// change puts next in force as far as that is possible while running. The caller
// has the turn. Once begun it does not stop with ctx: half a change is none.
func (r *reloads) change(ctx context.Context, next, loaded config.Config, v config.Version) admin.ConfigResult {
	old := r.state.Load()
	result := admin.ConfigResult{Outcome: admin.ConfigApplied, Version: old.version}
	target := config.Merge(old.effective, next, func(key string) bool { return r.stepOf(key) != nil })
	if err := target.Validate(); err != nil { // with what stays as it is
		return r.reject(v.Who, v.Source, err)
	}
	result.Applied, result.NeedsRestart = r.plan(old.effective, next)
	if len(result.Applied) == 0 {
		s := *old
		s.loaded = loaded
		r.adopt(&s)
		result.Outcome = admin.ConfigUnchanged
		r.metrics.reloads.WithLabelValues(admin.ConfigUnchanged).Inc()
		r.note("")
		r.logger.Info("configuration: nothing to apply", "who", v.Who, "source", v.Source, "needs_restart", keysOf(result.NeedsRestart))
		return result
	}
	if failed, err := r.apply(ctx, old.effective, target); err != nil {
		return r.failed(old, target, v, result, failed, err)
	}
	v.Outcome = config.OutcomeProbation
	if r.trial == nil && len(config.Diff(target, config.KeepSecrets(old.effective, target))) == 0 {
		v.Outcome = config.OutcomeApplied // there is nothing that would be taken back
	}
	if v.Source == config.SourceRollback { // an operator's way out is not taken back
		if v.Outcome = config.OutcomeApplied; r.trial != nil {
			r.settle(r.trial.version, config.OutcomeRolledBack, "rolled back by "+v.Who)
			r.trial, r.samples = nil, nil
		}
	}
	result.Version = r.enact(target, loaded, v)
	if v.Outcome == config.OutcomeProbation {
		result.ProbationUntil = r.begin(old.effective, result.Version).UTC()
	}
	r.metrics.reloads.WithLabelValues(admin.ConfigApplied).Inc()
	r.note("")
	return result
}

// failed is the answer when a step failed and what ran before runs again.
func (r *reloads) failed(old *running, target config.Config, v config.Version, result admin.ConfigResult, name string, err error) admin.ConfigResult {
	reason := fmt.Sprintf("step %q failed: %v", name, err)
	v.Version, v.At, v.Text, v.Outcome, v.Reason = r.history.Next(), time.Now().UTC(), target.Text(), config.OutcomeFailed, reason
	v.Changed = config.Diff(old.effective, target)
	r.put(v)
	r.logger.Error("configuration: the change failed and was taken back", "version", v.Version, "who", v.Who, "source", v.Source, "step", name, "err", err, "changes", changeLog(v.Changed))
	r.metrics.reloads.WithLabelValues(admin.ConfigFailed).Inc()
	r.note(reason)
	result.Outcome, result.Detail = admin.ConfigFailed, reason+"; what ran before runs on"
	for _, k := range result.Applied {
		k.Reason = "taken back"
		if k.Step == name {
			k.Reason = err.Error()
		}
		result.Rejected = append(result.Rejected, admin.ConfigProblem{Key: k.Key, Reason: k.Reason})
	}
	result.Applied = nil
	return result
}

// apply takes the steps from one configuration to another, all or none. failed
// names the step whose error is returned.
func (r *reloads) apply(ctx context.Context, from, to config.Config) (failed string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	changes := config.Diff(from, to)
	var done []*step
	for i := range r.steps {
		s := &r.steps[i]
		// A key may be in several steps.
		if !slices.ContainsFunc(changes, func(c config.Change) bool { return s.has(c.Key) }) {
			continue
		}
		done = append(done, s)
		if err = s.apply(ctx, to); err != nil {
			failed = s.name
			break
		}
	}
	if err == nil {
		return "", nil
	}
	undo, cancelUndo := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancelUndo()
	for _, s := range slices.Backward(done) { // the one that failed, too: it may be half done
		if undoErr := s.apply(undo, from); undoErr != nil {
			r.logger.Error("configuration: a step could not be taken back", "step", s.name, "err", undoErr)
			if s.name != failed {
				err = errors.Join(err, fmt.Errorf("take back step %q: %w", s.name, undoErr))
			}
		}
	}
	return failed, err
}

// stepOf is the first step that puts the key in force; nil: none does.
func (r *reloads) stepOf(key string) *step {
	for i := range r.steps {
		if r.steps[i].has(key) {
			return &r.steps[i]
		}
	}
	return nil
}

// changeLog is changes in a log line.
type changeLog []config.Change

// LogValue implements slog.LogValuer.
func (c changeLog) LogValue() slog.Value {
	lines := make([]string, len(c))
	for i, change := range c {
		lines[i] = fmt.Sprintf("%s: %s → %s", change.Key, change.Old, change.New)
	}
	return slog.AnyValue(lines)
}
