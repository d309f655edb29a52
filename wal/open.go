package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
	"forebay/wal/witness"
)

// Finding is one thing that is wrong with a log.
type Finding struct {
	Kind  FindingKind
	Where string     // the file or the key
	Seq   uint64     // of the message, or 0
	ID    message.ID // of the message, or zero
	// After and Before bound the ID of a message that Salvage cannot name: those of
	// the nearest ones that it can. Zero: there is none on that side.
	After, Before message.ID
	Text          string
}

// String renders the finding in one line.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(string(f.Kind))
	if f.Seq != 0 {
		fmt.Fprintf(&b, " number %d", f.Seq)
	}
	if !f.ID.IsZero() {
		fmt.Fprintf(&b, " id %s", f.ID)
	}
	if f.Where != "" {
		fmt.Fprintf(&b, " (%s)", f.Where)
	}
	if f.Text != "" {
		b.WriteString(": " + f.Text)
	}
	return b.String()
}

// FindingKind tells findings apart.
type FindingKind string

// The kinds of findings.
const (
	FindMissing FindingKind = "missing" // accepted, not complete, and not there
	FindDamaged FindingKind = "damaged" // there, and fails its check
	FindShort   FindingKind = "short"   // the log ends below its tide mark
	FindFile    FindingKind = "file"    // a file that can't be read, or is gone
	FindForeign FindingKind = "foreign" // a key that is none of ours
	FindRisen   FindingKind = "risen"   // complete, and still there: harmless, cleaned up
	FindSuspect FindingKind = "suspect" // a file that doesn't end as Badger ends it: harmless alone
)

// harmless findings are reported and do not stop a log from opening.
func (k FindingKind) harmless() bool { return k == FindRisen || k == FindSuspect }

// DamagedError is why a log does not open.
type DamagedError struct {
	Dir      string
	Findings []Finding // the first of them
	Total    int
}

// Error implements error.
func (e *DamagedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the log in %s is damaged (%d findings): ", e.Dir, e.Total)
	for i, f := range e.Findings {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", e.Total-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.String())
	}
	b.WriteString(". Nothing was removed. List all with `forebay wal verify`; `forebay wal salvage` sets aside what can't be read and makes the rest usable")
	return b.String()
}

const maxFindings = 1000 // kept; all are counted

type findings struct {
	list  []Finding
	total int
	grave int
	each  func(Finding)
}

func (f *findings) add(x Finding) {
	f.total++
	if !x.Kind.harmless() {
		f.grave++
	}
	if len(f.list) < maxFindings {
		f.list = append(f.list, x)
	}
	if f.each != nil {
		f.each(x)
	}
}

// err is a *DamagedError if any finding is grave.
func (f *findings) err(dir string) error {
	if f.grave == 0 {
		return nil
	}
	grave := make([]Finding, 0, min(f.grave, len(f.list)))
	for _, x := range f.list {
		if !x.Kind.harmless() {
			grave = append(grave, x)
		}
	}
	return &DamagedError{Dir: dir, Findings: grave, Total: f.grave}
}

// recovered is what Open learnt from the disk.
type recovered struct {
	head      head
	tide      tide
	ledger    *ledger
	lanes     [message.Lanes]laneScan
	live      int64
	liveBytes int64
	parked    int64
	progress  bool
	risen     [][]byte // keys of records that are complete
	gaps      []Gap
}

type laneScan struct {
	count       int
	first, last message.ID
}

// dbDir is where Badger's files are.
func dbDir(dir string) string { return filepath.Join(dir, "db") }

// Open opens the log in cfg.Dir, or makes one there. It reads and checks every
// record that waits; the error is a *DamagedError if anything is missing or
// fails its check. A second process is refused.
func Open(cfg Config) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := os.MkdirAll(dbDir(cfg.Dir), 0o700); err != nil {
		return nil, fmt.Errorf("make the log's directory: %w", err)
	}
	found := &findings{each: func(f Finding) { cfg.Logger.Warn("the log: " + f.String()) }}
	mark, err := examine(cfg, found)
	if err != nil {
		return nil, err
	}
	if mark.Open { // Badger is about to make tables of its log files, and remove them
		mark.Open = false
		if err := writeTide(cfg.Dir, mark); err != nil {
			return nil, err
		}
	}
	w := newWatch(cfg.Logger)
	db, rec, err := openSized(&cfg, mark, w, found)
	if err != nil {
		return nil, err
	}
	mark = tide{Format: formatVersion, Node: cfg.Node, Seq: rec.head.seq, ID: rec.head.id, Lowest: rec.lowest(), MemTable: cfg.MemTable, Open: true}
	// Badger has made a new log file, and leaves its name to be lost.
	if err := errors.Join(syncDir(dbDir(cfg.Dir)), writeTide(cfg.Dir, mark)); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	sync, err := witness.Open(filepath.Join(dbDir(cfg.Dir), badger.ManifestFilename))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	// Not from space that Badger may need: it is writing already, and meets a
	// full disk as SIGBUS.
	if free, err := freeBytes(cfg.Dir); cfg.BallastBytes > 0 && err == nil && free > cfg.MinFreeBytes+cfg.BallastBytes {
		if err := layBallast(cfg.Dir, cfg.BallastBytes); err != nil {
			cfg.Logger.Warn("no ballast against a full disk", "err", err)
		}
	}
	rec.tide = mark
	// The log is whole: what looked odd was the torn end that a kill leaves.
	if err := os.RemoveAll(filepath.Join(cfg.Dir, suspectName)); err != nil {
		cfg.Logger.Warn("can't remove copies of suspect files", "err", err)
	}
	return start(cfg, w, db, sync, rec), nil
}

// examine does what must be done before Badger touches the log, under the lock
// that Badger will take: what a running process writes is no damage.
func examine(cfg Config, found *findings) (mark tide, err error) {
	unlock, err := lockLog(cfg.Dir)
	if err != nil {
		return mark, err
	}
	defer unlock()
	if err := makeRoom(cfg); err != nil {
		return mark, err
	}
	if mark, err = readMark(cfg); err != nil {
		return mark, err
	}
	if err := inspectFiles(cfg.Dir, mark, found, true); err != nil {
		return mark, err
	}
	if err := found.err(cfg.Dir); err != nil {
		return mark, err
	}
	return mark, removeStillborn(cfg.Dir)
}

// openSized opens the database, recovers, and settles the size of the memtables.
// They shrink to what is configured only when nothing waits: what was not closed
// cleanly must be read with those it was written with, or Badger ends the process,
// and the largest message that waits must fit a transaction to be put to rest.
func openSized(cfg *Config, mark tide, w *watch, found *findings) (*badger.DB, *recovered, error) {
	wanted := *cfg
	cfg.MemTable = max(cfg.MemTable, mark.MemTable, memTableOf(cfg.Dir))
	cfg.MinFreeBytes = max(cfg.MinFreeBytes, reserve(cfg.MemTable))
	db, err := openBadger(cfg.Dir, cfg.badgerOptions(w))
	if err != nil {
		return nil, nil, err
	}
	rec, err := recoverState(db, *cfg, mark, found)
	if err == nil {
		err = w.err()
	}
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	if cfg.MemTable == wanted.MemTable || rec.live > 0 {
		return db, rec, nil
	}
	if err := db.Close(); err != nil {
		return nil, nil, fmt.Errorf("close the log to shrink its memtables: %w", err)
	}
	*cfg = wanted
	db, err = openBadger(cfg.Dir, cfg.badgerOptions(w))
	return db, rec, err
}

// makeRoom gives up the ballast if Badger could not open otherwise, and refuses
// if that is not enough: on a full disk it would die of SIGBUS.
func makeRoom(cfg Config) error {
	free, err := freeBytes(cfg.Dir)
	if err != nil {
		return err
	}
	need := reserve(cfg.MemTable) / 2 // the default ballast is twice that
	if free >= need {
		return nil
	}
	dropped, err := dropBallast(cfg.Dir)
	if err != nil {
		return fmt.Errorf("give up the ballast: %w", err)
	}
	if free, err = freeBytes(cfg.Dir); err != nil {
		return err
	}
	if dropped {
		cfg.Logger.Warn("the disk is full: the ballast was given up to open the log", "free_bytes", free)
	}
	if free < need {
		return fmt.Errorf("the disk of %s is full: %d MiB free, %d MiB needed to open the log; free some space and start again", cfg.Dir, free>>20, need>>20)
	}
	return nil
}

// readMark reads the tide mark; the zero mark if there is none.
func readMark(cfg Config) (mark tide, err error) {
	mark, err = readTide(cfg.Dir)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil && !errors.Is(err, errDamaged) {
			return mark, err
		}
		if err != nil {
			return mark, &DamagedError{Dir: cfg.Dir, Total: 1, Findings: []Finding{{Kind: FindFile, Where: tideName, Text: err.Error()}}}
		}
		if mark.Node != cfg.Node && mark.Node != 0 { // 0: nothing that was salvaged told
			return mark, fmt.Errorf("the log in %s belongs to node %d, the configuration says node %d", cfg.Dir, mark.Node, cfg.Node)
		}
		return mark, nil
	}
	// Open writes the mark before the first record. So there is no log yet, or
	// it is empty, or it was robbed of its mark: recoverState tells.
	return tide{}, nil
}

var errInUse = errors.New("in use by another process; stop the appliance first")

// openBadger opens the database, turning a panic over damaged files into an
// error that names them.
func openBadger(dir string, o badger.Options) (db *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the log's database in %s can't be read: %v; see `forebay wal verify`", dbDir(dir), r)
		}
	}()
	db, err = badger.Open(o)
	if err != nil {
		if strings.Contains(err.Error(), "Cannot acquire directory lock") {
			return nil, fmt.Errorf("the log in %s is %w", dir, errInUse)
		}
		return nil, fmt.Errorf("open the log's database: %w", err)
	}
	return db, nil
}

func (r *recovered) lowest() (low [message.Lanes]message.ID) {
	for i := range low {
		if low[i] = r.lanes[i].first; r.lanes[i].count == 0 {
			low[i] = r.head.id
		}
	}
	return low
}
