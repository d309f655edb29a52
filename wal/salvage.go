package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// wreck is what can be read of a damaged log. It holds one small note for each
// key, so it needs about 100 bytes of memory for each record.
type wreck struct {
	report func(Finding)
	newest map[string]uint64 // key → newest version, shifted left, lowest bit: deleted
	files  []wreckFile
}

type wreckFile struct {
	path, name string
	read       func(path string, fn func(rawEntry)) error
}

func newWreck(report func(Finding)) *wreck {
	return &wreck{report: report, newest: map[string]uint64{}}
}

// collect notes the newest version of every key, over all files: the database's
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
		return nil
	})
}

// each reads all files; the first error of fn ends it.
func (w *wreck) each(fn func(rawEntry) error) error {
	var failed error
	for _, f := range w.files {
		err := f.read(f.path, func(e rawEntry) {
			if failed == nil && len(e.key) > 0 && e.key[0] != '!' { // Badger's own keys
				failed = fn(e)
			}
		})
		if failed != nil {
			return failed
		}
		if err != nil {
			w.report(Finding{Kind: FindFile, Where: f.name, Text: err.Error()})
		}
	}
	return nil
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
	data = bytes.TrimRight(data, "\x00")
	data = append(data, make([]byte, 4)...) // a sum may end in zeros
	gaps := 0
	for at := memHeader; at < len(data); {
		end, _, err := scanMem(data, at, fn)
		if err != nil {
			return err
		}
		next := resync(data, end+1)
		if next < len(data) {
			gaps++
		}
		at = next
	}
	if gaps > 0 {
		return fmt.Errorf("%d stretches can't be read", gaps)
	}
	return nil
}

func resync(data []byte, from int) int {
	for at := from; at < len(data); at++ {
		if e, _, _, ok := memEntry(data[at:]); ok && len(e.key) > 0 {
			return at
		}
	}
	return len(data)
}

// rebuild writes the records that are whole to a new log.
func (w *wreck) rebuild(dir string, mark tide, s *Summary) (err error) {
	cfg := Config{Dir: dir, Node: max(mark.Node, 1)}.withDefaults()
	cfg.MemTable = max(cfg.MemTable, mark.MemTable)
	if err := os.MkdirAll(dbDir(dir), 0o700); err != nil {
		return err
	}
	watch := newWatch(slog.New(slog.DiscardHandler))
	db, err := openBadger(cfg, cfg.MemTable, watch)
	if err != nil {
		return err
	}
	b := &rebuilder{wreck: w, out: db.NewWriteBatch(), there: newCensus(), done: map[uint64]*bitmap{}, head: head{seq: mark.Seq, id: mark.ID}}
	err = w.each(b.add)
	if err == nil {
		err = b.finish(s)
	}
	if err == nil {
		err = b.out.Flush()
	}
	b.out.Cancel()
	if err = errors.Join(err, db.Close(), watch.err()); err != nil {
		return err
	}
	return writeTide(dir, tide{Format: formatVersion, Node: cfg.Node, Seq: b.head.seq, ID: b.head.id, MemTable: cfg.MemTable})
}

type rebuilder struct {
	wreck *wreck
	out   *badger.WriteBatch
	there *census
	done  map[uint64]*bitmap
	head  head
	count struct{ live, parked int64 }
}

// add takes the newest version of each key, if it is whole.
func (b *rebuilder) add(e rawEntry) error {
	if e.deleted || b.wreck.newest[string(e.key)] != e.version<<1 {
		return nil
	}
	var err error
	switch e.key[0] {
	case prefixMessage, prefixParked:
		return b.record(e)
	case prefixProgress:
		_, _, err = openProgress(e.value, e.key)
	case prefixKey:
		_, err = openClaim(e.value, e.key)
	case prefixMeta:
		return b.meta(e)
	}
	if err != nil {
		b.wreck.report(Finding{Kind: FindDamaged, Where: fmt.Sprintf("key %q", e.key), Text: err.Error()})
		return nil
	}
	return b.out.Set(bytes.Clone(e.key), bytes.Clone(e.value))
}

func (b *rebuilder) record(e rawEntry) error {
	id, err := recordID(e.key)
	if err != nil {
		b.wreck.report(Finding{Kind: FindForeign, Text: err.Error()})
		return nil
	}
	seq, _, err := openRecord(e.value, id)
	if err == nil && !b.there.add(seq) {
		return nil // the same record, in a second file
	}
	if err != nil {
		b.wreck.report(Finding{Kind: FindDamaged, ID: id, Text: err.Error()})
		return nil
	}
	b.count.live++
	if e.key[0] == prefixParked {
		b.count.parked++
	}
	if seq > b.head.seq {
		b.head.seq = seq
	}
	if id.Compare(b.head.id) > 0 {
		b.head.id = id
	}
	return b.out.Set(bytes.Clone(e.key), bytes.Clone(e.value))
}

func (b *rebuilder) meta(e rawEntry) error {
	if bytes.Equal(e.key, keyHead) {
		h, err := openHead(e.value)
		if err != nil {
			b.wreck.report(Finding{Kind: FindDamaged, Where: "head", Text: err.Error()})
			return nil
		}
		b.head.seq = max(b.head.seq, h.seq)
		if h.id.Compare(b.head.id) > 0 {
			b.head.id = h.id
		}
		return nil
	}
	if len(e.key) == 10 && e.key[1] == 'c' {
		bits, err := openBitmap(e.value, e.key)
		if err != nil {
			b.wreck.report(Finding{Kind: FindDamaged, Where: "ledger", Text: err.Error()})
			return nil
		}
		b.done[binary.BigEndian.Uint64(e.key[2:])] = bits
	}
	return nil
}

// finish writes a ledger that says: complete is whatever is not there. A number
// that the old ledger did not call complete is reported as lost, but only in
// chunks of which something is left: of the others nothing is known.
func (b *rebuilder) finish(s *Summary) error {
	chunks := (b.head.seq + chunkSeqs - 1) / chunkSeqs
	for chunk := range chunks {
		seen, old := b.there.seen[chunk], b.done[chunk]
		if seen == nil {
			seen = new(bitmap)
		}
		known := old != nil || b.there.seen[chunk] != nil
		bits := new(bitmap)
		for bit := range min(chunkSeqs, b.head.seq-chunk*chunkSeqs) {
			if seen.get(bit) {
				continue
			}
			bits.set(bit)
			if known && (old == nil || !old.get(bit)) {
				s.Lost++
				b.wreck.report(Finding{Kind: FindMissing, Seq: chunk*chunkSeqs + bit + 1, Text: "accepted, not known to be complete, and not readable"})
			}
		}
		n := uint64(bits.count())
		b.head.done += n
		if n > 0 && n < chunkSeqs {
			k := chunkKey(nil, chunk)
			if err := b.out.Set(k, bits.value(k)); err != nil {
				return err
			}
		}
	}
	s.LastSeq, s.Waiting, s.Parked, s.Complete = b.head.seq, b.count.live, b.count.parked, b.head.done
	return b.out.Set(keyHead, b.head.value())
}
