package raftstate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"forebay/wal/witness"
)

const (
	logFile  = "raft.db"
	nodeFile = "node" // names the owner; there once the log has been founded

	snapshotsKept = 3
	// lockWait bounds the wait for raft.db's lock: a second process would
	// otherwise wait until the first one ends.
	lockWait = time.Second
)

// DamagedError says which file cannot be read. Nothing of it is repaired or
// removed.
type DamagedError struct {
	Path string
	Err  error
}

// Error implements error.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s cannot be read: %v; nothing was repaired or removed: move %s aside, then restore a backup "+
		"(forebay restore), or copy the directory back from where it was last good", e.Path, e.Err, filepath.Dir(e.Path))
}

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

// ErrInUse: another process has the directory open.
var ErrInUse = errors.New("in use by another process (is an appliance running on this data directory?)")

// disk is the part of the group that lies in its directory.
type disk struct {
	dir       string
	log       *raftboltdb.BoltStore
	sync      *witness.Witness // of the log
	snapshots *raft.FileSnapshotStore
}

func openDisk(cfg Config) (*disk, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	path := filepath.Join(cfg.Dir, logFile)
	if err := checkOwner(cfg.Dir, path, cfg.NodeID); err != nil {
		return nil, err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, snapshotsKept, &raftLogger{Logger: cfg.Logger})
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	d := &disk{dir: cfg.Dir, snapshots: snapshots}
	err = guard(path, func() (err error) {
		d.log, err = raftboltdb.New(raftboltdb.Options{
			Path: path,
			BoltOptions: &bbolt.Options{
				OpenFile: openBolt,
				Timeout:  lockWait,
				// The list of free pages would otherwise be written with every
				// commit, megabytes of it after a burst. Without it bbolt walks
				// all pages when it opens, which shows damage early.
				NoFreelistSync: true,
				FreelistType:   bbolt.FreelistMapType,
			},
		})
		return err
	})
	switch {
	case errors.Is(err, ErrInUse):
		return nil, fmt.Errorf("open %s: %w", path, ErrInUse)
	case errors.As(err, new(*fs.PathError)):
		return nil, fmt.Errorf("open raft log: %w", err) // permission, no space, no such disk
	case err != nil && !errors.As(err, new(*DamagedError)):
		return nil, &DamagedError{Path: path, Err: err}
	case err != nil:
		return nil, err
	}
	if d.sync, err = witness.Open(path); err == nil {
		err = guard(path, d.verify)
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// checkOwner refuses a directory of another node, and one whose log has gone
// though it was once there: raft would take it for a new group, without any
// account in it.
func checkOwner(dir, path string, node uint16) error {
	owner, err := os.ReadFile(filepath.Join(dir, nodeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read owner of raft state: %w", err)
	}
	if got := strings.TrimSpace(string(owner)); got != fmt.Sprint(node) {
		return fmt.Errorf("%s belongs to node %q, and this is node %d: set node in the configuration back, "+
			"or give this node a data directory of its own", dir, got, node)
	}
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return &DamagedError{Path: path, Err: errors.Join(err, errors.New("it was there and is missing or empty now"))}
	}
	return nil
}

// own writes down whose the directory is.
func (d *disk) own(node uint16) error {
	path := filepath.Join(d.dir, nodeFile)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write owner of raft state: %w", err)
	}
	_, err = fmt.Fprintln(f, node)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err == nil {
		err = syncDir(d.dir)
	}
	if err != nil {
		return fmt.Errorf("write owner of raft state: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// verify reads the whole log: every entry is there, is the one that its place
// says, and if it is a command, has the sum it was written with. Up to the
// newest snapshot entries may be missing: loading a dump skips one.
func (d *disk) verify() error {
	path := filepath.Join(d.dir, logFile)
	first, err := d.log.FirstIndex()
	if err != nil {
		return &DamagedError{Path: path, Err: err}
	}
	last, err := d.log.LastIndex()
	if err != nil {
		return &DamagedError{Path: path, Err: err}
	}
	covered, err := d.newestSnapshot()
	if err != nil {
		return err
	}
	for i := first; i <= last && i > 0; i++ {
		var entry raft.Log
		err := d.log.GetLog(i, &entry)
		if errors.Is(err, raft.ErrLogNotFound) && i <= covered {
			continue
		}
		if err == nil && entry.Index != i {
			err = fmt.Errorf("says it is entry %d", entry.Index)
		}
		if err == nil && entry.Type > raft.LogConfiguration {
			err = fmt.Errorf("is of unknown type %d", entry.Type)
		}
		if err == nil && entry.Type == raft.LogCommand {
			// A version that this program does not know is no damage; the machine names it.
			if _, derr := decodeCommand(entry.Data); errors.Is(derr, errCommandDamaged) || errors.Is(derr, errCommandShort) {
				err = derr
			}
		}
		if err != nil {
			return &DamagedError{Path: path, Err: fmt.Errorf("entry %d of %d to %d: %w", i, first, last, err)}
		}
	}
	return nil
}

// newestSnapshot returns the index that it holds the state of; 0: there is none.
// Where there are snapshots, one that is whole must be among them. raft starts
// from the newest such; if the log does not reach back to it, Open fails.
func (d *disk) newestSnapshot() (uint64, error) {
	list, err := d.snapshots.List()
	if err != nil {
		return 0, fmt.Errorf("list snapshots: %w", err)
	}
	var broken error
	for _, s := range list {
		_, content, err := d.snapshots.Open(s.ID) // reads all of it and compares its sum
		if err == nil {
			return list[0].Index, content.Close()
		}
		broken = errors.Join(broken, fmt.Errorf("snapshot %s: %w", s.ID, err))
	}
	if broken != nil {
		return 0, &DamagedError{Path: filepath.Join(d.dir, "snapshots"), Err: broken}
	}
	return 0, nil
}

func (d *disk) close() error {
	if d.sync != nil {
		_ = d.sync.Close() // nothing was written through it
	}
	if err := d.log.Close(); err != nil {
		return fmt.Errorf("close raft log: %w", err)
	}
	return nil
}

// guard turns a panic of f, and a fault on a mapped file that has become too
// short, into an error: that is how bbolt shows damage.
func guard(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = &DamagedError{Path: path, Err: fmt.Errorf("%v", v)}
		}
	}()
	return f()
}
