package sinktest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"forebay/sink"
	"forebay/wal/message"
)

// patience bounds every wait for something that must happen.
const patience = 30 * time.Second

// Option tells StoreSuite about something that not every store has or shows.
type Option func(*suite)

// ClaimTTL says for how long the store was told to honour a claim on an
// idempotency key, at most 10 minutes, and has the suite test that a claim ends.
func ClaimTTL(d time.Duration) Option { return func(s *suite) { s.claimTTL = d } }

// Poison says how to make a record one that the store refuses for its own
// fault, and has the suite test that such a record is set aside alone.
func Poison(spoil func(*message.Record)) Option { return func(s *suite) { s.spoil = spoil } }

// StoreSuite holds a store to what sink.Store promises. open returns a new,
// empty store that does not run yet; the suite runs and closes it. Everything
// is tested against one store, which therefore also holds what is none of the
// current test's business, as a real one does.
func StoreSuite(t *testing.T, open func(t *testing.T) sink.Store, opts ...Option) {
	s := &suite{store: open(t)}
	for _, o := range opts {
		o(s)
	}
	Start(t, s.store)

	t.Run("fields", s.testFields)
	t.Run("long fields", s.testLongFields)
	t.Run("progress", s.testProgress)
	t.Run("known", s.testKnown)
	t.Run("empty batch", s.testEmptyBatch)
	t.Run("get", s.testGet)
	t.Run("claims", s.testClaims)
	t.Run("claims in one batch", s.testClaimsInOneBatch)
	t.Run("claims race", s.testClaimsRace)
	t.Run("claim ends", s.testClaimEnds)
	t.Run("set aside", s.testSetAside)
	t.Run("list pages", s.testListPages)
	t.Run("list filters", s.testListFilters)
	t.Run("list due", s.testListDue)
	t.Run("list of every account", s.testListEveryAccount)
	t.Run("update", s.testUpdate)
	t.Run("reports", s.testReports)
	t.Run("early reports", s.testEarlyReports)
	t.Run("reports race", s.testReportsRace)
	t.Run("unreported", s.testUnreported)
	t.Run("usage", s.testUsage)
	t.Run("life model", s.testLifeModel)
	t.Run("count", s.testCount)
	t.Run("missing", s.testMissing)
	t.Run("numbered", s.testNumbered)
	t.Run("first since", s.testFirstSince)
	t.Run("concurrent inserts", s.testConcurrentInserts)
	t.Run("canceled", s.testCanceled)
	t.Run("health", s.testHealth)
	t.Run("model", s.testModel)
}

// Start runs the store until the test ends, then closes it, and returns when
// it is up.
func Start(t *testing.T, store sink.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("run store: %v", err)
		}
		if err := store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !store.Health().Up {
		select {
		case <-tick.C:
		case err := <-ended:
			ended <- err
			t.Fatalf("run store: ended before it was up: %v", err)
		case <-deadline.C:
			t.Fatalf("store is not up after %v: %s", patience, store.Health().Detail)
		}
	}
}

// suite is one store under test and what makes each test's data its own.
type suite struct {
	store    sink.Store
	claimTTL time.Duration
	spoil    func(*message.Record)

	nodes    atomic.Uint32
	accounts atomic.Uint32
}

// tb is what *testing.T and *rapid.T have in common.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// account returns an account's name that no other test has.
func (s *suite) account() string { return fmt.Sprintf("account-%d", s.accounts.Add(1)) }

// node returns an appliance that no other test has.
func (s *suite) node() *node {
	return &node{number: uint16(s.nodes.Add(1)), ms: uint64(time.Now().Add(-30 * time.Minute).UnixMilli())}
}

// node issues ids and sequence numbers as an appliance does.
type node struct {
	number  uint16
	ms      uint64
	counter uint16
	seq     uint64
}

// wait lets d pass on the node's clock.
func (n *node) wait(d time.Duration) {
	n.ms += uint64(d.Milliseconds())
	n.counter = 0
}

// accept makes a record of m, in the same millisecond as the one before while
// that has numbers left.
func (n *node) accept(m message.Message) message.Record {
	n.seq++
	if n.counter++; n.counter > 4095 {
		n.wait(time.Millisecond)
	}
	id := message.NewID(n.ms, n.counter, n.number, m.Priority, n.seq*2654435761)
	return message.Record{ID: id, Seq: n.seq, Message: m, State: message.State{Status: message.Accepted}}
}

// insert inserts a batch that must not fail.
func (s *suite) insert(t tb, batch ...message.Record) []sink.Result {
	t.Helper()
	results, err := s.store.Insert(context.Background(), batch)
	if err != nil {
		t.Fatalf("insert %d records: %v", len(batch), err)
	}
	if len(results) != len(batch) {
		t.Fatalf("insert %d records: %d results", len(batch), len(results))
	}
	return results
}

// get returns a record that must be there.
func (s *suite) get(t tb, account string, id message.ID) message.Record {
	t.Helper()
	got, err := s.store.Get(context.Background(), account, id)
	if err != nil {
		t.Fatalf("get %s of %q: %v", id, account, err)
	}
	return got
}

// equal compares what the store gave with what it should have given. A time is
// the same in any zone; an empty list is as good as none.
func equal(t tb, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// checkStored holds a result to what becomes of a record that is stored as
// itself or as a duplicate: a record that nobody has worked on becomes stored
// or queued, one that is further along stays where it is.
func checkStored(t tb, in message.Record, got sink.Result, outcome sink.Outcome, duplicateOf message.ID) {
	t.Helper()
	if got.Outcome != outcome {
		t.Errorf("outcome of %s = %v, want %v", in.ID, got.Outcome, outcome)
	}
	want := in.State
	switch {
	case outcome == sink.Duplicate:
		want.Status, want.DuplicateOf = message.Duplicate, duplicateOf
	case in.Status == message.Accepted && in.Channel == message.ChannelStore:
		want.Status = message.Stored
	case in.Status == message.Accepted:
		want.Status = message.Queued
	}
	want.StoredAt = got.State.StoredAt // checked by itself
	equal(t, "state of "+in.ID.String(), got.State, want)
	checkStoredAt(t, got.State.StoredAt)
}

func checkStoredAt(t tb, at time.Time) {
	t.Helper()
	if age := time.Since(at); age < -time.Minute || age > 10*time.Minute {
		t.Errorf("stored at %v, that is %v ago", at, age)
	}
	if !at.Equal(at.Truncate(time.Millisecond)) {
		t.Errorf("stored at %v, want whole milliseconds", at)
	}
}
