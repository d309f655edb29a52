package watch

import (
	"cmp"
	"slices"
	"time"

	"forebay/httpapi/admin"
)

// condition is what a rule found to hold at one moment.
type condition struct {
	name     string
	subject  string
	severity string
	summary  string
	whatToDo string
	holdFor  time.Duration // before its alert fires
}

// defaultSettle is how long a condition must be gone before its alert is
// resolved, where Config does not say otherwise.
const defaultSettle = 10 * time.Second

type alertKey struct{ name, subject string }

// state is one condition's alert, from when the condition begins to hold until
// the alert is resolved.
type state struct {
	alert  admin.Alert
	firing bool
	gone   time.Time // when the condition stopped to hold; zero: it holds
}

// engine turns conditions, which come and go, into alerts, which fire and are
// resolved. It has no clock of its own and is not safe for concurrent use.
type engine struct {
	states map[alertKey]*state
	settle time.Duration // see defaultSettle
}

// change is an alert that began to fire, got worse, or was resolved.
type change struct {
	alert    admin.Alert
	resolved bool
	at       time.Time
}

// step takes in what holds now and returns what changed.
func (e *engine) step(now time.Time, holds []condition) (changes []change) {
	seen := make(map[alertKey]bool, len(holds))
	for _, c := range holds {
		key := alertKey{c.name, c.subject}
		seen[key] = true
		s := e.states[key]
		if s == nil {
			s = &state{alert: admin.Alert{Name: c.name, Subject: c.subject, Severity: c.severity, Since: now.UTC()}}
			e.states[key] = s
		}
		worse := s.firing && rank(c.severity) < rank(s.alert.Severity)
		s.gone = time.Time{}
		s.alert.Severity, s.alert.Summary, s.alert.WhatToDo = c.severity, c.summary, c.whatToDo
		if begins := !s.firing && now.Sub(s.alert.Since) >= c.holdFor; begins || worse {
			s.firing = true
			changes = append(changes, change{alert: s.alert, at: now})
		}
	}
	for key, s := range e.states {
		switch {
		case seen[key]:
		case !s.firing:
			delete(e.states, key) // it did not hold long enough
		case s.gone.IsZero():
			s.gone = now
		case now.Sub(s.gone) >= e.settle:
			delete(e.states, key)
			changes = append(changes, change{alert: s.alert, resolved: true, at: now})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return worseFirst(a.alert, b.alert) })
	return changes
}

// firing returns the alerts that fire, the worst first.
func (e *engine) firing() []admin.Alert {
	alerts := make([]admin.Alert, 0, len(e.states))
	for _, s := range e.states {
		if s.firing {
			alerts = append(alerts, s.alert)
		}
	}
	slices.SortFunc(alerts, worseFirst)
	return alerts
}

// isFiring reports whether the alert fires: a rule with two thresholds takes the
// lower one then.
func (e *engine) isFiring(name, subject string) bool {
	s := e.states[alertKey{name, subject}]
	return s != nil && s.firing
}

func rank(severity string) int {
	switch severity {
	case admin.SeverityCritical:
		return 0
	case admin.SeverityWarning:
		return 1
	}
	return 2
}

func worseFirst(a, b admin.Alert) int {
	return cmp.Or(cmp.Compare(rank(a.Severity), rank(b.Severity)), a.Since.Compare(b.Since), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Subject, b.Subject))
}
