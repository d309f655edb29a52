package config

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Defaults of Watcher.
const (
	DefaultQuiet = 300 * time.Millisecond
	DefaultPoll  = 45 * time.Second
	// longestBurst bounds how long a directory that is never quiet can put off
	// the look at its files.
	longestBurst = 10
)

// Watcher says when a configuration's files have changed.
//
// It watches directories, never files: an editor replaces a file, and whoever
// watches the old one is deaf from then on; Kubernetes moves a symbolic link
// beside it, and the file's own name never appears. On any event it waits until
// the directories are quiet, so that a burst is one change and a file that is
// being written is read when it is whole, and compares what the files hold. It
// compares also now and then without an event: network file systems send none,
// and the kernel's number of watches is limited. So it works, only later, where
// watching fails altogether.
type Watcher struct {
	// Files names the files that count, and Directories where they are; both are
	// asked anew each time.
	Files       func() []string
	Directories func() []string
	// Changed is called, by one goroutine, when what the files hold has changed.
	Changed func(ctx context.Context)

	Quiet  time.Duration // 0: DefaultQuiet
	Poll   time.Duration // 0: DefaultPoll
	Logger *slog.Logger  // nil: nothing is logged
	// Deaf makes it work by looking alone, as where the kernel has no watch left.
	Deaf bool

	seen    map[string]Digest
	watched map[string]bool
}

// Run watches until ctx ends. What the files hold when Run begins is what
// changes are measured against, unless Start has been called before.
func (w *Watcher) Run(ctx context.Context) error {
	if w.Quiet == 0 {
		w.Quiet = DefaultQuiet
	}
	if w.Poll == 0 {
		w.Poll = DefaultPoll
	}
	if w.Logger == nil {
		w.Logger = slog.New(slog.DiscardHandler)
	}
	if w.seen == nil {
		w.Start()
	}
	var events chan fsnotify.Event
	var faults chan error
	inotify, err := w.open()
	if err != nil {
		w.Logger.Warn("the configuration's directories cannot be watched: changes are found by looking", "every", w.Poll, "err", err)
	} else {
		defer inotify.Close()
		events, faults = inotify.Events, inotify.Errors
	}
	w.loop(ctx, inotify, events, faults)
	return nil
}

// Start takes what the files hold now as known.
func (w *Watcher) Start() { w.seen = Fingerprint(w.Files()) }

var errDeaf = errors.New("switched off")

func (w *Watcher) open() (*fsnotify.Watcher, error) {
	if w.Deaf {
		return nil, errDeaf
	}
	return fsnotify.NewWatcher()
}

func (w *Watcher) loop(ctx context.Context, inotify *fsnotify.Watcher, events chan fsnotify.Event, faults chan error) {
	poll := time.NewTicker(w.Poll)
	defer poll.Stop()
	quiet := time.NewTimer(w.Quiet) // look once, for what changed before the watch stood
	defer quiet.Stop()
	var burst time.Time // when the first event came that has not been looked at
	w.watch(inotify)
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if e.Op == fsnotify.Chmod {
				continue
			}
			// A directory that went is not watched any more, whoever stands at its
			// name now.
			if w.watched[e.Name] && (e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)) {
				delete(w.watched, e.Name)
				_ = inotify.Remove(e.Name)
			}
			if burst.IsZero() {
				burst = time.Now()
			}
			if time.Since(burst) < longestBurst*w.Quiet {
				quiet.Reset(w.Quiet)
			}
		case err := <-faults: // events may have been lost
			w.Logger.Warn("watching the configuration's directories", "err", err)
			quiet.Reset(w.Quiet)
		case <-quiet.C:
			burst = time.Time{}
			w.watch(inotify)
			w.look(ctx)
			w.watch(inotify) // the new configuration may name files elsewhere
		case <-poll.C:
			w.watched = nil // a directory may have been replaced without an event
			w.watch(inotify)
			w.look(ctx)
		}
	}
}

// look compares, and reports what differs.
func (w *Watcher) look(ctx context.Context) {
	now := Fingerprint(w.Files())
	if maps.Equal(now, w.seen) || ctx.Err() != nil {
		return
	}
	w.seen = now
	w.Changed(ctx)
	// The new configuration may name other files. Those that were known before
	// stay as they were seen then: one that has changed meanwhile is news.
	for name, digest := range Fingerprint(w.Files()) {
		if _, known := w.seen[name]; !known {
			w.seen[name] = digest
		}
	}
	maps.DeleteFunc(w.seen, func(name string, _ Digest) bool { return !slices.Contains(w.Files(), name) })
}

// watch adds what is not watched yet. A directory that is not there is tried
// again at the next event of its parent, or look.
func (w *Watcher) watch(inotify *fsnotify.Watcher) {
	if inotify == nil {
		return
	}
	if w.watched == nil {
		w.watched = map[string]bool{}
		for _, dir := range inotify.WatchList() {
			_ = inotify.Remove(dir) // it may be the old one of that name
		}
	}
	for _, dir := range w.Directories() {
		if !w.watched[dir] && inotify.Add(dir) == nil {
			w.watched[dir] = true
		}
	}
}
