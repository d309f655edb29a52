package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/dgraph-io/ristretto/v2/z"
	"golang.org/x/sys/unix"
)

// This file reads Badger's tables without Badger's Open, as files.go does with
// its other files.

// openTable opens a table for reading. Its file is never changed. One that can't
// be read may stay mapped to the end of the process.
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

// checkTables checks the tables that the manifest knows (all, if there is no
// manifest), as many at once as there are processors, and returns what is wrong
// with those that fail.
func checkTables(db string, names []string, known map[uint64]bool) map[string]error {
	var mu sync.Mutex
	bad := map[string]error{}
	work := make(chan string)
	var checkers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		checkers.Go(func() {
			for name := range work {
				if err := checkTable(filepath.Join(db, name)); err != nil {
					mu.Lock()
					bad[name] = err
					mu.Unlock()
				}
			}
		})
	}
	for _, name := range names {
		if id, ok := table.ParseFileID(name); filepath.Ext(name) == ".sst" && (known == nil || ok && known[id]) {
			work <- name
		}
	}
	close(work)
	checkers.Wait()
	return bad
}

// checkTable checks the sums of the table's index and of every block. Of what is
// in them only records have sums of their own that Open checks; what deletes a
// record, or an idempotency key, has none.
func checkTable(path string) (err error) {
	t, err := openTable(path)
	if err != nil {
		return fmt.Errorf("the table can't be read: %w", err)
	}
	defer func() { err = errors.Join(err, t.Close(-1)) }()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: a block can't be read", errDamaged)
		}
	}()
	// All pages in one call, where the kernel can (5.14): a fault costs more than
	// the sum of the page. Where it can't, they come one by one.
	_ = unix.Madvise(t.Data, unix.MADV_POPULATE_READ)
	return t.VerifyChecksum()
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
