package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

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
	if err := upgrade(db, cfg, mark); err != nil {
		return nil, err
	}
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
	chunks  map[uint64]*bitmap
	missing int

	mu      sync.Mutex // over what the walks of all lanes fill in
	census  *census
	rec     *recovered
	pending []Finding
}

func (s *scan) note(f Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, f)
}

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
			case len(key) == 10 && key[1] == 'g':
				var g Gap
				if g, err = openGap(key, v); err == nil {
					s.rec.gaps = append(s.rec.gaps, g)
				}
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
	if err := s.records(lowest); err != nil {
		return err
	}
	err := s.db.View(func(txn *badger.Txn) error {
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
	for _, ours := range []byte{prefixMessage, prefixParked, prefixKey, prefixProgress, prefixMeta, 0xff} {
		if it.Seek(from); it.Valid() && it.Item().Key()[0] < ours {
			s.note(Finding{Kind: FindForeign, Where: fmt.Sprintf("key % x", it.Item().Key())})
		}
		from = []byte{ours + 1}
	}
}

// records walks over what waits in each lane and over what is parked, side by
// side: most of the time goes by in page faults of the mapped tables.
func (s *scan) records(lowest [message.Lanes]message.ID) error {
	var walks sync.WaitGroup
	errs := make([]error, message.Lanes+1)
	begin := func(i int, over func(*badger.Txn, *walk) error) {
		walks.Go(func() {
			w := &walk{scan: s, seen: make([]sighting, 0, walkBatch)}
			errs[i] = w.run(func(txn *badger.Txn) error { return over(txn, w) })
		})
	}
	for lane := range message.Priority(message.Lanes) {
		begin(int(lane), func(txn *badger.Txn, w *walk) error { return w.lane(txn, lane, lowest[lane]) })
	}
	begin(message.Lanes, func(txn *badger.Txn, w *walk) error { return each(txn, []byte{prefixParked}, nil, w.record) })
	walks.Wait()
	return errors.Join(errs...)
}

// walk checks the records under one prefix, and hands what it saw to the scan in
// batches.
type walk struct {
	scan *scan
	seen []sighting
}

// sighting is a record whose sum is right.
type sighting struct {
	id     message.ID
	seq    uint64
	size   int
	parked bool
}

const walkBatch = 512

func (w *walk) run(over func(*badger.Txn) error) (err error) {
	defer func() {
		if r := recover(); r != nil { // as in recoverState; this goroutine is another
			err = fmt.Errorf("%w: records can't be read: %v; see `forebay wal verify`", errDamaged, r)
		}
	}()
	err = w.scan.db.View(over)
	w.scan.count(w.seen)
	return err
}

func (w *walk) lane(txn *badger.Txn, p message.Priority, from message.ID) error {
	it := newLaneIterator(txn, p)
	defer it.Close()
	for it.seek(from); it.Valid(); it.next() {
		item := it.Item()
		if err := item.Value(func(v []byte) error { return w.record(item, v) }); err != nil {
			return fmt.Errorf("read key % x: %w", item.Key(), err)
		}
	}
	return nil
}

// record checks one record.
func (w *walk) record(item *badger.Item, v []byte) error {
	id, err := recordID(item.Key())
	if err != nil {
		w.scan.note(Finding{Kind: FindForeign, Text: err.Error()})
		return nil
	}
	seq, _, err := openRecord(v, id)
	if err != nil {
		w.scan.note(Finding{Kind: FindDamaged, ID: id, Text: err.Error()})
		return nil
	}
	w.seen = append(w.seen, sighting{id, seq, len(v), item.Key()[0] == prefixParked})
	if len(w.seen) == walkBatch {
		w.scan.count(w.seen)
		w.seen = w.seen[:0]
	}
	return nil
}

// count enters what a walk saw.
func (s *scan) count(seen []sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range seen {
		if f := s.enter(&seen[i]); f != nil {
			s.pending = append(s.pending, *f)
		}
	}
}

func (s *scan) enter(r *sighting) *Finding {
	if r.seq == 0 || r.seq > s.rec.head.seq {
		return &Finding{Kind: FindShort, ID: r.id, Seq: r.seq, Text: fmt.Sprintf("its number is past the head, %d", s.rec.head.seq)}
	}
	if !s.census.add(r.seq) {
		return &Finding{Kind: FindDamaged, ID: r.id, Seq: r.seq, Text: "another record has its number"}
	}
	s.rec.live++
	s.rec.liveBytes += int64(r.size)
	if r.parked {
		s.rec.parked++
		return nil
	}
	lane := &s.rec.lanes[r.id.Lane()]
	if lane.count++; lane.count == 1 {
		lane.first = r.id
	}
	lane.last = r.id
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
	if err := batch.Set(keyFormat, formatValue()); err != nil {
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
