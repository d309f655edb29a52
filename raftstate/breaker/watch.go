package breaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what a Watch is made of. Node and Propose are required.
type Config struct {
	Node uint16
	// Propose has the group carry out a report. It returns when the report is
	// applied, or with an error when it is not known to be; it must end when ctx
	// does.
	Propose func(ctx context.Context, r Report) error

	Settings   Settings              // until the group's are known; zero: DefaultSettings
	Logger     *slog.Logger          // nil: discarded
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// Verdict is what a call said about the service.
type Verdict uint8

// The verdicts.
const (
	Success Verdict = iota + 1
	Failure
	Neutral // nothing: a fault of the recipient or of the content, a throttle, a call not made
)

// Change tells of a transition.
type Change struct {
	Service  string
	From, To Phase    // for this node
	OpenOn   []uint16 // the nodes it is open on, if not on all of them
	Callable bool     // Acquire would give a permit now
	Forced   Position
	Who      string
	At       time.Time
}

// Watch is a node's view of the breakers. It is safe for concurrent use.
type Watch struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	kick chan struct{} // capacity 1: there may be something to report
	news chan struct{} // capacity 1: there are changes to tell

	mu        sync.Mutex // guards what follows, and every entry
	settings  Settings
	entries   map[string]*entry
	witnesses map[string]func() bool
	listeners map[int]func(Change)
	listener  int
	changes   []Change
	running   bool
	lost      bool // the last report did not reach the group
}

// New returns a Watch that lets every call through until it learns better.
func New(cfg Config) (*Watch, error) {
	if cfg.Node == 0 || cfg.Propose == nil {
		return nil, errors.New("configure breakers: node and propose are required")
	}
	if cfg.Settings == (Settings{}) {
		cfg.Settings = DefaultSettings()
	}
	if err := cfg.Settings.Validate(); err != nil {
		return nil, fmt.Errorf("configure breakers: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Watch{cfg: cfg, log: cfg.Logger, settings: cfg.Settings, kick: make(chan struct{}, 1), news: make(chan struct{}, 1),
		entries: map[string]*entry{}, witnesses: map[string]func() bool{}, listeners: map[int]func(Change){}}
	var err error
	if w.metrics, err = newMetrics(cfg.Registerer, w); err != nil {
		return nil, fmt.Errorf("register metrics of breakers: %w", err)
	}
	return w, nil
}

// Witness names another way to know that a service answers: while f says so, a
// probe need not wait for the recovery time. f must return at once.
func (w *Watch) Witness(service string, f func() bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.witnesses[service] = f
}

// Permit is the leave to make one call. It must be Done, once.
type Permit struct {
	watch      *Watch
	entry      *entry
	generation uint64
	trial      uint64 // which probe it is; 0: an ordinary call
}

// Acquire asks for one call of a service. false: not now, and nothing was
// called. It allocates nothing for a service that it knows, and never waits for
// the group.
func (w *Watch) Acquire(service string) (Permit, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	e := w.entryLocked(service, now)
	if e == nil {
		return Permit{}, true // too many services: this one goes without a breaker
	}
	e.used = now
	if e.parent != nil && e.parent.view.Forced == ForcedOpen {
		return Permit{}, false
	}
	switch {
	case e.phase() == Closed:
		return Permit{w, e, e.view.Generation, 0}, true
	case e.view.Forced == ForcedOpen:
		return Permit{}, false
	case w.mayProbeLocked(e, now):
		e.beginTrial()
		return Permit{w, e, e.view.Generation, e.trial}, true
	}
	if !e.wanted {
		e.wanted = true
		w.wake()
	}
	return Permit{}, false
}

// Done says how the call went. One that began under another generation of the
// breaker says nothing.
func (p Permit) Done(v Verdict) {
	if p.entry == nil {
		return
	}
	p.watch.done(p, v, "")
}

// Failed is Done with Failure, and says why: what class of error it was, in a few
// words, for people. It must not have a secret in it; of it MaxReason bytes are
// kept.
func (p Permit) Failed(why string) {
	if p.entry == nil {
		return
	}
	p.watch.done(p, Failure, reasonOf(why))
}

func (w *Watch) done(p Permit, v Verdict, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, now := p.entry, time.Now()
	if p.generation != e.view.Generation || e.view.Forced != "" {
		return
	}
	switch {
	case p.trial != 0:
		if p.trial == e.trial && e.trying {
			w.tried(e, v, why, now)
		}
	case e.phase() != Closed || v == Neutral:
	case v == Success:
		e.failures = 0
		e.okAt = now
		if now.Sub(e.okTold) >= w.settings.Recovery/evidenceShare {
			e.dirty = true
			w.wake()
		}
	default:
		e.failures++
		e.reason = why
		if e.failures >= w.settings.Threshold {
			w.transition(e, now, func() { e.trip(now, w.settings.Recovery) })
			w.log.Warn("breaker: this node opens it", "service", e.name, "failures", e.failures, "reason", why)
			w.wake()
		}
	}
}

// evidenceShare of the recovery time is how often a node tells the others that a
// service answers.
const evidenceShare = 6

// tried ends a probe.
func (w *Watch) tried(e *entry, v Verdict, why string, now time.Time) {
	e.trying = false
	if v == Neutral {
		e.free = now // the permit is still good for another call
		w.wake()
		return
	}
	e.ended, e.reason = ProbeFailure, why
	if v == Success {
		e.ended, e.okAt, e.failures = ProbeSuccess, now, 0
	}
	e.dirty = true
	if !e.granted(w.cfg.Node) { // its own trial, without the group
		w.decideAlone(e, now)
	}
	w.wake()
}

// decideAlone has the node go by how its probe ended, where the group does not say.
func (w *Watch) decideAlone(e *entry, now time.Time) {
	w.transition(e, now, func() {
		switch e.ended {
		case ProbeSuccess:
			e.own = ownClosed
		case ProbeFailure:
			e.factor = min(2*max(e.factor, 1), maxFactor)
			e.own, e.ownRetry = ownOpen, now.Add(time.Duration(e.factor)*w.settings.Recovery)
		case ProbeUnused: // the permit may be another's by now
			e.factor = max(e.factor, 1)
			e.own, e.ownRetry = ownOpen, now.Add(time.Duration(e.factor)*w.settings.Recovery)
		}
	})
}

// entryLocked returns the entry of a service, made if need be; nil: too many.
func (w *Watch) entryLocked(service string, now time.Time) *entry {
	if e := w.entries[service]; e != nil {
		return e
	}
	if len(w.entries) >= MaxServices && !w.forgetLocked(now) || !ValidName(service) {
		return nil
	}
	e := &entry{name: service, used: now, view: View{Service: service}}
	w.entries[service] = e
	if class, _, ok := strings.Cut(service, ":"); ok {
		e.parent = w.entryLocked(class, now)
	}
	return e
}

// forgetLocked drops entries that say nothing a new one would not, and reports
// whether there were any.
func (w *Watch) forgetLocked(now time.Time) (any bool) {
	for name, e := range w.entries {
		if e.idle() && now.Sub(e.used) >= w.settings.Recovery && strings.Contains(name, ":") {
			delete(w.entries, name)
			any = true
		}
	}
	return any
}

// mayProbeLocked reports whether a call of an open breaker may be its probe.
func (w *Watch) mayProbeLocked(e *entry, now time.Time) bool {
	switch {
	case e.trying:
		return false
	case e.granted(w.cfg.Node):
		return e.ended == "" && now.Before(e.lastStart(w.settings))
	case !w.lost && !e.alone:
		return false // the group decides
	case e.own == ownOpen:
		return !now.Before(e.ownRetry) || w.witnessed(e.name)
	default:
		return e.phase() != Closed && (!now.Before(e.retryAt) || w.witnessed(e.name))
	}
}

func (w *Watch) witnessed(service string) bool {
	f := w.witnesses[service]
	return f != nil && f()
}

// wake has the reporter look.
func (w *Watch) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// transition makes a change and has it told.
func (w *Watch) transition(e *entry, now time.Time, change func()) {
	from := e.phase()
	change()
	if to := e.phase(); to != from {
		w.changedLocked(e, from, now)
	}
}

// maxChanges is how many changes may wait for listeners that are slow.
const maxChanges = 4096

// changedLocked has the subscribers told how a breaker stands now.
func (w *Watch) changedLocked(e *entry, from Phase, now time.Time) {
	to := e.phase()
	if to != from {
		w.metrics.transition(e.name, to)
	}
	w.tell(e, from, to == Closed || !e.trying && e.granted(w.cfg.Node), now)
}

func (w *Watch) tell(e *entry, from Phase, callable bool, now time.Time) {
	if !w.running {
		return // the past, read back at a start: Run tells how things stand
	}
	if len(w.changes) == maxChanges {
		w.changes = w.changes[1:]
	}
	w.changes = append(w.changes, Change{Service: e.name, From: from, To: e.phase(), OpenOn: e.view.OpenOn, Callable: callable,
		Forced: e.view.Forced, Who: e.view.Who, At: now})
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// Subscribe calls f for each transition, one after another, from a goroutine of
// Run, until cancel is called. f must return soon.
func (w *Watch) Subscribe(f func(Change)) (cancel func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener++
	id := w.listener
	w.listeners[id] = f
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.listeners, id)
	}
}
