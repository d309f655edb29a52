package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/sink"
)

// ErrFailed is the error of Run when Badger has failed. The process must start
// again: what Badger holds in memory may not be what is on disk.
var ErrFailed = errors.New("embedded store has failed")

// duty is something that Run does now and then.
type duty struct {
	what  string
	every time.Duration
	do    func(context.Context) error
	next  time.Time // zero: at once
}

// retryDuty is how long a duty rests that could not be done.
const retryDuty = time.Minute

// Run implements sink.Store: it opens the store if Open could not, watches the
// disk, deletes what is too old and looks for what is lost, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	retention := duty{what: "delete old messages", every: retentionInterval, do: s.retain}
	scrub := duty{what: "look for lost messages", every: scrubInterval, do: s.scrub}
	tidy := duty{what: "delete old counts and reports", every: tidyInterval, do: s.tidy}
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	for {
		if err := s.look(); err != nil {
			return err
		}
		if s.miscounted.Swap(false) {
			scrub.next = time.Time{}
		}
		s.perform(ctx, &retention)
		s.perform(ctx, &scrub)
		s.perform(ctx, &tidy)
		select {
		case <-ctx.Done():
			return nil
		case <-s.fails:
			return fmt.Errorf("%w: %s", ErrFailed, *s.broken.Load())
		case <-watch.C:
		}
	}
}

// perform does a duty if it is time. What hinders it is logged, unless it is
// being stopped, or the store is down and says so itself.
func (s *Store) perform(ctx context.Context, d *duty) {
	if !s.opened() || time.Now().Before(d.next) {
		return
	}
	err := d.do(ctx)
	d.next = time.Now().Add(d.every)
	if err == nil {
		return
	}
	d.next = time.Now().Add(min(d.every, retryDuty))
	if down := (*sink.Down)(nil); ctx.Err() == nil && !errors.As(err, &down) {
		s.log.Error("The store cannot "+d.what+".", "err", err)
	}
}

// look opens the tree if it is not, and sees how the disk is.
func (s *Store) look() error {
	if !s.opened() {
		return s.openTree()
	}
	before := s.full.Load()
	if err := s.checkRoom(s.settings.Load().MinFreeBytes); err != nil && !before {
		s.log.Error("The store takes nothing more.", "err", err)
	}
	return nil
}
