package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// recoverState reads everything that waits, checks it, and holds it against the
// ledger and the tide mark. The error is a *DamagedError if anything is grave.
func recoverState(db *badger.DB, cfg Config, mark tide, found *findings) (rec *recovered, err error) {
	defer func() {
		if r := recover(); r != nil { // Badger's answer to a table that makes no sense
			err = fmt.Errorf("%w: the database in %s can't be read: %v; see `forebay wal verify`", errDamaged, dbDir(cfg.Dir), r)
		}
	}()
	s := &scan{db: db, found: found, census: newCensus(), rec: &recovered{tide: mark}}
	if err := s.meta(); err != nil {
		return nil, err
	}
	if err := s.all(mark.Lowest); err != nil {
		return nil, err
	}
	if s.missing > 0 && mark.Lowest != [message.Lanes]message.ID{} {
		// The marks of the lanes only save the walk over what is deleted. If
		// anything is missing they are not believed.
		again := &scan{db: db, found: &findings{each: nil}, census: newCensus(), rec: &recovered{tide: mark}}
		if err := errors.Join(again.meta(), again.all([message.Lanes]message.ID{})); err != nil {
			return nil, err
		}
		s = again
	}
	for _, f := range s.pending {
		found.add(f)
	}
	if mark.Format == 0 && s.rec.head.seq > 0 {
		found.add(Finding{Kind: FindFile, Where: tideName, Text: "the tide mark is gone: whether the log is whole can't be told"})
	}
	if s.rec.head.seq < mark.Seq {
		found.add(Finding{Kind: FindShort, Where: tideName, Text: fmt.Sprintf(
			"the log ends at number %d, its tide mark stands at %d: %d accepted messages and all that came after are gone", s.rec.head.seq, mark.Seq, mark.Seq-s.rec.head.seq)})
	}
	if err := found.err(cfg.Dir); err != nil {
		return nil, err
	}
	return s.rec, s.bury()
}

// scan walks over the whole database once.
type scan struct {
	db      *badger.DB
	found   *findings
	census  *census
	rec     *recovered
	chunks  map[uint64]*bitmap
	pending []Finding
	missing int
}

func (s *scan) note(f Finding) { s.pending = append(s.pending, f) }

// meta reads head and ledger.
func (s *scan) meta() error {
	s.chunks = map[uint64]*bitmap{}
	return s.db.View(func(txn *badger.Txn) error {
		return each(txn, []byte{prefixMeta}, nil, func(item *badger.Item, v []byte) error {
			key := item.KeyCopy(nil)
			var err error
			switch {
			case bytes.Equal(key, keyHead):
				s.rec.head, err = openHead(v)
			case bytes.Equal(key, keyFormat):
				err = s.format(v)
			case len(key) == 10 && key[1] == 'c':
				s.chunks[binary.BigEndian.Uint64(key[2:])], err = openBitmap(v, key)
			case len(key) == 10 && key[1] == 'p': // a pad
			default:
				s.note(Finding{Kind: FindForeign, Where: fmt.Sprintf("key % x", key)})
			}
			if errors.Is(err, errDamaged) {
				s.note(Finding{Kind: FindDamaged, Where: "key " + string(key[:2]), Text: err.Error()})
				return nil
			}
			return err
		})
	})
}

func (s *scan) format(v []byte) error {
	body, err := unseal(v, keyFormat)
	if err == nil && (len(body) != 1 || body[0] != formatVersion) {
		return fmt.Errorf("the log has format % x, this program knows %d", body, formatVersion)
	}
	return err
}

// all reads every record and settles the accounts.
func (s *scan) all(lowest [message.Lanes]message.ID) error {
	err := s.db.View(func(txn *badger.Txn) error {
		for lane := range message.Lanes {
			prefix := []byte{prefixMessage, byte(lane)}
			from := append(bytes.Clone(prefix), lowest[lane][:]...)
			if err := each(txn, prefix, from, s.record); err != nil {
				return err
			}
		}
		if err := each(txn, []byte{prefixParked}, nil, s.record); err != nil {
			return err
		}
		s.strangers(txn)
		return each(txn, []byte{prefixProgress}, nil, func(item *badger.Item, v []byte) error {
			s.rec.progress = true
			if _, _, err := openProgress(v, item.Key()); err != nil {
				s.note(Finding{Kind: FindDamaged, Where: fmt.Sprintf("progress of %x", item.Key()[1:]), Text: err.Error()})
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	l, err := adopt(s.rec.head, s.chunks, s.census)
	if err != nil {
		s.note(Finding{Kind: FindMissing, Text: err.Error()})
	}
	risen := map[uint64]bool{}
	l.compare(s.census, func(seq uint64) {
		s.missing++
		if s.missing <= maxFindings {
			s.note(Finding{Kind: FindMissing, Seq: seq, Text: "accepted and not complete, but not in the log"})
		}
	}, func(seq uint64) { risen[seq] = true })
	if s.missing > maxFindings {
		s.note(Finding{Kind: FindMissing, Text: fmt.Sprintf("%d messages in all", s.missing)})
	}
	s.rec.ledger = l
	return s.findRisen(risen)
}

// strangers names keys that begin like none of ours: the first between any two
// of our prefixes.
func (s *scan) strangers(txn *badger.Txn) {
	it := txn.NewIterator(badger.IteratorOptions{})
	defer it.Close()
	from := []byte{0}
	for _, ours := range []byte{prefixParked, prefixKey, prefixMessage, prefixProgress, prefixMeta, 0xff} {
		if it.Seek(from); it.Valid() && it.Item().Key()[0] < ours {
			s.note(Finding{Kind: FindForeign, Where: fmt.Sprintf("key % x", it.Item().Key())})
		}
		from = []byte{ours + 1}
	}
}

// record checks one record and counts it.
func (s *scan) record(item *badger.Item, v []byte) error {
	id, err := recordID(item.Key())
	if err != nil {
		s.note(Finding{Kind: FindForeign, Text: err.Error()})
		return nil
	}
	seq, _, err := openRecord(v, id)
	if err != nil {
		s.note(Finding{Kind: FindDamaged, ID: id, Text: err.Error()})
		return nil
	}
	if seq == 0 || seq > s.rec.head.seq {
		s.note(Finding{Kind: FindShort, ID: id, Seq: seq, Text: fmt.Sprintf("its number is past the head, %d", s.rec.head.seq)})
		return nil
	}
	if !s.census.add(seq) {
		s.note(Finding{Kind: FindDamaged, ID: id, Seq: seq, Text: "another record has its number"})
		return nil
	}
	s.rec.live++
	s.rec.liveBytes += int64(len(v))
	if item.Key()[0] == prefixParked {
		s.rec.parked++
		return nil
	}
	lane := &s.rec.lanes[id.Lane()]
	if lane.count++; lane.count == 1 {
		lane.first = id
	}
	lane.last = id
	return nil
}

// findRisen names the records that the ledger calls complete.
func (s *scan) findRisen(risen map[uint64]bool) error {
	if len(risen) == 0 {
		return nil
	}
	find := func(item *badger.Item, v []byte) error {
		id, err := recordID(item.Key())
		if err != nil {
			return nil
		}
		seq, _, err := openRecord(v, id)
		if err != nil || !risen[seq] {
			return nil
		}
		s.rec.risen = append(s.rec.risen, item.KeyCopy(nil))
		s.rec.live--
		s.rec.liveBytes -= int64(len(v))
		if item.Key()[0] == prefixParked {
			s.rec.parked--
		} else {
			s.rec.lanes[id.Lane()].count--
		}
		s.note(Finding{Kind: FindRisen, ID: id, Seq: seq})
		return nil
	}
	return s.db.View(func(txn *badger.Txn) error {
		return errors.Join(each(txn, []byte{prefixMessage}, nil, find), each(txn, []byte{prefixParked}, nil, find))
	})
}

// bury deletes what is risen, and writes the format.
func (s *scan) bury() error {
	batch := s.db.NewWriteBatch()
	defer batch.Cancel()
	for _, key := range s.rec.risen {
		if err := batch.Delete(key); err != nil {
			return err
		}
	}
	value := append(make([]byte, sealSize), formatVersion)
	seal(value, keyFormat)
	if err := batch.Set(keyFormat, value); err != nil {
		return err
	}
	return batch.Flush()
}

// each calls fn for every item under prefix, beginning at from. The value is
// valid during the call only.
func each(txn *badger.Txn, prefix, from []byte, fn func(item *badger.Item, value []byte) error) error {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	if from == nil {
		from = prefix
	}
	for it.Seek(from); it.Valid(); it.Next() {
		item := it.Item()
		if err := item.Value(func(v []byte) error { return fn(item, v) }); err != nil {
			return fmt.Errorf("read key % x: %w", item.Key(), err)
		}
	}
	return nil
}
