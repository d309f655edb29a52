package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"forebay/appliance/config"
	"forebay/sink"
	"forebay/sink/embedded"
	"forebay/sink/postgres"
)

// askTimeout bounds what a command that can do without the database waits for it.
const askTimeout = 10 * time.Second

// Stored asks the store of a stopped appliance which of these numbers of node it
// has after all: a message may be in it long before it leaves the log.
func Stored(ctx context.Context, cfg config.Config, node uint16, seqs []uint64) (found []sink.Found, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, errors.New("it does not answer in time"))
	defer cancel()
	ask := func(ctx context.Context, store sink.Store) (err error) {
		found, err = store.Numbered(ctx, node, seqs)
		return err
	}
	if url := cfg.Database.URL.Reveal(); url != "" {
		err = askDatabase(ctx, postgres.Config{URL: url, MaxPoolSize: 1, ConnectionTimeout: cfg.Database.ConnectionTimeout, Retention: cfg.Database.Retention}, askTimeout, ask)
		return found, err
	}
	dir := filepath.Join(cfg.DataDir, "store")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing was ever stored
	}
	store, err := embedded.Open(embedded.Config{Dir: dir, Retention: max(cfg.Database.Retention, cfg.Buffer.IdempotencyTTL), ClaimTTL: cfg.Buffer.IdempotencyTTL})
	if err != nil {
		return nil, err
	}
	err = errors.Join(ask(ctx, store), store.Close())
	return found, err
}

// askDatabase runs a store just long enough to ask it something.
func askDatabase(ctx context.Context, c postgres.Config, patience time.Duration, ask func(context.Context, sink.Store) error) error {
	store, err := postgres.New(c)
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer stop() // where repeating cures nothing, nothing is waited for
		ended <- store.Run(run)
	}()
	if err = awaitUp(run, store, patience); err == nil {
		err = ask(run, store)
	}
	stop()
	if err = errors.Join(<-ended, store.Close(), err); err != nil {
		return fmt.Errorf("ask the database: %w", err)
	}
	return nil
}
