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
	"forebay/sink/embedded"
	"forebay/wal"
)

// restoreTimeout bounds the loading of the replicated state, which is small.
const restoreTimeout = time.Minute

// Restore makes the data directory of cfg from a backup file. The appliance must
// be stopped, and the directory must hold no log, state or store. Every part is
// verified before the first is put in place.
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
	}
	if err := read(members[backupState], func(r io.Reader) error { return restoreState(ctx, cfg, raftDir, r) }); err != nil {
		return wal.Summary{}, err
	}
	var s wal.Summary
	err = read(members[backupLog], func(r io.Reader) (err error) {
		s, err = wal.Restore(r, cfg.LogDir())
		return err
	})
	return s, err
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
