package wal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/wal/message"
)

// backedUp makes a log, backs it up while appends run, and returns the backup
// and what was surely in it.
func backedUp(t *testing.T) (backup []byte, before held, parked int) {
	t.Helper()
	l := openTest(t, smallConfig(t))
	before = held{}
	for i := range 2000 {
		m := bigMessage(i, 500)
		if i%100 == 0 {
			m = keyed(i)
		}
		before[mustAppend(t, l, m).ID] = m.Append(nil)
	}
	got, err := l.Next(t.Context(), 300, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Complete(t.Context(), got[:100]); err != nil {
		t.Fatal(err)
	}
	for i := range got[100:200] {
		got[100+i].Progress = []byte("parked")
	}
	if err := l.Park(t.Context(), time.Now().Add(time.Hour), got[100:200]); err != nil {
		t.Fatal(err)
	}
	for _, e := range got[:200] {
		delete(before, e.ID)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := l.Append(t.Context(), testMessage(i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var b bytes.Buffer
	if err := l.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	close(stop)
	wg.Wait()
	closeTest(t, l)
	return b.Bytes(), before, 100
}

func TestBackupWhileRunningAndRestore(t *testing.T) {
	t.Parallel()
	backup, before, parked := backedUp(t)
	cfg := smallConfig(t)
	s, err := tryRestore(t, backup, cfg.Dir, Issued{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Node != cfg.Node || s.Grave != 0 || s.Waiting < int64(len(before)+parked) || s.Parked != int64(parked) {
		t.Fatalf("%+v", s)
	}
	l := openTest(t, cfg)
	there := held{}
	var last uint64
	for _, e := range drain(t, l) {
		if last = max(last, e.Seq); before[e.ID] != nil {
			there[e.ID] = e.Payload
		}
	}
	if err := before.check(entriesOf(there)); err != nil {
		t.Fatal(err)
	}
	if r := mustAppend(t, l, keyed(300)); !r.Replayed {
		t.Fatal("the idempotency keys are not in the backup")
	}
	if r := mustAppend(t, l, testMessage(0)); r.Seq != s.LastSeq+1 || r.Seq <= last {
		t.Fatalf("number %d after %d", r.Seq, s.LastSeq)
	}
	closeTest(t, l)
	if _, err := tryRestore(t, backup, cfg.Dir, Issued{}); err == nil {
		t.Fatal("a log was restored over another")
	}
	l = openTest(t, cfg)
	closeTest(t, l)
}

func entriesOf(h held) (all []message.Entry) {
	for id, payload := range h {
		all = append(all, message.Entry{ID: id, Payload: payload})
	}
	return all
}

func TestADamagedBackupIsRefused(t *testing.T) {
	t.Parallel()
	backup, _, _ := backedUp(t)
	for _, at := range []int{0, 8, 9, 11, 14, 18, 30, len(backup) / 2, len(backup) - 40, len(backup) - 34, len(backup) - 1} {
		for _, how := range []string{"flipped", "cut"} {
			hurt := bytes.Clone(backup)
			if how == "cut" {
				hurt = hurt[:at]
			} else {
				hurt[at] ^= 0x10
			}
			dir := filepath.Join(tempDir(t), "wal")
			if s, err := tryRestore(t, hurt, dir, Issued{}); err == nil {
				t.Errorf("%s at byte %d of %d: restored, %+v", how, at, len(backup), s)
			}
			if left, _ := filepath.Glob(dir + "*"); len(left) > 0 {
				t.Errorf("%s at byte %d: left %v", how, at, left)
			}
		}
	}
}

func TestRestoreTouchesNothingThatIsThere(t *testing.T) {
	backup, _, _ := backedUp(t)
	dir := tempDir(t)
	precious := filepath.Join(dir, "precious")
	writeFile(t, precious, []byte("data"))
	if _, err := tryRestore(t, backup, dir, Issued{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Fatal(err)
	}
	if string(readFile(t, precious)) != "data" {
		t.Fatal("a file is gone")
	}
	empty := filepath.Join(dir, "empty")
	if err := os.MkdirAll(dbDir(empty), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := tryRestore(t, backup, empty, Issued{}); err != nil {
		t.Fatal(err)
	}
}

// failingWriter fails after some bytes.
type failingWriter struct{ left int }

var errNoClient = errors.New("the client has gone")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errNoClient
	}
	return len(p), nil
}

func TestABackupThatFailsHurtsNothing(t *testing.T) {
	l := openTest(t, smallConfig(t))
	for i := range 300 {
		mustAppend(t, l, bigMessage(i, 10_000))
	}
	for _, after := range []int{0, 9, 10, 1 << 20} {
		if err := l.Backup(t.Context(), &failingWriter{after}); !errors.Is(err, errNoClient) {
			t.Fatalf("after %d bytes: %v", after, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Backup(ctx, &failingWriter{1 << 30}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	mustAppend(t, l, testMessage(0))
	if err := l.scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
	if err := l.Backup(t.Context(), new(bytes.Buffer)); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

// TestRestoreGoesOnBehindWhatWasIssued restores a log whose node is known to have
// given out more numbers since: near and far, at the ends of the ledger's chunks
// and within them. None is given out twice, what waited is there, and the ledger
// holds through another start.
func TestRestoreGoesOnBehindWhatWasIssued(t *testing.T) {
	t.Parallel()
	backup, before, _ := backedUp(t)
	restored := func(since Issued) (Config, Summary) {
		cfg := smallConfig(t)
		cfg.Dir = filepath.Join(tempDir(t), "log")
		s, err := tryRestore(t, backup, cfg.Dir, since)
		if err != nil {
			t.Fatalf("since %d: %v", since.Seq, err)
		}
		return cfg, s
	}
	_, old := restored(Issued{})
	last := old.LastSeq
	later := message.NewID(uint64(time.Now().Add(time.Hour).UnixMilli()), 0, 7, message.Normal, 1)
	for _, to := range []uint64{last - 1, last, last + 1, chunkSeqs - 1, chunkSeqs, chunkSeqs + 1, 3 * chunkSeqs, 3*chunkSeqs + 5, 1 << 40} {
		cfg, s := restored(Issued{to, later})
		want := max(last, to)
		if s.LastSeq != want || s.Waiting != old.Waiting || s.Complete != old.Complete+want-last || s.Grave != 0 {
			t.Errorf("since %d: %+v, before it %+v", to, s, old)
		}
		for round := range uint64(2) {
			l := openTest(t, cfg)
			if r := mustAppend(t, l, testMessage(1)); r.Seq != want+1+round || r.ID.Compare(later) <= 0 {
				t.Errorf("since %d: the next is %d, %s, want %d, after %s", to, r.Seq, r.ID, want+1+round, later)
			}
			for id := range before {
				if _, err := l.Lookup(id); err != nil {
					t.Fatalf("since %d: %s waited: %v", to, id, err)
				}
			}
			if err := l.scrub(t.Context()); err != nil {
				t.Errorf("since %d: %v", to, err)
			}
			var gaps []Gap
			if want > last {
				gaps = []Gap{{last + 1, want}}
			}
			if got := l.Gaps(); !slices.Equal(got, gaps) {
				t.Errorf("since %d: gaps %v, want %v", to, got, gaps)
			}
			closeTest(t, l)
		}
	}
}
