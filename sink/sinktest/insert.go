package sinktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/wal/message"
)

// testFields: every field of a message comes back as it went in.
func (s *suite) testFields(t *testing.T) {
	n, account := s.node(), s.account()
	rapid.Check(t, func(t *rapid.T) {
		in := n.accept(payload(account).Draw(t, "message"))
		if rapid.Bool().Draw(t, "keyed") {
			in.IdempotencyKey = fmt.Sprint("key ", in.Seq)
			in.Fingerprint = in.PayloadFingerprint()
		}
		res := s.insert(t, in)[0]
		checkStored(t, in, res, sink.New, message.ID{})
		in.State = res.State
		equal(t, "record", s.get(t, account, in.ID), in)
	})
}

// testLongFields: nothing that is let in is too long for the store or for one
// of its indexes.
func (s *suite) testLongFields(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	long := func(n int) string { // nothing that compression could make fit
		var b strings.Builder
		for b.Len() < n {
			b.WriteRune(rune(0x4e00 + rng.IntN(0x5000)))
		}
		return b.String()
	}
	n, account := s.node(), s.account()
	m := plain(account)
	m.Body, m.To, m.Subject, m.CallbackURL = long(256<<10), long(8<<10), long(8<<10), long(8<<10)
	m.ClientRef, m.IdempotencyKey = long(300), strings.Repeat("k", 255)
	m.Fingerprint = m.PayloadFingerprint()
	pairs := make(map[string]string)
	for range 16 {
		pairs[long(180)] = long(1500)
	}
	m.Metadata = message.MetadataFrom(pairs)

	in := n.accept(m)
	res := s.insert(t, in)[0]
	checkStored(t, in, res, sink.New, message.ID{})
	in.State = res.State
	equal(t, "record", s.get(t, account, in.ID), in)
	page, err := s.store.List(context.Background(), message.Query{Account: account, To: m.To, ClientRef: m.ClientRef, Limit: 2})
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	equal(t, "page", page, message.Page{Records: []message.Record{in}})
}

// testProgress: a record that is past accepted keeps its state, whole.
func (s *suite) testProgress(t *testing.T) {
	n, account := s.node(), s.account()
	rapid.Check(t, func(t *rapid.T) {
		in := n.accept(plain(account))
		in.Channel = message.ChannelEmail
		in.State = progress().Draw(t, "state")
		res := s.insert(t, in)[0]
		checkStored(t, in, res, sink.New, message.ID{})
		in.State = res.State
		equal(t, "record", s.get(t, account, in.ID), in)
	})
}

// testKnown: a record that is there already is known, whatever the repeat says.
func (s *suite) testKnown(t *testing.T) {
	n, account := s.node(), s.account()
	a, b := n.accept(plain(account)), n.accept(plain(account))
	first := s.insert(t, a, b)

	changed := a
	changed.Body, changed.Status = "changed", message.Failed
	c := n.accept(plain(account))
	again := s.insert(t, c, changed, b, c)
	checkStored(t, c, again[0], sink.New, message.ID{})
	equal(t, "repeats", again[1:], []sink.Result{{Outcome: sink.Known, State: first[0].State},
		{Outcome: sink.Known, State: first[1].State}, {Outcome: sink.Known, State: again[0].State}})
	a.State = first[0].State
	equal(t, "record", s.get(t, account, a.ID), a)
}

func (s *suite) testEmptyBatch(t *testing.T) {
	if got := s.insert(t); len(got) != 0 {
		t.Errorf("results of nothing: %v", got)
	}
}

// testSetAside: a record that the store refuses for its own fault is kept as
// failed and costs nobody else anything.
func (s *suite) testSetAside(t *testing.T) {
	if s.spoil == nil {
		return // this store says that it refuses nothing
	}
	n, account := s.node(), s.account()
	var batch []message.Record
	bad := map[int]bool{0: true, 3: true, 4: true, 9: true}
	for i := range 10 {
		r := n.accept(plain(account))
		if bad[i] {
			s.spoil(&r)
		}
		batch = append(batch, r)
	}
	results := s.insert(t, batch...)
	for i, r := range batch {
		if !bad[i] {
			checkStored(t, r, results[i], sink.New, message.ID{})
			r.State = results[i].State
			equal(t, "record beside a bad one", s.get(t, account, r.ID), r)
			continue
		}
		s.checkSetAside(t, r, results[i])
	}
	for i, again := range s.insert(t, batch...) {
		equal(t, "repeat", again, sink.Result{Outcome: sink.Known, State: results[i].State})
	}
	tally, err := s.store.Count(context.Background(), n.number, 1, n.seq)
	if err != nil {
		t.Fatalf("count: %v", err)
	}
	equal(t, "tally", tally, sink.Tally{Stored: 10, Final: 10})
}

func (s *suite) checkSetAside(t *testing.T, in message.Record, res sink.Result) {
	t.Helper()
	if res.Outcome != sink.SetAside || res.State.Status != message.Failed || res.State.FailedAt.IsZero() ||
		res.State.Error == nil || res.State.Error.Category != "store" || res.State.Error.Retryable {
		t.Errorf("result of a bad record: %v %+v %+v, want it set aside as failed, by the store, for good", res.Outcome, res.State, res.State.Error)
	}
	checkStoredAt(t, res.State.StoredAt)
	got := s.get(t, in.Account, in.ID)
	equal(t, "state of a bad record", got.State, res.State)
	if got.Seq != in.Seq || got.Account != in.Account || got.Channel != in.Channel || got.Priority != in.Priority {
		t.Errorf("bad record came back as %d %q %v %v, want %d %q %v %v", got.Seq, got.Account, got.Channel, got.Priority,
			in.Seq, in.Account, in.Channel, in.Priority)
	}
}

// testConcurrentInserts: overlapping batches at once take each record once.
func (s *suite) testConcurrentInserts(t *testing.T) {
	const workers, size, stride = 6, 60, 15
	n, account := s.node(), s.account()
	var records []message.Record
	for range stride*(workers-1) + size {
		records = append(records, n.accept(plain(account)))
	}
	var mu sync.Mutex
	news := make(map[message.ID]int)
	seen := make(map[message.ID]int)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			batch := append([]message.Record(nil), records[w*stride:w*stride+size]...)
			if w%2 == 1 { // against each other: row locks in another order
				for i, j := 0, len(batch)-1; i < j; i, j = i+1, j-1 {
					batch[i], batch[j] = batch[j], batch[i]
				}
			}
			results, err := s.insertRetrying(batch)
			if err != nil {
				t.Errorf("insert: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i, res := range results {
				seen[batch[i].ID]++
				if res.Outcome == sink.New {
					news[batch[i].ID]++
				}
				if res.State.Status != message.Stored {
					t.Errorf("status of %s = %v, want stored", batch[i].ID, res.State.Status)
				}
			}
		})
	}
	wg.Wait()
	for _, r := range records {
		if seen[r.ID] == 0 || news[r.ID] != 1 {
			t.Errorf("record %d was inserted %d times and new %d times, want once", r.Seq, seen[r.ID], news[r.ID])
		}
	}
	tally, err := s.store.Count(context.Background(), n.number, 1, n.seq)
	if err != nil {
		t.Fatalf("count: %v", err)
	}
	equal(t, "tally", tally, sink.Tally{Stored: n.seq, Final: n.seq})
}

// insertRetrying repeats an insert that says it may be repeated: two
// transactions that meet head on may end in one of them being Down.
func (s *suite) insertRetrying(batch []message.Record) (results []sink.Result, err error) {
	for range 20 {
		results, err = s.store.Insert(context.Background(), batch)
		if down := (*sink.Down)(nil); !errors.As(err, &down) {
			break
		}
	}
	return results, err
}

// testCanceled: a call whose context has ended says so, and harms nothing.
func (s *suite) testCanceled(t *testing.T) {
	n, account := s.node(), s.account()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := n.accept(plain(account))
	_, insertErr := s.store.Insert(ctx, []message.Record{r})
	_, getErr := s.store.Get(ctx, account, r.ID)
	_, listErr := s.store.List(ctx, message.Query{Account: account, Limit: 1})
	_, countErr := s.store.Count(ctx, n.number, 1, 1)
	_, missingErr := s.store.Missing(ctx, n.number, 1, 1, 1)
	for name, err := range map[string]error{"insert": insertErr, "get": getErr, "list": listErr, "count": countErr, "missing": missingErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v, want context canceled", name, err)
		}
	}
	checkStored(t, r, s.insert(t, r)[0], sink.New, message.ID{})
}

// testHealth: a store that is up says so, and which kind it is.
func (s *suite) testHealth(t *testing.T) {
	if h := s.store.Health(); !h.Up || h.Kind == "" || h.Detail != "" {
		t.Errorf("health = %+v, want up, a kind and no complaint", h)
	}
}
