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

// Run implements sink.Store: it opens the store if Open could not, watches the
// disk, deletes what is too old and looks for what is lost, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	var retained, scrubbed time.Time // when it was last done to the end
	for {
		if err := s.look(); err != nil {
			return err
		}
		if s.opened() && time.Since(retained) >= retentionInterval {
			if err := s.retain(ctx); err == nil {
				retained = time.Now()
			} else if !s.passing(ctx, err) {
				s.log.Error("Old messages cannot be deleted.", "err", err)
				retained = time.Now() // not every second
			}
		}
		if s.opened() && (time.Since(scrubbed) >= scrubInterval || s.miscounted.Swap(false)) {
			if err := s.scrub(ctx); err != nil && !s.passing(ctx, err) {
				s.log.Error("The store cannot be checked.", "err", err)
			}
			scrubbed = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.fails:
			return fmt.Errorf("%w: %s", ErrFailed, *s.broken.Load())
		case <-watch.C:
		}
	}
}

// look opens the tree if it is not, and sees how the disk is.
func (s *Store) look() error {
	if !s.opened() {
		return s.openTree()
	}
	before := s.full.Load()
	if err := s.checkRoom(s.cfg.MinFreeBytes); err != nil && !before {
		s.log.Error("The store takes nothing more.", "err", err)
	}
	return nil
}

// passing reports whether an error of a background duty needs no word: it is
// being stopped, or the store is down and says so itself.
func (s *Store) passing(ctx context.Context, err error) bool {
	var down *sink.Down
	return ctx.Err() != nil || errors.As(err, &down)
}
