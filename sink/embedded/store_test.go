package embedded

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	sinktest.StoreSuite(t, func(t *testing.T) sink.Store {
		s, err := Open(Config{Dir: t.TempDir(), ClaimTTL: time.Minute, MinFreeBytes: leastFree})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}, sinktest.ClaimTTL(time.Minute), sinktest.Poison(func(r *message.Record) { r.Body = strings.Repeat("é", MaxRecordBytes) }))
}

// TestDurable: what Insert has taken is there after a clean start and after a
// crash, keys, counts and claims alike.
func TestDurable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var want []message.Record
	check := func(t *testing.T) {
		t.Helper()
		for _, r := range want {
			got, err := w.Get(context.Background(), r.Account, r.ID)
			if err != nil {
				t.Fatalf("get: %v", err)
			}
			if diff := cmp.Diff(r, got); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		}
		page, err := w.List(context.Background(), message.Query{Account: "account", ClientRef: "ref", Limit: 1000})
		if err != nil || len(page.Records) != len(want) {
			t.Errorf("list: %d records, error %v, want %d", len(page.Records), err, len(want))
		}
		if tally := w.count(); tally.Stored != w.seq || len(w.missing()) > 0 {
			t.Errorf("tally = %+v, missing %v, want %d", tally, w.missing(), w.seq)
		}
	}
	for i := range 6 {
		var batch []message.Record
		for j := range 100 {
			batch = append(batch, w.accept(message.Message{ClientRef: "ref", IdempotencyKey: fmt.Sprint(j), Body: strings.Repeat("x", 1000)}))
		}
		want = append(want, w.insert(batch...)...)
		switch i % 3 {
		case 0:
			w.reopen()
		case 1:
			image := w.crashImage()
			w.close()
			w.cfg.Dir = image
			w.open()
		}
		check(t)
	}
	for _, r := range want[100:] {
		if r.Status != message.Duplicate {
			t.Fatalf("message %d is %v, want a duplicate", r.Seq, r.Status)
		}
	}
}

// TestLargeBatch: a batch with more than a transaction holds, in bytes or in
// keys, is stored whole, each message with all its keys.
func TestLargeBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var batch []message.Record
	for i := range 12 {
		batch = append(batch, w.accept(message.Message{Body: strings.Repeat(string(rune('a'+i)), 256<<10)}))
	}
	for i := range 6_000 {
		batch = append(batch, w.accept(message.Message{Account: fmt.Sprint(i % 7), ClientRef: "r", IdempotencyKey: fmt.Sprint(i)}))
	}
	w.insert(batch...)
	want := map[byte]int{'x': 1, prefixMessage: len(batch), prefixAccount: len(batch), prefixRef: 6_000, prefixClaim: 6_000,
		prefixBlock: len(batch)/blockSpan + 1}
	if diff := cmp.Diff(want, w.keys()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if tally := w.count(); tally.Stored != w.seq {
		t.Errorf("tally = %+v, want %d", tally, w.seq)
	}
}

// TestAccountsDoNotMix: no account's name and key run together as another's.
func TestAccountsDoNotMix(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var batch []message.Record
	for _, m := range []message.Message{{Account: "a", IdempotencyKey: "bc", ClientRef: "bc"}, {Account: "ab", IdempotencyKey: "c", ClientRef: "c"},
		{Account: "abc", IdempotencyKey: "\x00", ClientRef: "c"}, {Account: "a\x00", IdempotencyKey: "c"}} {
		batch = append(batch, w.accept(m))
	}
	for _, r := range w.insert(batch...) {
		if r.Status != message.Stored {
			t.Errorf("%q is %v, want stored", r.Account, r.Status)
		}
		page, err := w.List(context.Background(), message.Query{Account: r.Account, Limit: 10})
		if err != nil || len(page.Records) != 1 {
			t.Errorf("list of %q: %d records, error %v, want 1", r.Account, len(page.Records), err)
		}
	}
}

// TestDiskFull: inserts are refused before the disk is full, reads go on, and
// all is well again as soon as there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.MinFreeBytes = 100 << 20 })
	r := w.insert(w.accept(message.Message{Body: "hello"}))[0]
	w.setFree(100<<20 - 1)
	_, err := w.Insert(context.Background(), []message.Record{w.accept(message.Message{})})
	var down *sink.Down
	if !errors.As(err, &down) || !strings.Contains(err.Error(), "100 MiB") {
		t.Errorf("insert: error %v, want down, and how much is to be free", err)
	}
	if h := w.Health(); h.Up || h.Detail == "" {
		t.Errorf("health = %+v, want down", h)
	}
	if _, err := w.Get(context.Background(), "", r.ID); err != nil {
		t.Errorf("get: %v", err)
	}
	w.setFree(100 << 20)
	w.insert(w.accept(message.Message{}))
	if h := w.Health(); !h.Up {
		t.Errorf("health = %+v, want up", h)
	}
}

// TestOpenOnFullDisk: a store that cannot be opened safely is down, and opens
// when there is room.
func TestOpenOnFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	r := w.insert(w.accept(message.Message{Body: "hello"}))[0]
	w.setFree(1)
	w.reopen()
	var down *sink.Down
	if _, err := w.Get(context.Background(), "", r.ID); !errors.As(err, &down) {
		t.Errorf("get: error %v, want down", err)
	}
	if h := w.Health(); h.Up || h.Detail == "" {
		t.Errorf("health = %+v, want down", h)
	}
	w.setFree(1 << 40)
	sinktest.Start(t, w)
	if _, err := w.Get(context.Background(), "", r.ID); err != nil {
		t.Errorf("get: %v", err)
	}
}

// TestBadgerFails: the first error that Badger logs stops every insert and ends
// Run; what is there can still be read.
func TestBadgerFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	r := w.insert(w.accept(message.Message{Body: "hello"}))[0]
	ended := make(chan error, 1)
	go func() { ended <- w.Run(context.Background()) }()
	w.db.Opts().Logger.Errorf("Error while curlf sync: %v\n", errors.New("input/output error"))
	if err := <-ended; !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("run: error %v, want that of Badger", err)
	}
	_, err := w.Insert(context.Background(), []message.Record{w.accept(message.Message{})})
	var down *sink.Down
	if !errors.As(err, &down) || !strings.Contains(err.Error(), "restart") {
		t.Errorf("insert: error %v, want down and what to do", err)
	}
	if h := w.Health(); h.Up || !strings.Contains(h.Detail, "input/output error") {
		t.Errorf("health = %+v, want down", h)
	}
	if _, err := w.Get(context.Background(), "", r.ID); err != nil {
		t.Errorf("get: %v", err)
	}
}

// TestCloseUnderLoad: Close waits for whoever is inside and turns away the
// others. What was inserted with an answer is there afterwards.
func TestCloseUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for range 4 {
		var batches [8][]message.Record
		var taken [8]bool
		for i := range batches {
			for range 50 {
				batches[i] = append(batches[i], w.accept(message.Message{Body: "hello"}))
			}
		}
		var wg sync.WaitGroup
		begun := make(chan struct{}, 64)
		for i, batch := range batches {
			wg.Go(func() {
				begun <- struct{}{}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*time.Millisecond) // some give up
				defer cancel()
				_, err := w.Insert(ctx, batch)
				taken[i] = err == nil
				if err != nil && !errors.Is(err, errClosed) && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("insert: %v", err)
				}
			})
			wg.Go(func() {
				for range 100 {
					if _, err := w.List(context.Background(), message.Query{Limit: 100}); err != nil && !errors.Is(err, errClosed) {
						t.Errorf("list: %v", err)
					}
				}
			})
		}
		<-begun
		w.reopenUnder(&wg)
		for i, batch := range batches {
			for _, r := range batch {
				if _, err := w.Get(context.Background(), "", r.ID); taken[i] && err != nil {
					t.Fatalf("get %d of a batch that was taken: %v", r.Seq, err)
				}
			}
		}
	}
}

// reopenUnder closes the store at once, and opens it when all have left.
func (w *world) reopenUnder(wg *sync.WaitGroup) {
	w.t.Helper()
	w.close()
	wg.Wait()
	w.open()
}

// TestCloseWaitsForReaders: the tree stays open while a call is under way.
func TestCloseWaitsForReaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inside, release, closed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.view(context.Background(), "get", func(*badger.Txn) error {
			close(inside)
			<-release
			return nil
		}); err != nil {
			t.Errorf("view: %v", err)
		}
	})
	<-inside
	wg.Go(func() { closed <- w.Close() })
	select { // far longer than an empty store needs to close
	case <-closed:
		t.Error("closed while a call was under way")
		closed <- nil
	case <-time.After(300 * time.Millisecond):
	}
	close(release)
	wg.Wait()
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
}

// TestBadgerFailsInCommit: a sync whose failure Badger only logs, before it
// answers the commit, makes that commit fail.
func TestBadgerFailsInCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	writer, err := w.begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer writer.end()
	if _, err := writer.insert(context.Background(), w.accept(message.Message{}), time.Now()); err != nil {
		t.Fatal(err)
	}
	w.db.Opts().Logger.Errorf("Error while curlf sync: %v\n", errors.New("input/output error"))
	if err := writer.commit(context.Background()); !errors.As(err, new(*sink.Down)) {
		t.Errorf("commit: error %v, want down", err)
	}
}

func TestSecondOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if _, err := Open(Config{Dir: w.cfg.Dir}); err == nil {
		t.Error("a second open of the directory gives no error")
	}
}

func TestNewerFormat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.edit(func(txn *badger.Txn) error { return txn.Set(formatKey, []byte{formatVersion + 1}) })
	dir := w.crashImage()
	if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "format 03") {
		t.Errorf("open: error %v, want one about the format", err)
	}
}

func TestConfigValidate(t *testing.T) {
	for want, cfg := range map[string]Config{
		"dir":            {},
		"claim ttl":      {Dir: "x", ClaimTTL: -1},
		"retention":      {Dir: "x", Retention: time.Hour},
		"min free bytes": {Dir: "x", MinFreeBytes: 1},
	} {
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), want+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want one about %s", err, want)
		}
	}
	if err := (Config{Dir: "x"}).Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	w := newWorld(t, func(c *Config) { c.Registerer = reg })
	w.insert(w.accept(message.Message{}))
	w.count()
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, error %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(reg, "forebay_store_query_duration_seconds"); err != nil || n != len(queryNames) {
		t.Errorf("%d queries are measured, error %v, want %d", n, err, len(queryNames))
	}
	if n := diskBytes(w.cfg.Dir); n <= 0 || n > 64<<20 {
		t.Errorf("an empty store has %d bytes on disk", n)
	}
}
