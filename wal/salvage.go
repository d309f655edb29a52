package wal

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"forebay/wal/message"
)

// wreck is what can be read of a damaged log. It holds one small note for each
// key, so it needs about 100 bytes of memory for each record.
type wreck struct {
	report func(Finding)
	newest map[string]uint64 // key → newest version, shifted left, lowest bit: deleted
	files  []wreckFile
	walked bool // once: what can't be read has been reported
	names  names
}

type wreckFile struct {
	path, name string
	read       func(path string, fn func(rawEntry)) error
}

func newWreck(report func(Finding)) *wreck {
	return &wreck{report: report, newest: map[string]uint64{}}
}

// collect notes the newest version of every key, and the number and id of every
// record, also of those that are complete, over all files: the database's
// own and the copies in SUSPECT.
func (w *wreck) collect(dir string) error {
	for _, d := range []string{dbDir(dir), filepath.Join(dir, suspectName)} {
		names, err := databaseFiles(d)
		if err != nil {
			return err
		}
		for _, name := range names {
			f := wreckFile{path: filepath.Join(d, name), name: name}
			switch {
			case strings.HasSuffix(name, ".sst"):
				f.read = w.readTable
			case strings.HasSuffix(name, ".mem"):
				f.read = w.readLogFile
			default:
				continue
			}
			w.files = append(w.files, f)
		}
	}
	return w.each(func(e rawEntry) error {
		v := e.version << 1
		if e.deleted {
			v |= 1
		}
		if key := string(e.key); v > w.newest[key] {
			w.newest[key] = v
		}
		if id, err := recordID(e.key); err == nil && !e.deleted {
			if seq, _, err := openRecord(e.value, id); err == nil {
				w.names.know(seq, id)
			}
		}
		return nil
	})
}

// each reads all files; the first error of fn ends it.
func (w *wreck) each(fn func(rawEntry) error) error {
	var failed error
	for _, f := range w.files {
		err := f.read(f.path, func(e rawEntry) {
			if failed == nil && len(e.key) > 0 && e.key[0] != '!' { // Badger's own keys
				failed = fn(mended(e))
			}
		})
		if failed != nil {
			return failed
		}
		if err != nil && !w.walked {
			w.report(Finding{Kind: FindFile, Where: f.name, Text: err.Error()})
		}
	}
	w.walked = true
	return nil
}

// mended gives a record back the key that it was written under, where one bit of it
// has turned: the record's sum is of the id, too. Otherwise the record would be lost,
// and named by an id that is nobody's.
func mended(e rawEntry) rawEntry {
	if e.deleted || !sizedLikeARecord(e.key) {
		return e
	}
	id := message.ID(e.key[len(e.key)-idSize:])
	if _, _, err := openRecord(e.value, id); err == nil {
		if _, err := recordID(e.key); err != nil {
			e.key = keyOf(e.key, id)
		}
		return e
	}
	for bit := range 8 * idSize {
		was := id
		was[bit/8] ^= 1 << (bit % 8)
		if _, _, err := openRecord(e.value, was); err == nil {
			e.key = keyOf(e.key, was)
			return e
		}
	}
	return e
}

func sizedLikeARecord(key []byte) bool {
	switch {
	case len(key) == 0:
		return false
	case key[0] == prefixMessage:
		return len(key) == messageKeySize
	case key[0] == prefixFormer:
		return len(key) == formerMessageKeySize
	}
	return key[0] == prefixParked && len(key) == parkedKeySize
}

// keyOf is the key of the record with this id that is of the same kind as key.
func keyOf(key []byte, id message.ID) []byte {
	switch key[0] {
	case prefixMessage:
		return messageKey(nil, id)
	case prefixFormer:
		return append([]byte{prefixFormer, byte(id.Lane())}, id[:]...)
	}
	return append(bytes.Clone(key[:parkedKeySize-idSize]), id[:]...)
}

func (w *wreck) readTable(path string, fn func(rawEntry)) error {
	gaps, err := readTable(path, fn)
	if err == nil && gaps > 0 {
		err = fmt.Errorf("%d stretches can't be read", gaps)
	}
	return err
}

// readLogFile goes on behind an entry that is not whole, where Badger stops: it
// tries byte by byte until an entry's sum is right again.
func (w *wreck) readLogFile(path string, fn func(rawEntry)) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return w.readLog(data, fn)
}

func (w *wreck) readLog(data []byte, fn func(rawEntry)) error {
	data = data[:min(len(data), len(trimZeros(data))+crc32.Size)] // a sum may end in zeros
	gaps := 0
	for at := memHeader; at < len(data); {
		end := scanMem(data, at, func(e memItem) {
			if !e.last {
				fn(e.rawEntry)
			}
		})
		if len(trimZeros(data[min(end, len(data)):])) == 0 {
			break
		}
		gaps++
		at = resync(data, end+1)
	}
	if gaps > 0 {
		return fmt.Errorf("%d stretches can't be read", gaps)
	}
	return nil
}
