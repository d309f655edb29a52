package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Summary is what Verify and Salvage say of a log as a whole.
type Summary struct {
	Node     uint16
	LastSeq  uint64 // highest number, by the log or by its tide mark
	Waiting  int64  // records that are there and whole, parked ones among them
	Parked   int64
	Complete uint64
	Findings int // harmless ones among them
	Grave    int // that keep the log from opening

	Quarantine string // Salvage: where the damaged log is now
	Lost       int    // Salvage: messages that were accepted and could not be read
}

// Verify checks the log in dir, which no process may have open, and changes
// nothing: it works on a copy (tables are linked, not copied) in a directory
// beside it, which it removes. report is called for each finding.
//
// The error is about the verification itself; a damaged log is a Summary with
// Grave above 0.
func Verify(dir string, report func(Finding)) (Summary, error) {
	unlock, err := lockLog(dir)
	if err != nil {
		return Summary{}, err
	}
	defer unlock()
	var s Summary
	found := &findings{each: report}
	mark, err := readTide(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // verifyCopy tells whether that matters
	case errors.Is(err, errDamaged):
		found.add(Finding{Kind: FindFile, Where: tideName, Text: err.Error()})
	case err != nil:
		return s, err
	}
	s.Node, s.LastSeq = mark.Node, mark.Seq
	if err := inspectFiles(dir, mark, found, false); err != nil {
		return s, err
	}
	if found.grave == 0 {
		if err := verifyCopy(dir, mark, found, &s); err != nil {
			return s, err
		}
	}
	s.Findings, s.Grave = found.total, found.grave
	return s, nil
}

// verifyCopy opens a copy of the database and does with it what Open does.
func verifyCopy(dir string, mark tide, found *findings, s *Summary) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".verify-")
	if err != nil {
		return fmt.Errorf("make room for a copy: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := cloneDatabase(dir, tmp); err != nil {
		return err
	}
	if err := removeStillborn(tmp); err != nil {
		return err
	}
	cfg := Config{Dir: tmp}.withDefaults()
	w := newWatch(slog.New(slog.DiscardHandler))
	db, err := openBadger(tmp, readerOptions(dbDir(tmp), max(cfg.MemTable, mark.MemTable, memTableOf(tmp)), w))
	if err != nil {
		found.add(Finding{Kind: FindFile, Where: "db", Text: err.Error()})
		return nil
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rec, err := recoverState(db, cfg, mark, found)
	if bad := w.err(); bad != nil {
		found.add(Finding{Kind: FindFile, Where: "db", Text: bad.Error()})
	}
	var damaged *DamagedError
	if errors.As(err, &damaged) {
		return nil // its findings are in found
	}
	if err != nil {
		return err
	}
	s.LastSeq, s.Waiting, s.Parked, s.Complete = rec.head.seq, rec.live, rec.parked, rec.head.done
	return nil
}

// cloneDatabase links the tables, which are never written to again, and copies
// everything else.
func cloneDatabase(dir, to string) error {
	if err := os.MkdirAll(dbDir(to), 0o700); err != nil {
		return err
	}
	names, err := databaseFiles(dbDir(dir))
	if err != nil {
		return err
	}
	for _, name := range names {
		from, target := filepath.Join(dbDir(dir), name), filepath.Join(dbDir(to), name)
		switch {
		case name == "LOCK":
			continue
		case strings.HasSuffix(name, ".sst"):
			err = os.Link(from, target)
		default:
			err = copyFile(target, from)
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	return nil
}

// lockLog takes the lock that Badger takes on an open log.
func lockLog(dir string) (unlock func(), err error) {
	f, err := os.Open(dbDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no log in %s", dir)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("the log in %s is %w", dir, errInUse)
	}
	// Unlocked, and not only closed: a child of this process holds the same
	// lock between its fork and its exec.
	return func() { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN); f.Close() }, nil
}

// Salvage makes a damaged log usable: it reads every record that is whole, from
// the files themselves and from the copies that Open kept (of one that is damaged,
// an older version, if there is one), writes them to a new log, and puts the damaged
// one, untouched, into quarantineDir. What was
// accepted and can't be read is reported as FindMissing, one by one; the new
// log counts it as complete, so report is the only place that names it.
//
// A log that has nothing grave is left alone: the error is ErrNothingToSalvage.
func Salvage(dir, quarantineDir string, report func(Finding)) (Summary, error) {
	s, err := Verify(dir, func(Finding) {})
	if err != nil {
		return s, err
	}
	if s.Grave == 0 {
		return s, ErrNothingToSalvage
	}
	unlock, err := lockLog(dir)
	if err != nil {
		return s, err
	}
	defer unlock()
	mark, err := readTide(dir)
	if err != nil {
		report(Finding{Kind: FindFile, Where: tideName, Text: err.Error()})
		mark = tide{}
	}
	w := newWreck(report)
	if err := w.collect(dir); err != nil {
		return s, err
	}
	fresh := filepath.Clean(dir) + ".salvaged"
	if err := os.RemoveAll(fresh); err != nil {
		return s, err
	}
	if err := w.rebuild(fresh, mark, &s); err != nil {
		return s, fmt.Errorf("write the salvaged log: %w", err)
	}
	if err := os.MkdirAll(quarantineDir, 0o700); err != nil {
		return s, err
	}
	s.Quarantine = filepath.Join(quarantineDir, "wal-"+time.Now().UTC().Format("20060102T150405.000"))
	return s, swap(fresh, dir, s.Quarantine)
}

// swap puts fresh in dir's place and what was there in quarantine. There is a
// log in dir at every moment: one that is not there would be made anew, empty.
func swap(fresh, dir, quarantine string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("put the salvaged log in place (it is in %s): %w", fresh, err)
	}
	if err := os.Rename(fresh, quarantine); err != nil {
		err = fmt.Errorf("move the damaged log to quarantine, which must be on its file system: %w", err)
		return errors.Join(err, unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE))
	}
	return errors.Join(syncDir(filepath.Dir(quarantine)), syncDir(filepath.Dir(filepath.Clean(dir))))
}

// ErrNothingToSalvage is returned for a log that opens as it is.
var ErrNothingToSalvage = errors.New("the log is whole: there is nothing to salvage")
