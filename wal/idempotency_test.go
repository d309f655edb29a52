package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// movedClock is a clock that only the test moves.
type movedClock struct{ at atomic.Int64 } // Unix ms

func newMovedClock(cfg *Config) *movedClock {
	c := new(movedClock)
	c.at.Store(time.Now().UnixMilli())
	cfg.now = func() time.Time { return time.UnixMilli(c.at.Load()) }
	return c
}

func (c *movedClock) advance(d time.Duration) { c.at.Add(d.Milliseconds()) }

func TestIdempotencyKeyLifeCycle(t *testing.T) {
	cfg := testConfig(t)
	clock := newMovedClock(&cfg)
	l := openTest(t, cfg)
	first := mustAppend(t, l, keyed(1))
	again := mustAppend(t, l, keyed(1))
	if !again.Replayed || again.ID != first.ID {
		t.Fatalf("replay: %+v, want %s", again, first.ID)
	}
	other := keyed(1)
	other.Fingerprint[3]++
	if _, err := l.Append(t.Context(), other); !errors.Is(err, ErrKeyMismatch) {
		t.Fatalf("another payload: %v", err)
	}
	elsewhere := keyed(1)
	elsewhere.Account = "another"
	if r := mustAppend(t, l, elsewhere); r.Replayed {
		t.Fatal("the key of one account answers another")
	}
	if err := l.Complete(t.Context(), drain(t, l)); err != nil { // the key outlives its message
		t.Fatal(err)
	}
	closeTest(t, l)
	l = openTest(t, cfg)
	if r := mustAppend(t, l, keyed(1)); !r.Replayed || r.ID != first.ID {
		t.Fatalf("replay after restart: %+v, want %s", r, first.ID)
	}
	clock.advance(24*time.Hour - time.Second)
	if r := mustAppend(t, l, keyed(1)); !r.Replayed {
		t.Fatal("the key expired too early")
	}
	clock.advance(2 * time.Second)
	second := mustAppend(t, l, keyed(1))
	if second.Replayed {
		t.Fatal("the key did not expire")
	}
	if r := mustAppend(t, l, keyed(1)); !r.Replayed || r.ID != second.ID {
		t.Fatalf("replay of the second message: %+v, want %s", r, second.ID)
	}
	closeTest(t, l)
}

// claims counts the idempotency keys on disk.
func claims(t *testing.T, l *Log) (n int) {
	t.Helper()
	err := l.db.View(func(txn *badger.Txn) error {
		return each(txn, []byte{prefixKey}, nil, func(*badger.Item, []byte) error { n++; return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTheSweepForgetsWhatHasExpiredAndNothingElse(t *testing.T) {
	cfg := testConfig(t)
	clock := newMovedClock(&cfg)
	l := openTest(t, cfg)
	appendKeyed := func(from, to int) {
		var ms []*message.Message
		for i := from; i < to; i++ {
			ms = append(ms, keyed(i))
		}
		if err := l.AppendBatch(t.Context(), ms, make([]Receipt, len(ms))); err != nil {
			t.Fatal(err)
		}
	}
	appendKeyed(0, 3000)
	clock.advance(25 * time.Hour)
	appendKeyed(3000, 3100)
	eventually(t, "the expired keys are gone", func() bool { return claims(t, l) == 100 })
	for i := 3000; i < 3100; i++ {
		if r := mustAppend(t, l, keyed(i)); !r.Replayed {
			t.Fatalf("key %d was swept and had not expired", i)
		}
	}
	closeTest(t, l)
}

// TestTheSweepSparesAKeyTakenAnew: between the sweep's look and its deletion the
// key may have gone to another message.
func TestTheSweepSparesAKeyTakenAnew(t *testing.T) {
	cfg := testConfig(t)
	l := openTest(t, cfg)
	first := mustAppend(t, l, keyed(1))
	key := idempotencyKey(nil, "acme", keyed(1).IdempotencyKey)
	forget := func(id message.ID) {
		r := &request{done: make(chan struct{}, 1), ops: []op{{kind: opForget, key: key, id: id}}}
		if err := errors.Join(l.submit(t.Context(), r), r.err); err != nil {
			t.Fatal(err)
		}
	}
	forget(message.NewID(1, 0, 7, 0, 0)) // as if the first had taken over from this one
	if r := mustAppend(t, l, keyed(1)); !r.Replayed {
		t.Fatal("a key was forgotten that another message has taken")
	}
	forget(first.ID)
	if claims(t, l) != 0 {
		t.Fatal("the key is still there")
	}
	forget(first.ID) // harmless
	closeTest(t, l)
}

func TestManyAppendsOfOneKeyGiveOneID(t *testing.T) {
	l := openTest(t, testConfig(t))
	var ids sync.Map
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			for {
				r, err := l.Append(context.Background(), keyed(1))
				if err == nil {
					ids.Store(r.ID, true)
					return
				}
				if !errors.Is(err, ErrInProgress) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	if s := l.Stats(); n != 1 || s.LastSeq != 1 {
		t.Fatalf("%d ids, %d messages", n, s.LastSeq)
	}
	closeTest(t, l)
}

// TestAWaiterThatGivesUpLetsNoSecondMessageThrough holds the commit back while
// the client of the first message goes away and another comes with its key.
func TestAWaiterThatGivesUpLetsNoSecondMessageThrough(t *testing.T) {
	cfg := testConfig(t)
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	cfg.commit = func(txn *badger.Txn) error {
		entered <- struct{}{}
		<-leave
		return txn.Commit()
	}
	l := openTest(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() {
		_, err := l.Append(ctx, keyed(1))
		gaveUp <- err
	}()
	<-entered
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), keyed(1)); !errors.Is(err, ErrInProgress) {
		t.Fatalf("while the first is being written: %v", err)
	}
	out := make([]Receipt, 2)
	if err := l.AppendBatch(t.Context(), []*message.Message{keyed(1), keyed(1)}, out); err != nil || !errors.Is(out[0].Err, ErrInProgress) || !errors.Is(out[1].Err, ErrInProgress) {
		t.Fatalf("in a batch: %v, %+v", err, out)
	}
	close(leave)
	eventually(t, "the first is written", func() bool { return l.Stats().LastSeq == 1 })
	r := mustAppend(t, l, keyed(1))
	if !r.Replayed || l.Stats().LastSeq != 1 {
		t.Fatalf("%+v, %d messages", r, l.Stats().LastSeq)
	}
	closeTest(t, l)
}

// TestKeyAndMessageAreWrittenTogether cuts the log file behind every one of its
// bytes in turn: what opens has both or neither.
func TestKeyAndMessageAreWrittenTogether(t *testing.T) {
	t.Parallel()
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	for i := range 3 {
		mustAppend(t, l, keyed(i))
	}
	dir := crashCopy(t, cfg.Dir)
	closeTest(t, l)
	mem := dbDir(dir) + "/00001.mem"
	data := readFile(t, mem)
	n := len(trimZeros(data))
	from := bytes.Index(data, []byte("key 1"))
	for cut := from - 40; cut < n; cut += 11 {
		cfg.Dir = crashCopy(t, dir)
		torn := append(bytes.Clone(data[:cut]), make([]byte, len(data)-cut)...)
		writeFile(t, dbDir(cfg.Dir)+"/00001.mem", torn)
		writeFile(t, cfg.Dir+"/"+tideName, readFile(t, dir+"/"+tideName))
		l, err := tryOpen(t, cfg)
		var damaged *DamagedError
		if errors.As(err, &damaged) {
			if damaged.Findings[0].Kind != FindShort { // the tide mark was written since
				t.Fatalf("cut at %d of %d: %v", cut, n, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		messages, keys := l.Waiting(), claims(t, l)
		closeTest(t, l)
		if messages != keys {
			t.Fatalf("cut at %d of %d: %d messages, %d keys", cut, n, messages, keys)
		}
	}
}

func TestKeysAreNotMixedUp(t *testing.T) {
	l := openTest(t, testConfig(t))
	for _, pair := range [][2]string{{"a", "b c"}, {"a b", "c"}, {"a", "b"}, {"ab", "b"}} {
		m := testMessage(0)
		m.Account, m.IdempotencyKey = pair[0], pair[1]
		if r, err := l.Append(t.Context(), m); err != nil || r.Replayed {
			t.Fatalf("%q: %+v, %v", pair, r, err)
		}
	}
	m := testMessage(0)
	m.IdempotencyKey = fmt.Sprintf("%3000d", 1)
	if _, err := l.Append(t.Context(), m); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("a key of 3,000 bytes: %v", err)
	}
	closeTest(t, l)
}
