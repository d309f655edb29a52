package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// Backup writes a consistent copy of the store while it runs. The copy has no
// checksum of its own: what it is kept in must have one.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	db, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer s.exit()
	stream := db.NewStream()
	stream.LogPrefix = "backup"
	stream.NumGo = 1 // each would read at a moment of its own, and the backup is of one
	if _, err := stream.Backup(stopWriter{ctx, w}, 0); err != nil {
		return fmt.Errorf("back up embedded store: %w", err)
	}
	return nil
}

// stopWriter fails once its context has ended.
type stopWriter struct {
	ctx context.Context
	w   io.Writer
}

func (s stopWriter) Write(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.w.Write(p)
}

// Restore makes a store in dir, which must not hold one, from a backup. The
// directory is not there until r has been read to its end without an error.
func Restore(r io.Reader, dir string) (err error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s already holds a store; move it away first", dir)
	}
	fresh := filepath.Clean(dir) + ".restored"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return err
	}
	var failed error
	logger := badgerLogger{slog.New(slog.DiscardHandler), func(line string) { failed = errors.New(line) }}
	db, err := badger.Open(treeOptions(fresh, usualMemTable, logger))
	if err != nil {
		return fmt.Errorf("restore embedded store: %w", err)
	}
	const pending = 16 // batches
	if err = db.Load(r, pending); err == nil {
		_, err = io.Copy(io.Discard, r) // to the end, where a checksum is checked
	}
	if err == nil {
		err = checkFormat(db)
	}
	if err = errors.Join(err, db.Close(), failed); err != nil {
		return fmt.Errorf("restore embedded store: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}
