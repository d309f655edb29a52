package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
)

// This file reads Badger's files without Badger's Open, which repairs by
// cutting off and deleting what it does not understand. Layouts as in Badger
// 4.9.6: memtable.go (log files), table/table.go (tables).

const (
	suspectName = "SUSPECT"

	memHeader = 20     // of a .mem file: key id, base IV
	bitDelete = 1 << 0 // of an entry's meta byte
	bitTxn    = 1 << 6 // part of a transaction
	bitFinTxn = 1 << 7 // ends a transaction

	maxKeyBytes   = 1 << 16 // Badger's own limit
	maxValueBytes = 1 << 21 // twice the largest of ours
)

// rawEntry is one version of one key as it stands in a file.
type rawEntry struct {
	key     []byte // without version
	version uint64
	value   []byte
	deleted bool
}

// memItem is an entry of a .mem file.
type memItem struct {
	rawEntry
	last bool // ends a transaction, and is Badger's own
}

// inspection is one look at the database's files before Badger opens them.
type inspection struct {
	dir   string // of the log
	found *findings
	keep  bool // copy to SUSPECT what Badger is about to cut or delete

	tables map[uint64]bool // that the manifest names, and that were not met yet; nil: it can't be read
	unread map[string]error
}

// inspectFiles looks at the database's files before Badger opens them. What
// Badger is about to cut or delete is first copied to SUSPECT if keep is set.
func inspectFiles(dir string, mark tide, found *findings, keep bool) error {
	names, err := databaseFiles(dbDir(dir))
	if err != nil {
		return err
	}
	in := &inspection{dir: dir, found: found, keep: keep}
	if mark.Open && !slices.ContainsFunc(names, isLogFile) {
		in.damaged("*.mem", errors.New("the log was not closed, and its log file is gone"))
	}
	in.tables, err = manifestTables(dbDir(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !slices.ContainsFunc(names, isData) {
			return nil // a new log
		}
		in.damaged(badger.ManifestFilename, errors.New("it is gone"))
	case errors.Is(err, errCut):
		if err := in.suspect(badger.ManifestFilename, err.Error()); err != nil {
			return err
		}
	case err != nil:
		in.damaged(badger.ManifestFilename, err)
	}
	in.unread = checkTables(dbDir(dir), names, in.tables)
	for _, name := range names {
		if err := in.file(name); err != nil {
			return err
		}
	}
	for id := range in.tables {
		in.damaged(table.IDToFilename(id), errors.New("the manifest names it, and it is gone"))
	}
	return nil
}

func (in *inspection) suspect(name, text string) error {
	in.found.add(Finding{Kind: FindSuspect, Where: name, Text: text})
	if !in.keep {
		return nil
	}
	return keepCopy(in.dir, name)
}

func (in *inspection) damaged(name string, err error) {
	in.found.add(Finding{Kind: FindFile, Where: name, Text: err.Error()})
}

// file looks at one file, by its kind.
func (in *inspection) file(name string) error {
	path := filepath.Join(dbDir(in.dir), name)
	switch filepath.Ext(name) {
	case "", ".vlog":
		if bad := checkHead(path); bad != nil {
			in.damaged(name, bad)
		}
	case ".sst":
		id, ok := table.ParseFileID(name)
		named := in.tables == nil || ok && in.tables[id]
		delete(in.tables, id)
		if !named {
			return in.suspect(name, "the manifest does not know it")
		}
		if bad := in.unread[name]; bad != nil {
			in.damaged(name, bad)
		}
	case ".mem":
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bad := checkMem(data); errors.Is(bad, errCut) {
			return in.suspect(name, bad.Error())
		} else if bad != nil {
			in.damaged(name, bad)
		}
	}
	return nil
}

// checkHead checks the heads of files that hold nothing of ours, but without
// which Badger does not open, and says nothing that helps.
func checkHead(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var head [28]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return err
	}
	switch filepath.Base(path) {
	case badger.KeyRegistryFileName: // base IV, and a text in the clear, for nothing is encrypted
		if string(head[16:]) != "Hello Badger" {
			return fmt.Errorf("%w: its head is not that of a key registry", errDamaged)
		}
	case "MANIFEST", "DISCARD", "LOCK":
	default: // key id, base IV
		if n > 0 && binary.BigEndian.Uint64(head[:]) != 0 {
			return fmt.Errorf("%w: its head is not that of a file of ours", errDamaged)
		}
	}
	return nil
}

// isData says whether a file of Badger's can hold records.
func isData(name string) bool { return strings.HasSuffix(name, ".sst") || isLogFile(name) }

func isLogFile(name string) bool { return strings.HasSuffix(name, ".mem") }

// removeStillborn removes log files without a byte in them. A kill between the
// creation of a file and its first extension leaves one, and Badger does not
// open beside it. Nothing can be in it; and had there been something, the
// numbers that are then missing tell.
func removeStillborn(dir string) error {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		names, _ := filepath.Glob(filepath.Join(dbDir(dir), pattern)) // only a bad pattern is an error
		for _, name := range names {
			info, err := os.Lstat(name)
			if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
				err = os.Remove(name)
			}
			if err != nil {
				return fmt.Errorf("remove an empty file of the log: %w", err)
			}
		}
	}
	return nil
}

// memTableOf is the size of the memtables that a log was last written with, as
// far as its files tell; 0: it was closed cleanly. Badger maps twice as much.
func memTableOf(dir string) (size int64) {
	names, _ := filepath.Glob(filepath.Join(dbDir(dir), "*.mem"))
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			size = max(size, info.Size()/2)
		}
	}
	return size
}

// databaseFiles lists the files of a Badger directory, sorted.
func databaseFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the log's files: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// manifestTables returns the tables that the manifest names, with errCut if its
// last change was not written to its end.
func manifestTables(dir string) (ids map[uint64]bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, end, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	if err != nil {
		return nil, err
	}
	if cut := data[min(end, int64(len(data))):]; wholeChange(cut) {
		return nil, fmt.Errorf("%w: at byte %d a change does not match its length; Badger would drop it and all after it", errDamaged, end)
	} else if len(cut) > 0 {
		err = errCut
	}
	ids = map[uint64]bool{}
	for id := range m.Tables {
		ids[id] = true
	}
	return ids, err
}

// wholeChange reports whether what Badger takes for a cut change of the manifest
// is whole but for its length: its own, or one after it, matches its sum.
//
//	4 bytes  length
//	4 bytes  CRC-32C of what follows
func wholeChange(cut []byte) bool {
	for at := 0; at+8 < len(cut); at++ {
		sum, rest := binary.BigEndian.Uint32(cut[at+4:]), cut[at+8:]
		if at == 0 {
			grown := uint32(0)
			for n := range rest {
				if grown = crc32.Update(grown, castagnoli, rest[n:n+1]); grown == sum {
					return true
				}
			}
			continue
		}
		if n := binary.BigEndian.Uint32(cut[at:]); n > 0 && int64(n) <= int64(len(rest)) && crc32.Checksum(rest[:n], castagnoli) == sum {
			return true
		}
	}
	return false
}

// keepCopy puts a file into SUSPECT: tables by a hard link, for they are only
// ever deleted; the others, which Badger truncates in place, by a copy.
func keepCopy(dir, name string) error {
	to := filepath.Join(dir, suspectName, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return fmt.Errorf("keep a copy of %s: %w", name, err)
	}
	if _, err := os.Stat(to); err == nil {
		return nil // the first copy is the evidence
	}
	from := filepath.Join(dbDir(dir), name)
	if filepath.Ext(name) == ".sst" {
		return os.Link(from, to)
	}
	if err := copyFile(to, from); err != nil {
		return fmt.Errorf("keep a copy of %s: %w", name, err)
	}
	return nil
}

// copyFile copies and syncs, leaving out the zeros at the end: Badger's log
// files are mostly that.
func copyFile(to, from string) (err error) {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err = f.Write(trimZeros(data)); err != nil {
		return err
	}
	if err = f.Truncate(int64(len(data))); err != nil {
		return err
	}
	return f.Sync()
}

// scanMem calls fn for each entry of a .mem file, beginning at from, up to the
// first that is not whole, and returns where that is.
func scanMem(data []byte, from int, fn func(memItem)) (end int) {
	for at := min(from, len(data)); ; {
		e, size, ok := memEntry(data[at:])
		if !ok {
			return at
		}
		fn(e)
		at += size
	}
}

// memSize reads an entry's head:
//
//	1 byte   meta
//	1 byte   user meta
//	uvarint  key length, value length, expiry
func memSize(b []byte) (keyAt, size int, ok bool) {
	if len(b) < 6 {
		return 0, 0, false
	}
	at := 2
	var n [3]uint64
	for i := range n {
		v, w := binary.Uvarint(b[at:])
		if w <= 0 {
			return 0, 0, false
		}
		n[i], at = v, at+w
	}
	if n[0] < 8 || n[0] > maxKeyBytes || n[1] > maxValueBytes {
		return 0, 0, false
	}
	return at, at + int(n[0]+n[1]) + crc32.Size, true
}

// memEntry decodes one entry, which is its head, key, value and a CRC-32C of all
// three.
func memEntry(b []byte) (e memItem, size int, ok bool) {
	at, size, ok := memSize(b)
	if !ok || size > len(b) {
		return e, 0, false
	}
	end := size - crc32.Size
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return e, 0, false
	}
	n, _ := binary.Uvarint(b[2:])
	key := b[at : at+int(n)]
	e.rawEntry = rawEntry{key: y.ParseKey(key), version: y.ParseTs(key), value: b[at+int(n) : end], deleted: b[0]&bitDelete != 0}
	e.last = b[0]&bitFinTxn != 0
	return e, size, true
}
