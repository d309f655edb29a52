package breaker

import (
	"slices"
	"strings"
	"time"
)

// Follow takes over what the group has decided, at a stamp that has just been
// applied: of the services named, or of all if names is nil, which is how a node
// adopts a snapshot. It returns at once.
func (w *Watch) Follow(s *State, names []string, at uint64) {
	views := make([]View, 0, len(names))
	for _, name := range names {
		views = append(views, s.View(name, w.cfg.Node))
	}
	settings, configured := s.Settings()
	w.mu.Lock()
	defer w.mu.Unlock()
	if configured {
		w.settings = settings
	}
	now := time.Now()
	if names == nil {
		views = s.Views(w.cfg.Node)
		for name := range w.entries { // of what the group has forgotten, its view is the empty one
			if !s.Knows(name) {
				views = append(views, View{Service: name})
			}
		}
	}
	for _, v := range views {
		e := w.entryLocked(v.Service, now)
		if e == nil {
			continue
		}
		from, before := e.phase(), e.view
		e.adopt(v, now, at, w.cfg.Node)
		if to := e.phase(); to != from || v.Phase == HalfOpen && !before.same(v) || !slices.Equal(before.OpenOn, v.OpenOn) {
			w.changedLocked(e, from, now)
		}
	}
	w.wake()
}

// Settings returns the settings in force. Timeout bounds a call of a service.
func (w *Watch) Settings() Settings {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settings
}

// State returns how the breaker of a service stands on this node, and while it is
// not closed when Acquire may next succeed; zero: at once, where this node holds
// the probe, or that is not known, and a change will tell. Whoever keeps calls
// back until then must not wait for the end of a probe that is his to make.
func (w *Watch) State(service string) (phase Phase, retryAt time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[service]
	if e == nil {
		if class, _, ok := strings.Cut(service, ":"); ok && w.entries[class] != nil && w.entries[class].view.Forced == ForcedOpen {
			return Open, time.Time{}
		}
		return Closed, time.Time{}
	}
	s := w.statusOf(e)
	if s.Phase != Closed && s.Forced == "" && w.mayProbeLocked(e, time.Now()) {
		return s.Phase, time.Time{}
	}
	return s.Phase, s.RetryAt
}

// Status is a breaker for people and status pages.
type Status struct {
	Service    string
	Phase      Phase    // for this node
	OpenOn     []uint16 // the nodes it is open on, if not on all of them
	Generation uint64
	Since      time.Time // of the last opening or closing; zero: never
	RetryAt    time.Time // next probe, while open; zero: not by itself
	Failures   int       // in a row, on this node
	Reason     string    // why it opened, while it is open; empty: nobody said
	Forced     Position  // "": by its own rules
	Who        string    // forced it or let it go last
	ForcedAt   time.Time
	Probe      uint16 // node that has the permit of a half-open one; 0: none or not known
}

func (w *Watch) statusOf(e *entry) Status {
	s := Status{Service: e.name, Phase: e.phase(), OpenOn: e.view.OpenOn, Generation: e.view.Generation, Since: e.since, Failures: e.failures,
		Forced: e.view.Forced, Who: e.view.Who, ForcedAt: e.view.ForcedAt}
	if e.parent != nil && e.parent.view.Forced == ForcedOpen {
		s.Phase, s.Forced, s.Who, s.ForcedAt = Open, ForcedOpen, e.parent.view.Who, e.parent.view.ForcedAt
	}
	if s.Reason = e.view.Reason; e.own == ownOpen {
		s.Reason = e.reason
	}
	switch {
	case s.Phase == Closed || s.Forced != "":
		s.Reason = ""
	case e.own == ownOpen:
		s.RetryAt = e.ownRetry
	case e.view.Phase == HalfOpen:
		s.RetryAt, s.Probe = e.probeUntil, e.view.Probe
	case e.view.Phase == Open:
		s.RetryAt = e.retryAt
	}
	return s
}

// Services lists the breakers of this node, ascending by name.
func (w *Watch) Services() []Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]Status, 0, len(w.entries))
	for _, e := range w.entries {
		list = append(list, w.statusOf(e))
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Service, b.Service) })
	return list
}
