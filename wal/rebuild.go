package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// rebuild writes the records that are whole to a new log.
func (w *wreck) rebuild(dir string, mark tide, s *Summary) (err error) {
	cfg := Config{Dir: dir}.withDefaults()
	cfg.MemTable = max(cfg.MemTable, mark.MemTable)
	if err := os.MkdirAll(dbDir(dir), 0o700); err != nil {
		return err
	}
	watch := newWatch(slog.New(slog.DiscardHandler))
	db, err := openBadger(dir, cfg.badgerOptions(watch))
	if err != nil {
		return err
	}
	w.names.know(mark.Seq, mark.ID)
	b := &rebuilder{wreck: w, out: db.NewWriteBatch(), there: newCensus(), done: map[uint64]*bitmap{}, hurt: map[message.ID]bool{}, head: head{seq: mark.Seq, id: mark.ID}}
	err = w.each(b.add)
	if err == nil {
		err = b.rescue()
	}
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
	if mark.Node == 0 {
		mark.Node = b.head.id.Node()
	}
	s.Node = mark.Node
	return writeTide(dir, tide{Format: formatVersion, Node: mark.Node, Seq: b.head.seq, ID: b.head.id, MemTable: cfg.MemTable})
}

type rebuilder struct {
	wreck *wreck
	out   *badger.WriteBatch
	there *census
	done  map[uint64]*bitmap
	hurt  map[message.ID]bool // records that are not complete, and damaged
	head  head                // of the new log: by the old one or its tide mark
	old   head                // of the old log
	count struct{ live, parked int64 }
}

// add takes the newest version of each key, if it is whole.
func (b *rebuilder) add(e rawEntry) error {
	if e.deleted || b.wreck.newest[string(e.key)] != e.version<<1 {
		return nil
	}
	var err error
	switch e.key[0] {
	case prefixMessage, prefixFormer, prefixParked:
		return b.record(e)
	case prefixProgress:
		if _, _, err = openProgress(e.value, e.key); err == nil && len(e.key) == 1+idSize {
			b.wreck.names.other = append(b.wreck.names.other, message.ID(e.key[1:]))
		}
	case prefixKey:
		var c claim
		if c, err = openClaim(e.value, e.key); err == nil {
			b.wreck.names.other = append(b.wreck.names.other, c.id)
		}
	case prefixMeta:
		return b.meta(e)
	default:
		b.wreck.report(Finding{Kind: FindForeign, Where: fmt.Sprintf("key % x", e.key)})
		return nil
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
	if err != nil {
		b.wreck.report(Finding{Kind: FindDamaged, ID: id, Text: err.Error()})
		b.wreck.names.live = append(b.wreck.names.live, id)
		b.hurt[id] = true
		return nil
	}
	if e.key[0] == prefixFormer {
		e.key = messageKey(nil, id)
	}
	return b.take(e.key, e.value, id, seq)
}

// rescue takes an older version of a record whose newest is damaged, from before it
// was put to rest or came back: the message in it is the same, and the progress, which
// has a key of its own, says how far it got. It waits at once; who takes it puts it to
// rest again if it must.
func (b *rebuilder) rescue() error {
	if len(b.hurt) == 0 {
		return nil
	}
	return b.wreck.each(func(e rawEntry) error {
		id, err := recordID(e.key)
		if err != nil || e.deleted || !b.hurt[id] {
			return nil
		}
		seq, _, err := openRecord(e.value, id)
		if err != nil {
			return nil
		}
		if chunk, bit := place(seq); b.done[chunk] != nil && b.done[chunk].get(bit) {
			return nil
		}
		return b.take(messageKey(nil, id), e.value, id, seq)
	})
}

// take brings a whole record into the new log, and counts it.
func (b *rebuilder) take(key, value []byte, id message.ID, seq uint64) error {
	if !b.there.add(seq) {
		return nil // the same record, in a second file
	}
	b.old.seq = max(b.old.seq, seq)
	if id.Compare(b.old.id) > 0 {
		b.old.id = id
	}
	b.count.live++
	if key[0] == prefixParked {
		b.count.parked++
	}
	if seq > b.head.seq {
		b.head.seq = seq
	}
	if id.Compare(b.head.id) > 0 {
		b.head.id = id
	}
	return b.out.Set(bytes.Clone(key), bytes.Clone(value))
}

func (b *rebuilder) meta(e rawEntry) error {
	if bytes.Equal(e.key, keyHead) {
		h, err := openHead(e.value)
		if err != nil {
			b.wreck.report(Finding{Kind: FindDamaged, Where: "head", Text: err.Error()})
			return nil
		}
		b.wreck.names.know(h.seq, h.id)
		b.old.seq, b.old.done = max(b.old.seq, h.seq), max(b.old.done, h.done)
		b.head.seq = max(b.head.seq, h.seq)
		if h.id.Compare(b.old.id) > 0 {
			b.old.id = h.id
		}
		if h.id.Compare(b.head.id) > 0 {
			b.head.id = h.id
		}
		return nil
	}
	if len(e.key) == 10 && e.key[1] == 'g' {
		if _, err := openGap(e.key, e.value); err != nil {
			b.wreck.report(Finding{Kind: FindDamaged, Where: "gap", Text: err.Error()})
			return nil
		}
		return b.out.Set(bytes.Clone(e.key), bytes.Clone(e.value))
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
// chunks of which something is left: of the others nothing is known but how
// many were complete.
func (b *rebuilder) finish(s *Summary) error {
	var lost []uint64
	lose := func(seq uint64) { lost = append(lost, seq) }
	known := map[uint64]bool{}
	for chunk := range b.there.seen {
		known[chunk] = true
	}
	for chunk := range b.done {
		known[chunk] = true
	}
	total := (b.old.seq + chunkSeqs - 1) / chunkSeqs
	were := (total - min(total, uint64(len(known)))) * chunkSeqs // complete, by the old ledger
	for _, chunk := range slices.Sorted(maps.Keys(known)) {
		were += b.lost(chunk, lose)
	}
	b.wreck.names.sort()
	for _, f := range b.wreck.names.name(lost) {
		s.Lost++
		b.wreck.report(f)
	}
	if were > b.old.done && b.old.done > 0 {
		s.Lost += int(were - b.old.done)
		b.wreck.report(Finding{Kind: FindMissing, Text: fmt.Sprintf("about %d more, of which nothing but their count is left", were-b.old.done)})
	}
	if n := b.head.seq - min(b.head.seq, b.old.seq); n > 0 {
		s.Lost += int(n)
		f := Finding{Kind: FindShort, After: b.old.id, Before: b.head.id}
		f.Text = fmt.Sprintf("the log ends at number %d, its tide mark stands at %d: the %d between are lost, if they were not complete%s",
			b.old.seq, b.head.seq, n, f.accepted())
		b.wreck.report(f)
	}
	return b.settle(known, s)
}

// lost names what is neither there nor complete in a chunk, and returns how many
// the old ledger calls complete.
func (b *rebuilder) lost(chunk uint64, lose func(seq uint64)) uint64 {
	seen, done := b.there.seen[chunk], b.done[chunk]
	if seen == nil {
		seen = new(bitmap)
	}
	if done == nil {
		done = new(bitmap)
	}
	for bit := range uint64(chunkSeqs) {
		seq := chunk*chunkSeqs + 1 + bit
		if seq <= b.old.seq && !seen.get(bit) && !done.get(bit) {
			lose(seq)
		}
	}
	return uint64(done.count())
}

// settle writes the new ledger: in every chunk of which anything is known, and
// in the last, what is not there is complete; every other chunk is.
func (b *rebuilder) settle(known map[uint64]bool, s *Summary) error {
	if last, bit := place(b.head.seq + 1); bit != 0 {
		known[last] = true
	}
	b.head.done = b.head.seq - uint64(b.count.live)
	for chunk := range known {
		seen, bits := b.there.seen[chunk], new(bitmap)
		for bit := range uint64(chunkSeqs) {
			if chunk*chunkSeqs+bit < b.head.seq && (seen == nil || !seen.get(bit)) {
				bits.set(bit)
			}
		}
		if n := bits.count(); n == 0 || n == chunkSeqs {
			continue // nothing is complete, or everything
		}
		k := chunkKey(nil, chunk)
		if err := b.out.Set(k, bits.value(k)); err != nil {
			return err
		}
	}
	s.LastSeq, s.Waiting, s.Parked, s.Complete = b.head.seq, b.count.live, b.count.parked, b.head.done
	return b.out.Set(keyHead, b.head.value())
}
