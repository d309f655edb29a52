package embedded

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/wal/message"
)

// TestRetentionDeletesWhatIsOldAndNothingElse: whatever is stored, after a
// round of retention there are the messages younger than the limit with all
// their keys, and no key of any other.
func TestRetentionDeletesWhatIsOldAndNothingElse(t *testing.T) {
	t.Parallel()
	const limit = 24 * time.Hour
	w := newWorld(t, func(c *Config) { c.Retention, c.ClaimTTL = limit, time.Hour })
	rapid.Check(t, func(t *rapid.T) {
		w.seq = 0
		now := w.now()
		ages := rapid.SliceOfN(rapid.IntRange(0, 48*60), 0, 40).Draw(t, "ages in minutes")
		var young []message.Record
		want := map[byte]int{'x': 1}
		claims, blocks := make(map[string]message.Record), make(map[uint64]bool)
		for _, age := range ages {
			w.accepted = now.Add(-time.Duration(age)*time.Minute + 30*time.Second)
			m := message.Message{Account: rapid.SampledFrom([]string{"a", "ab"}).Draw(t, "account"), ClientRef: rapid.SampledFrom([]string{"", "r"}).Draw(t, "ref"),
				IdempotencyKey: rapid.SampledFrom([]string{"", "k", "bk"}).Draw(t, "key"), Body: "hello"}
			if rapid.IntRange(0, 9).Draw(t, "gap") == 0 {
				w.seq += 700
			}
			r := w.insert(w.accept(m))[0]
			claim := m.Account + "\x00" + m.IdempotencyKey
			if c, ok := claims[claim]; m.IdempotencyKey != "" && r.Status == message.Stored && (!ok || r.AcceptedAt().After(c.AcceptedAt())) {
				claims[claim] = r
			}
			if now.Sub(r.AcceptedAt()) > limit {
				continue
			}
			young = append(young, r)
			want[prefixMessage]++
			want[prefixAccount]++
			blocks[r.Seq/blockSpan] = true
			if m.ClientRef != "" {
				want[prefixRef]++
			}
		}
		for _, c := range claims {
			if now.Sub(c.AcceptedAt()) <= limit {
				want[prefixClaim]++
			}
		}
		if len(blocks) > 0 {
			want[prefixBlock] = len(blocks)
		}
		used := w.usage(now)
		if err := w.retain(context.Background()); err != nil {
			t.Fatalf("retain: %v", err)
		}
		if diff := cmp.Diff(used, w.usage(now)); diff != "" {
			t.Errorf("usage after retention (-want +got):\n%s", diff)
		}
		got := w.keys()
		delete(got, prefixUsage) // what was deleted counts on: looked at above
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
		for _, r := range young {
			got, err := w.Get(context.Background(), r.Account, r.ID)
			if err != nil {
				t.Fatalf("get: %v", err)
			}
			if diff := cmp.Diff(r, got); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		}
		if tally := w.count(); w.seq > 0 && tally != (sink.Tally{Stored: uint64(len(young)), Final: uint64(len(young))}) {
			t.Errorf("tally = %+v, want %d", tally, len(young))
		}
		w.clear()
	})
}

// usage counts what both accounts have had accepted in the days until now.
func (w *world) usage(now time.Time) (all []message.UsageCount) {
	w.t.Helper()
	for _, account := range []string{"a", "ab"} {
		counts, err := w.Usage(context.Background(), message.UsageQuery{Account: account, From: now.Add(-96 * time.Hour), To: now.Add(24 * time.Hour)})
		if err != nil {
			w.t.Fatalf("usage: %v", err)
		}
		all = append(all, counts...)
	}
	return all
}

// clear empties the tree for the next run.
func (w *world) clear() {
	w.edit(func(txn *badger.Txn) error {
		return scan(context.Background(), txn, nil, nil, func(item *badger.Item) error {
			if item.Key()[0] == formatKey[0] {
				return nil
			}
			return txn.Delete(item.KeyCopy(nil))
		})
	})
}

// TestRetentionGivesSpaceBack: a store that takes in much more than it keeps
// does not grow with what it took in. Its memtables are small, so that there
// are many tables and compactions all the same.
func TestRetentionGivesSpaceBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Retention, c.ClaimTTL = 24*time.Hour, time.Hour })
	w.memTable = 2 << 20
	w.reopen()
	w.accepted = time.Now().Add(-1000 * time.Hour)
	rng := rand.New(rand.NewPCG(1, 2))
	body := make([]byte, 8<<10)
	const rounds, batches, size = 8, 4, 100 // 3 MiB a round
	for range rounds {
		for range batches {
			var b []message.Record
			for range size {
				for i := range body {
					body[i] = byte(' ' + rng.UintN(64))
				}
				b = append(b, w.accept(message.Message{Body: string(body)}))
			}
			w.insert(b...)
		}
		if err := w.retain(context.Background()); err != nil {
			t.Fatalf("retain: %v", err)
		}
	}
	if n := w.keys()[prefixMessage]; n != 0 {
		t.Fatalf("%d messages are left", n)
	}
	deadline := time.Now().Add(20 * time.Second) // compaction comes behind
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for diskBytes(w.cfg.Dir) > 14<<20 {
		if <-tick.C; time.Now().After(deadline) {
			t.Fatalf("the empty store has %d MiB on disk", diskBytes(w.cfg.Dir)>>20)
		}
	}
}

// TestRetentionLeavesWhatItCannotRead: a damaged message stays, is named, and
// does not keep the others.
func TestRetentionLeavesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Retention, c.ClaimTTL = 24*time.Hour, time.Hour })
	w.accepted = time.Now().Add(-48 * time.Hour)
	var batch []message.Record
	for range 5 {
		batch = append(batch, w.accept(message.Message{Body: "hello"}))
	}
	w.insert(batch...)
	bad := batch[2].ID
	w.edit(func(txn *badger.Txn) error { return txn.Set(messageKey(bad), []byte("rubbish")) })
	if err := w.retain(context.Background()); err != nil {
		t.Fatalf("retain: %v", err)
	}
	if n := w.keys()[prefixMessage]; n != 1 {
		t.Errorf("%d messages are left, want the damaged one", n)
	}
	if !contains(w.log, bad.String()) {
		t.Errorf("the log does not name %s:\n%s", bad, w.log)
	}
}

// TestRetentionGoesOnWhenInsertsStop: a full disk is what retention cures.
func TestRetentionGoesOnWhenInsertsStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Retention, c.ClaimTTL, c.MinFreeBytes = 24*time.Hour, time.Hour, 100<<20 })
	w.accepted = time.Now().Add(-48 * time.Hour)
	w.insert(w.accept(message.Message{Body: "hello"}))
	w.setFree(99 << 20)
	if err := w.retain(context.Background()); err != nil {
		t.Errorf("retain: %v", err)
	}
	if diff := cmp.Diff(map[byte]int{'x': 1, prefixUsage: 1}, w.keys()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	w.setFree(40 << 20)
	if err := w.retain(context.Background()); err == nil {
		t.Error("retention writes to a disk that is all but full")
	}
}

// TestForEver: without a limit nothing goes.
func TestForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Retention = forEver })
	w.accepted = time.Unix(1_000_000_000, 0)
	w.insert(w.accept(message.Message{Body: "hello"}))
	if err := w.retain(context.Background()); err != nil {
		t.Errorf("retain: %v", err)
	}
	if got := w.count(); got.Stored != 1 {
		t.Errorf("tally = %v, want the message", got)
	}
}

// TestScrub: messages that Badger has lost without a word are counted and
// named, and what Count and Missing say is then the truth; a damaged count is
// made anew.
func TestScrub(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var batch []message.Record
	for range 3000 {
		batch = append(batch, w.accept(message.Message{Body: "hello"}))
	}
	w.insert(batch...)
	if err := w.scrub(context.Background()); err != nil || w.log.String() != "" {
		t.Fatalf("scrub of a sound store: error %v, log %s", err, w.log)
	}
	lost := []uint64{1, 2, 1023, 1024, 1500, 3000}
	w.edit(func(txn *badger.Txn) error {
		for _, seq := range lost {
			if err := txn.Delete(messageKey(batch[seq-1].ID)); err != nil {
				return err
			}
		}
		return txn.Set(blockKey(1, 1), []byte("rubbish"))
	})
	if err := w.scrub(context.Background()); err != nil {
		t.Fatalf("scrub: %v", err)
	}
	if diff := cmp.Diff(lost, w.missing()); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	if want := (sink.Tally{Stored: 2994, Final: 2994}); w.count() != want {
		t.Errorf("tally = %+v, want %+v", w.count(), want)
	}
	// The numbers of the damaged block cannot be known.
	for _, name := range []string{"lost=4", "node 1 seq 1 ", "node 1 seq 1023", "node 1 seq 3000", "block 1 of node 1"} {
		if !contains(w.log, name) {
			t.Errorf("the log does not say %q:\n%s", name, w.log)
		}
	}
	before := w.log.String()
	if err := w.scrub(context.Background()); err != nil || w.log.String() != before {
		t.Errorf("scrub again: error %v, log %s", err, w.log)
	}
}

// TestInsertPassesDamage: a damaged count, claim or message fails no batch; the
// count is made anew, and the message replaced by what the log has.
func TestInsertPassesDamage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	first := w.insert(w.accept(message.Message{Account: "a", IdempotencyKey: "k", Body: "hello"}), w.accept(message.Message{Account: "a"}))
	w.edit(func(txn *badger.Txn) error {
		for _, key := range [][]byte{messageKey(first[0].ID), claimKey("a", "k"), blockKey(1, 0)} {
			if err := txn.Set(key, []byte("rubbish")); err != nil {
				return err
			}
		}
		return nil
	})
	again := first[0]
	again.State = message.State{Status: message.Accepted}
	results, err := w.Insert(context.Background(), []message.Record{again, w.accept(message.Message{Account: "a", IdempotencyKey: "k"})})
	if err != nil {
		t.Fatalf("insert: %v", err)
	}
	if results[0].Outcome != sink.New || results[1].Outcome != sink.Duplicate || results[1].State.DuplicateOf != again.ID {
		t.Errorf("results = %+v", results)
	}
	if !w.miscounted.Load() {
		t.Error("the damaged count is not noted")
	}
	if err := w.scrub(context.Background()); err != nil {
		t.Fatalf("scrub: %v", err)
	}
	if got := w.missing(); len(got) > 0 {
		t.Errorf("missing %v after the scrub", got)
	}
	if contains(w.log, "lost") {
		t.Errorf("the scrub finds a loss:\n%s", w.log)
	}
}

func contains(s fmt.Stringer, part string) bool { return strings.Contains(s.String(), part) }
