package appliance

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"forebay/appliance/config"
	"forebay/raftstate"
	"forebay/sink"
	"forebay/sink/embedded"
	"forebay/sink/postgres"
	"forebay/wal"
	"forebay/wal/message"
)

// restoreTimeout bounds the loading of the replicated state, which is small, and
// the wait for the database.
const restoreTimeout = time.Minute

// Restore makes the data directory of cfg from a backup file. The appliance must
// be stopped, and the directory must hold no log, state or store. Every part is
// verified before the first is put in place. A database that has gone on since the
// backup must answer: the log's numbers go on behind those that are in it.
func Restore(ctx context.Context, cfg config.Config, file string) (wal.Summary, error) {
	z, err := zip.OpenReader(file)
	if err != nil {
		return wal.Summary{}, fmt.Errorf("%s is not a backup, or is cut short: %w", file, err)
	}
	defer z.Close()
	members := map[string]*zip.File{}
	for _, f := range z.File {
		members[f.Name] = f
	}
	if members[backupState] == nil || members[backupLog] == nil {
		return wal.Summary{}, fmt.Errorf("%s is not a backup of an appliance", file)
	}
	raftDir, storeDir := filepath.Join(cfg.DataDir, "raft"), filepath.Join(cfg.DataDir, "store")
	for _, dir := range []string{cfg.LogDir(), raftDir, storeDir} {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return wal.Summary{}, fmt.Errorf("%s is not empty; move %s away first", dir, cfg.DataDir)
		}
	}
	since, err := issuedByDatabase(ctx, cfg)
	if err != nil {
		return wal.Summary{}, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return wal.Summary{}, fmt.Errorf("make the data directory: %w", err)
	}
	for _, f := range z.File { // the checksums of all, first
		if err := read(f, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err != nil {
			return wal.Summary{}, err
		}
	}
	if f := members[backupStore]; f != nil {
		if err := read(f, func(r io.Reader) error { return embedded.Restore(r, storeDir) }); err != nil {
			return wal.Summary{}, err
		}
		if since, err = issuedByEmbedded(ctx, cfg, storeDir); err != nil {
			return wal.Summary{}, err
		}
	}
	if err := read(members[backupState], func(r io.Reader) error { return restoreState(ctx, cfg, raftDir, r) }); err != nil {
		return wal.Summary{}, err
	}
	var s wal.Summary
	err = read(members[backupLog], func(r io.Reader) (err error) {
		s, err = wal.Restore(r, cfg.LogDir(), since)
		return err
	})
	return s, err
}

// issuer is a store that knows how far a node's numbers have come.
type issuer interface {
	Issued(ctx context.Context, node uint16) (seq uint64, id message.ID, err error)
}

// issued asks a store how far this node's numbers have come: messages that were
// accepted after the backup of the log may be in it, and a number must not stand
// for two.
func issued(ctx context.Context, store issuer, node uint16) (since wal.Issued, err error) {
	since.Seq, since.ID, err = store.Issued(ctx, node)
	return since, err
}

// issuedByEmbedded asks the embedded store, which is copied after the log.
func issuedByEmbedded(ctx context.Context, cfg config.Config, dir string) (since wal.Issued, err error) {
	store, err := embedded.Open(embedded.Config{Dir: dir, Retention: max(cfg.Database.Retention, cfg.Buffer.IdempotencyTTL), ClaimTTL: cfg.Buffer.IdempotencyTTL})
	if err != nil {
		return since, err
	}
	since, err = issued(ctx, store, cfg.Node)
	return since, errors.Join(err, store.Close())
}

// issuedByDatabase asks the database, which has gone on since the backup.
func issuedByDatabase(ctx context.Context, cfg config.Config) (since wal.Issued, err error) {
	url := cfg.Database.URL.Reveal()
	switch {
	case url == "" && cfg.Database.URLFile != "":
		return since, errors.New("the database's address was not read from database.url_file")
	case url == "":
		return since, nil
	}
	c := postgres.Config{URL: url, MaxPoolSize: 1, ConnectionTimeout: cfg.Database.ConnectionTimeout, Retention: cfg.Database.Retention}
	err = askDatabase(ctx, c, restoreTimeout, func(ctx context.Context, store sink.Store) (err error) {
		since, err = issued(ctx, store.(issuer), cfg.Node)
		return err
	})
	if err != nil {
		return since, fmt.Errorf("how far have this node's numbers come? (start the database first; the restored log must go on behind them): %w", err)
	}
	return since, nil
}

func awaitUp(ctx context.Context, store sink.Store, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for h := store.Health(); !h.Up; h = store.Health() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %s", h.Detail)
		}
	}
	return nil
}

func read(f *zip.File, use func(io.Reader) error) error {
	r, err := f.Open()
	if err == nil {
		err = errors.Join(use(r), r.Close())
	}
	if err != nil {
		return fmt.Errorf("read %s from the backup: %w", f.Name, err)
	}
	return nil
}

// restoreState founds a group in dir and loads the dump into it.
func restoreState(ctx context.Context, cfg config.Config, dir string, dump io.Reader) error {
	ctx, cancel := context.WithTimeoutCause(ctx, restoreTimeout, errors.New("the replicated state did not start in time"))
	defer cancel()
	failed := make(chan error, 1)
	group, err := raftstate.Open(raftstate.Config{
		NodeID: cfg.Node, Dir: dir, Plans: plansOf(cfg.RateLimiting.Tiers), Logger: slog.New(slog.DiscardHandler),
		Fatal: func(err error) {
			failed <- err
			cancel()
		},
	})
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- group.Run(run) }()
	err = group.Load(ctx, dump)
	if err == nil {
		err = group.Snapshot(ctx)
	}
	stop()
	err = errors.Join(err, <-ended, group.Close())
	select {
	case fatal := <-failed:
		return errors.Join(fatal, err)
	default:
		return err
	}
}
