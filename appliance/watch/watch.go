package watch

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/httpapi/admin"
)

const (
	every = time.Second
	// slowEvery is how often the feed speaks while pressure is high: a picture
	// that is watched must not cost what messages need.
	slowEvery = 5
)

// Watch is the appliance's eye on itself.
type Watch struct {
	cfg      Config
	logger   *slog.Logger
	metrics  *metrics
	settings atomic.Pointer[Settings]
	history  history
	feed     *feed
	sender   *sender

	mu     sync.Mutex // guards what follows
	engine engine
	rates  rates
	alerts []admin.Alert
}

// New returns a Watch that looks at nothing before Run.
func New(cfg Config) (*Watch, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	w := &Watch{cfg: cfg, logger: cfg.Logger, metrics: m, feed: newFeed(m), engine: engine{states: map[alertKey]*state{}, settle: cmp.Or(cfg.Settle, defaultSettle)}}
	w.settings.Store(&cfg.Settings)
	w.sender = newSender(cfg.Logger, m, func() string { return w.settings.Load().WebhookURL })
	return w, nil
}

// Configure changes the settings from the next sample on, or changes nothing
// and says why.
func (w *Watch) Configure(s Settings) error {
	if err := s.Validate(); err != nil {
		return err
	}
	w.settings.Store(&s)
	return nil
}

// Settings are those in force.
func (w *Watch) Settings() Settings { return *w.settings.Load() }

// Run looks once a second until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	var sending sync.WaitGroup
	sending.Go(func() { w.sender.run(ctx) })
	defer sending.Wait()
	defer w.feed.end()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		w.look(time.Now(), n)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// event is what a viewer gets: the status, and each five seconds the point that
// the last hour grew by.
type event struct {
	Status admin.Status `json:",embed"`
	Point  point        `json:"point,omitzero"`
}

// look takes the n-th sample.
func (w *Watch) look(now time.Time, n int) {
	s := w.cfg.Status()
	w.mu.Lock()
	w.rates.add(now, &s)
	w.fillLocked(&s)
	l := look{Status: &s, settings: *w.settings.Load(), now: now, firing: w.engine.isFiring}
	changes := w.engine.step(now, l.conditions())
	w.alerts = w.engine.firing()
	s.Alerts = w.alerts
	w.mu.Unlock()

	w.tell(&s, changes)
	done := w.history.add(now, &s, s.Intake.RefusedRate)
	slow := s.Pressure != nil && (s.Pressure.Level == "high" || s.Pressure.Level == "critical")
	if w.feed.empty() || slow && n%slowEvery != 0 {
		return
	}
	encoded, err := json.Marshal(event{s, done}, json.Deterministic(true))
	if err != nil {
		w.logger.Error("the status could not be encoded", "error", err)
		return
	}
	w.feed.publish(encoded)
}

// tell logs, counts and sends what changed.
func (w *Watch) tell(s *admin.Status, changes []change) {
	for _, c := range changes {
		kind, level, say := "alert.firing", slog.LevelWarn, "alert"
		if c.resolved {
			kind, level, say = "alert.resolved", slog.LevelInfo, "alert resolved"
		}
		w.logger.Log(context.Background(), level, say, "alert", c.alert.Name, "subject", c.alert.Subject, "severity", c.alert.Severity,
			"since", c.alert.Since, "summary", c.alert.Summary, "what_to_do", c.alert.WhatToDo)
		w.sender.offer(Notification{Type: kind, Timestamp: c.at.UTC(), Node: s.Node, Version: s.Version, Alert: c.alert})
	}
	if len(changes) == 0 {
		return
	}
	count := make(map[string]int, len(Names))
	for _, a := range s.Alerts {
		count[a.Name]++
	}
	for _, name := range Names {
		w.metrics.firing.WithLabelValues(name).Set(float64(count[name]))
	}
}

// Fill adds what only the watch knows to a status that was measured now: the
// rates of late, and the alerts.
func (w *Watch) Fill(s *admin.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fillLocked(s)
	s.Alerts = w.alerts
}

func (w *Watch) fillLocked(s *admin.Status) {
	s.Intake.RefusedRate, s.Intake.ErrorRate = w.rates.refused, w.rates.errors
}

// Subscribe adds a viewer to the feed: ErrTooManyViewers where there are too
// many. first is the status as it is now, for its first event.
func (w *Watch) Subscribe() (v *Viewer, first []byte, err error) {
	if v, err = w.feed.subscribe(); err != nil {
		return nil, nil, err
	}
	s := w.cfg.Status()
	w.Fill(&s)
	if first, err = json.Marshal(event{Status: s}, json.Deterministic(true)); err != nil {
		v.Close()
		return nil, nil, fmt.Errorf("encode the status: %w", err)
	}
	return v, first, nil
}

// History returns what the last hour was like, from the points after since.
func (w *Watch) History(node uint16, started, since time.Time) History {
	return History{Node: node, StartedAt: started.UTC(), StepSeconds: int(step / time.Second), Columns: columns, Points: w.history.since(since)}
}
