package wal

import (
	"bytes"
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
	"github.com/dgraph-io/ristretto/v2/z"
)

// This file reads Badger's files without Badger's Open, which repairs by
// cutting off and deleting what it does not understand. Layouts as in Badger
// 4.9.6: memtable.go (log files), table/table.go (tables).

const (
	suspectName = "SUSPECT"

	memHeader    = 20     // of a .mem file: key id, base IV
	bitDelete    = 1 << 0 // of an entry's meta byte
	bitFinTxn    = 1 << 7 // ends a transaction
	maxPlausible = 1 << 26
)

// rawEntry is one version of one key as it stands in a file.
type rawEntry struct {
	key     []byte // without version
	version uint64
	value   []byte
	deleted bool
}

// inspectFiles looks at the database's files before Badger opens them. What
// Badger is about to cut or delete is first copied to SUSPECT if keep is set.
func inspectFiles(dir string, found *findings, keep bool) error {
	names, err := databaseFiles(dbDir(dir))
	if err != nil {
		return err
	}
	tables, whole, err := manifestTables(dbDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".sst") }) {
			found.add(Finding{Kind: FindFile, Where: badger.ManifestFilename, Text: "is gone, with tables there"})
		}
		return nil
	}
	if err != nil {
		found.add(Finding{Kind: FindFile, Where: badger.ManifestFilename, Text: err.Error()})
		return nil
	}
	suspect := func(name, text string) error {
		found.add(Finding{Kind: FindSuspect, Where: name, Text: text})
		if !keep {
			return nil
		}
		return keepCopy(dir, name)
	}
	if !whole {
		if err := suspect(badger.ManifestFilename, "its end is not readable"); err != nil {
			return err
		}
	}
	for _, name := range names {
		path := filepath.Join(dbDir(dir), name)
		switch filepath.Ext(name) {
		case ".sst":
			id, ok := table.ParseFileID(name)
			if !ok || !tables[id] {
				err = suspect(name, "the manifest does not know it")
			} else if bad := checkTable(path); bad != nil {
				found.add(Finding{Kind: FindFile, Where: name, Text: bad.Error()})
			}
			delete(tables, id)
		case ".mem":
			if _, clean, bad := readMem(path, func(rawEntry) {}); bad != nil {
				found.add(Finding{Kind: FindFile, Where: name, Text: bad.Error()})
			} else if !clean {
				err = suspect(name, "an entry does not match its checksum; Badger drops it and all after it")
			}
		}
		if err != nil {
			return err
		}
	}
	for id := range tables {
		found.add(Finding{Kind: FindFile, Where: table.IDToFilename(id), Text: "the manifest names it, and it is gone"})
	}
	return nil
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

// manifestTables returns the tables that the manifest names, and whether it is
// readable to its end.
func manifestTables(dir string) (ids map[uint64]bool, whole bool, err error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	m, end, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	if err != nil {
		return nil, false, err
	}
	ids = map[uint64]bool{}
	for id := range m.Tables {
		ids[id] = true
	}
	return ids, end == info.Size(), nil
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
	if _, err = f.Write(bytes.TrimRight(data, "\x00")); err != nil {
		return err
	}
	if err = f.Truncate(int64(len(data))); err != nil {
		return err
	}
	return f.Sync()
}

// readMem calls fn for each entry of a .mem file up to the first that is not
// whole, and returns where that is. clean: the file ends there as Badger ends
// it, with an empty header.
func readMem(path string, fn func(rawEntry)) (end int, clean bool, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false, err
	}
	return scanMem(data, memHeader, fn)
}

func scanMem(data []byte, from int, fn func(rawEntry)) (end int, clean bool, err error) {
	if len(data) < memHeader {
		return 0, len(bytes.TrimRight(data, "\x00")) == 0, nil
	}
	if binary.BigEndian.Uint64(data) != 0 {
		return 0, false, errors.New("the file is encrypted")
	}
	for at := from; ; {
		e, meta, size, ok := memEntry(data[at:])
		if !ok {
			return at, len(bytes.TrimRight(data[at:min(len(data), at+22)], "\x00")) == 0, nil
		}
		if meta&bitFinTxn == 0 {
			fn(e)
		}
		at += size
	}
}

// memEntry decodes one entry and checks Badger's sum over it.
func memEntry(b []byte) (e rawEntry, meta byte, size int, ok bool) {
	if len(b) < 6 {
		return e, 0, 0, false
	}
	at := 2
	var n [3]uint64 // key length, value length, expiry
	for i := range n {
		v, w := binary.Uvarint(b[at:])
		if w <= 0 {
			return e, 0, 0, false
		}
		n[i], at = v, at+w
	}
	if n[0] < 8 || n[0] > 1<<16 || n[1] > maxPlausible || at+int(n[0]+n[1])+crc32.Size > len(b) {
		return e, 0, 0, false
	}
	end := at + int(n[0]+n[1])
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return e, 0, 0, false
	}
	key := b[at : at+int(n[0])]
	e = rawEntry{key: y.ParseKey(key), version: y.ParseTs(key), value: b[at+int(n[0]) : end], deleted: b[0]&bitDelete != 0}
	return e, b[0], end + crc32.Size, true
}

// openTable opens a table for reading. Its file is never changed.
func openTable(path string) (t *table.Table, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: the table's index can't be read", errDamaged)
		}
	}()
	mf, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return table.OpenTable(mf, table.Options{ReadOnly: true})
}

func checkTable(path string) error {
	t, err := openTable(path)
	if err != nil {
		return fmt.Errorf("the table can't be read: %w", err)
	}
	return t.Close(-1)
}

// readTable calls fn for each entry of a table that can be read, and returns
// how many stretches could not.
func readTable(path string, fn func(rawEntry)) (gaps int, err error) {
	t, err := openTable(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.Close(-1)) }()
	// Each block is walked for itself, so that a bad one costs only itself.
	starts := t.KeySplits(1<<30, nil)
	for i, start := range starts {
		var next []byte
		if i+1 < len(starts) {
			next = []byte(starts[i+1])
		}
		if err := readBlock(t, []byte(start), next, fn); err != nil {
			gaps++
		}
	}
	return gaps, nil
}

// readBlock walks from one block's first key to the next block's.
func readBlock(t *table.Table, from, next []byte, fn func(rawEntry)) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	it := t.NewIterator(0)
	defer func() { err = errors.Join(err, it.Close()) }()
	it.Seek(from)
	for ; it.Valid(); it.Next() {
		key := it.Key()
		if next != nil && y.CompareKeys(key, next) >= 0 {
			return nil
		}
		if len(key) < 8 {
			return io.ErrUnexpectedEOF
		}
		v := it.Value()
		fn(rawEntry{key: y.ParseKey(key), version: y.ParseTs(key), value: v.Value, deleted: v.Meta&bitDelete != 0})
	}
	return nil
}
