package breaker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	reportEvery  = 100 * time.Millisecond // at most one report of a node in this time
	reportWithin = 2 * time.Second        // for an answer; then the node goes by its own view
	reportRetry  = 250 * time.Millisecond // after one that did not reach the group, doubling
	reportSlow   = 5 * time.Second        // and no slower than that

	askAgain   = time.Second     // after the group gave no permit
	giveBack   = 5 * time.Second // a permit that nobody takes, or after a quarter of a call's time-out
	tellAgain  = 5 * time.Second // what the group should have answered by a new generation
	forgetTick = time.Minute
)

// Run reports to the group and tells subscribers of changes, until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	w.mu.Lock()
	w.running = true
	for _, e := range w.entries {
		if e.phase() != Closed || len(e.view.OpenOn) > 0 {
			w.changedLocked(e, e.phase(), time.Now())
		}
	}
	w.mu.Unlock()
	var telling sync.WaitGroup
	telling.Go(func() { w.tellAll(ctx) })
	defer telling.Wait()
	w.reportLoop(ctx)
	return nil
}

// tellAll calls the subscribers, without the lock.
func (w *Watch) tellAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.news:
		}
		w.mu.Lock()
		changes := w.changes
		w.changes = nil
		ids := slices.Sorted(maps.Keys(w.listeners))
		listeners := make([]func(Change), 0, len(ids))
		for _, id := range ids {
			listeners = append(listeners, w.listeners[id])
		}
		w.mu.Unlock()
		for _, c := range changes {
			for _, f := range listeners {
				f(c)
			}
		}
	}
}

func (w *Watch) reportLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := reportRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.kick:
		case <-timer.C:
		}
		items, next := w.collect(time.Now())
		if len(items) == 0 {
			timer.Reset(next)
			continue
		}
		err := w.propose(ctx, items)
		if ctx.Err() != nil {
			return
		}
		rest := reportEvery
		if err == nil {
			pause = reportRetry
		} else {
			rest, pause = pause, min(2*pause, reportSlow)
		}
		select { // even if kicked: this is what bounds the commands
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
		timer.Reset(0)
	}
}

func (w *Watch) propose(ctx context.Context, items []Item) error {
	limited, cancel := context.WithTimeout(ctx, reportWithin)
	defer cancel()
	err := w.cfg.Propose(limited, Report{Node: w.cfg.Node, Items: items})
	w.mu.Lock()
	defer w.mu.Unlock()
	if lost := err != nil; lost != w.lost && ctx.Err() == nil {
		w.lost = lost
		if lost {
			w.log.Warn("breakers: the group can't be told; this node goes by its own view", "err", err)
		} else {
			w.log.Info("breakers: the group is told again")
		}
		w.tellProbesLocked()
	}
	now := time.Now()
	for _, item := range items {
		e := w.entries[item.Service]
		switch {
		case e == nil || e.view.Generation != item.Generation: // the group has moved on
		case err != nil:
			w.untold(e, item, now)
		case e.view.Phase == Closed:
			e.unchanged()
		}
	}
	return err
}

// untold is for an item that has not reached the group: it is still to be told, and
// the node goes by its own view until it is.
func (w *Watch) untold(e *entry, item Item, now time.Time) {
	e.dirty = e.dirty || item.Failures > 0 || item.OK || item.Probe != ""
	e.told, e.asked = time.Time{}, time.Time{}
	if e.own == ownNone && item.Probe != "" && item.Probe == e.ended {
		w.decideAlone(e, now)
	}
}

// tellProbesLocked wakes those who were held back and may now make a trial of
// their own, for the group cannot give them a permit.
func (w *Watch) tellProbesLocked() {
	now := time.Now()
	for _, e := range w.entries {
		if e.wanted && e.phase() != Closed && w.mayProbeLocked(e, now) {
			w.tellCallable(e, now)
		}
	}
}

func (w *Watch) tellCallable(e *entry, now time.Time) {
	e.wanted = false
	w.tell(e, e.phase(), true, now)
}

// collect returns what is to be reported now, and else when to look again.
func (w *Watch) collect(now time.Time) (items []Item, next time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next = forgetTick
	later := func(t time.Time) { next = max(min(next, t.Sub(now)), time.Millisecond) }
	for _, e := range w.entries {
		if item, due := w.itemOf(e, now, later); due {
			items = append(items, item)
		}
	}
	if len(items) == 0 {
		w.forgetLocked(now)
	}
	slices.SortFunc(items, func(a, b Item) int { return strings.Compare(a.Service, b.Service) })
	return items, next
}

// itemOf returns what there is to say of one service. later is called with the
// times at which there may be more.
func (w *Watch) itemOf(e *entry, now time.Time, later func(time.Time)) (item Item, due bool) {
	if e.view.Forced != "" {
		e.dirty = false
		return Item{}, false
	}
	item = Item{Service: e.name, Generation: e.view.Generation}
	if e.own != ownNone || e.ended != "" { // the answer is a new generation; without one, say it again
		if again := e.told.Add(tellAgain); !e.told.IsZero() && now.Before(again) && !w.lost {
			later(again)
			return Item{}, false
		}
		e.dirty = true
	}
	if e.dirty {
		due = true
		if e.own == ownOpen {
			item.Failures = e.failures
		}
		if e.own == ownOpen || e.ended == ProbeFailure {
			item.Reason = e.reason
		}
		item.Probe = e.ended
	}
	switch {
	case e.granted(w.cfg.Node) && !e.trying && e.ended == "" && !e.free.IsZero():
		last := e.lastStart(w.settings)
		if at := e.free.Add(min(giveBack, w.settings.Timeout/4)); now.Before(at) && now.Before(last) {
			later(at)
			later(last)
		} else {
			item.Probe, due = ProbeUnused, true
			// Who came when it was too late for this permit wants the next one.
			e.ended, e.wanted = ProbeUnused, e.wanted && !now.Before(last)
		}
	case e.wanted && !e.trying && e.ended == "" && e.phase() != Closed && !e.granted(w.cfg.Node):
		due = w.ask(e, &item, now, later) || due
	}
	if !due {
		return Item{}, false
	}
	if !e.okAt.IsZero() {
		item.OK, item.OKAgeMS = true, ms(now.Sub(e.okAt))
		e.okTold = e.okAt
	}
	e.dirty, e.told = false, now
	return item, true
}

// ask adds the wish for a permit, if it is time.
func (w *Watch) ask(e *entry, item *Item, now time.Time, later func(time.Time)) bool {
	if w.mayProbeLocked(e, now) {
		w.tellCallable(e, now)
	}
	at := e.retryAt
	switch {
	case e.view.Phase == HalfOpen:
		at = e.probeUntil // of another node, which may not come back
	case e.view.Phase == Closed:
		at = e.ownRetry
	}
	early := e.view.Phase == Open && w.witnessed(e.name)
	if again := e.asked.Add(askAgain); at.Before(again) {
		at = again
		early = early && !now.Before(again)
	}
	if !early && now.Before(at) {
		later(at)
		if w.witnesses[e.name] != nil {
			later(now.Add(reportEvery))
		}
		return false
	}
	if e.view.Phase == Closed { // its own; the group has nothing to give
		return false
	}
	item.Ask, item.Early = true, early
	e.asked = now
	if e.first.IsZero() {
		e.first = now
	}
	return true
}
