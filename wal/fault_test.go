package wal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// TestEveryCommitFailsInTurn lets the n-th commit fail, for n = 1, 2, 3 … until
// the work is done before it: in three ways, for a commit that failed may have
// written nothing, or everything, and a failed sync may only be logged.
func TestEveryCommitFailsInTurn(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"nothing written", "all written", "only logged"} {
		t.Run(way, func(t *testing.T) {
			for n := int64(1); ; n++ {
				if !failCommit(t, way, n) {
					t.Logf("passes from n = %d", n)
					break
				}
			}
		})
	}
}

// failCommit reports whether the n-th commit was reached.
func failCommit(t *testing.T, way string, n int64) (reached bool) {
	t.Helper()
	cfg := testConfig(t)
	boom := errors.New("input/output error")
	var log atomic.Pointer[Log]
	var commits, fatals atomic.Int64
	cfg.Fatal = func(error) { fatals.Add(1) }
	ready := make(chan struct{})
	cfg.commit = func(txn *badger.Txn) error {
		<-ready
		if commits.Add(1) != n {
			return txn.Commit()
		}
		switch way {
		case "nothing written":
			txn.Discard()
			return boom
		case "all written":
			return errors.Join(txn.Commit(), boom)
		default:
			log.Load().watch.Errorf("Error while curlf sync: %v", boom)
			return txn.Commit()
		}
	}
	l := openTest(t, cfg)
	log.Store(l)
	close(ready)
	acked, err := someWork(l)
	if reached = commits.Load() >= n; !reached {
		if err != nil {
			t.Fatal(err)
		}
	} else {
		if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), boom.Error()) {
			t.Fatalf("n = %d: %v", n, err)
		}
		if _, err := l.Append(background(), testMessage(0)); !errors.Is(err, ErrFailed) {
			t.Fatalf("append after the failure: %v", err)
		}
		if err := l.Complete(background(), []message.Entry{{ID: message.NewID(1, 1, 7, 0, 0), Seq: 1}}); !errors.Is(err, ErrFailed) {
			t.Fatalf("complete after the failure: %v", err)
		}
		if got := commits.Load(); got != n {
			t.Fatalf("%d commits, the %d. failed", got, n)
		}
		if fatals.Load() != 1 {
			t.Fatalf("Fatal was called %d times", fatals.Load())
		}
	}
	if err := l.Close(); reached != errors.Is(err, ErrFailed) {
		t.Fatalf("close: %v", err)
	}
	cfg.commit = nil
	l = openTest(t, cfg)
	defer closeTest(t, l)
	for id := range acked {
		if _, err := l.Lookup(id); err != nil {
			t.Fatalf("n = %d: %s was acknowledged: %v", n, id, err)
		}
	}
	return reached
}

// someWork does a little of everything and returns what was acknowledged and
// not asked to be completed.
func someWork(l *Log) (map[message.ID]bool, error) {
	acked := map[message.ID]bool{}
	for i := range 4 {
		r, err := l.Append(background(), keyed(i))
		if err != nil {
			return acked, err
		}
		acked[r.ID] = true
		ms := []*message.Message{testMessage(1), testMessage(2), testMessage(3)}
		out := make([]Receipt, len(ms))
		if err := l.AppendBatch(background(), ms, out); err != nil {
			return acked, err
		}
		for _, r := range out {
			acked[r.ID] = true
		}
		got, err := l.Next(background(), 3, 0)
		if err != nil {
			return acked, err
		}
		delete(acked, got[0].ID)
		if err := l.Complete(background(), got[:1]); err != nil {
			return acked, err
		}
		got[1].Progress, got[2].Progress = []byte("one"), []byte("two")
		if err := l.Progress(background(), got[1:2]); err != nil {
			return acked, err
		}
		if err := l.Park(background(), time.Now().Add(time.Hour), got[2:]); err != nil {
			return acked, err
		}
	}
	return acked, nil
}

// TestErrorsOfAFailedCommitReachEveryWaiter: many wait for one commit.
func TestErrorsOfAFailedCommitReachEveryWaiter(t *testing.T) {
	cfg := testConfig(t)
	var commits atomic.Int64
	cfg.commit = func(txn *badger.Txn) error {
		if commits.Add(1) == 3 {
			txn.Discard()
			return errors.New("input/output error")
		}
		return txn.Commit()
	}
	l := openTest(t, cfg)
	var acked sync.Map
	var wg sync.WaitGroup
	for w := range 50 {
		wg.Go(func() {
			for i := 0; ; i++ {
				r, err := l.Append(background(), keyed(w*1000+i))
				if err != nil {
					if !errors.Is(err, ErrFailed) {
						t.Error(err)
					}
					return
				}
				acked.Store(r.ID, true)
			}
		})
	}
	wg.Wait()
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	cfg.commit = nil
	l = openTest(t, cfg)
	acked.Range(func(id, _ any) bool {
		if _, err := l.Lookup(id.(message.ID)); err != nil {
			t.Errorf("%s was acknowledged: %v", id, err)
		}
		return true
	})
	closeTest(t, l)
}

// TestScrubNamesARecordDeletedBehindTheWritersBack, waiting or parked, and is
// not appeased by one that rose again.
func TestScrubNamesARecordDeletedBehindTheWritersBack(t *testing.T) {
	for _, parked := range []bool{false, true} {
		cfg := testConfig(t)
		failed := make(chan error, 1)
		cfg.Fatal = func(err error) { failed <- err }
		l := openTest(t, cfg)
		for i := range 100 {
			mustAppend(t, l, testMessage(i))
		}
		got := drain(t, l)
		due := time.Now().Add(time.Hour)
		if err := l.Park(t.Context(), due, got[50:]); err != nil {
			t.Fatal(err)
		}
		if err := l.Complete(t.Context(), got[:1]); err != nil {
			t.Fatal(err)
		}
		if err := l.scrub(t.Context()); err != nil {
			t.Fatal(err)
		}
		victim, key := got[10], messageKey(nil, got[10].ID)
		if parked {
			victim, key = got[60], parkedKey(nil, uint64(due.UnixMilli()), got[60].ID)
		}
		err := l.db.Update(func(txn *badger.Txn) error {
			return errors.Join(txn.Delete(key), txn.Set(messageKey(nil, got[0].ID), newRecord(got[0])))
		})
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("1 accepted messages are gone from the disk, numbers %d to %d", victim.Seq, victim.Seq)
		if err := l.scrub(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("%v, want %q", err, want)
		}
		if err := <-failed; !errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
		if err := l.Close(); !errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
		var damaged *DamagedError
		if _, err := tryOpen(t, cfg); !errors.As(err, &damaged) || damaged.Findings[0].Seq != victim.Seq {
			t.Fatalf("open: %v, want number %d", err, victim.Seq)
		}
	}
}

// TestAFailedSyncAcknowledgesNothingAfterIt lets the n-th msync of a child fail
// with EIO, really, by strace.
func TestAFailedSyncAcknowledgesNothingAfterIt(t *testing.T) {
	t.Parallel()
	strace := needTool(t, "strace", "strace")
	for _, n := range []int{5, 12, 25, 60} {
		cfg := smallConfig(t)
		cfg.Dir = filepath.Join(t.TempDir(), "wal") // a file system that syncs
		account := newTold()
		self := child(t, "write", "DIR="+cfg.Dir, "FROM=0", "KEEP=1")
		cmd := exec.Command(strace, "-f", "-qq", "-e", "trace=msync", "-e", fmt.Sprintf("inject=msync:error=EIO:when=%d+", n), "-o", "/dev/null", self.Path)
		cmd.Env = self.Env
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		account.writeUntil(t, cmd, 20*time.Second, func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			t.Errorf("n = %d: the child went on for 20 s", n)
		})
		if !account.failed {
			t.Fatalf("n = %d: the log did not fail", n)
		}
		t.Logf("n = %d: %d accepted before", n, len(account.accepted))
		l := openTest(t, cfg)
		account.check(t, l, false)
		closeTest(t, l)
	}
}

// childDescriptors appends under a low limit of open files, while other
// descriptors come and go as connections do, so that compactions meet EMFILE.
func childDescriptors() error {
	cfg := childConfig()
	failed := make(chan struct{})
	cfg.Fatal = func(error) { close(failed) }
	l, err := Open(cfg)
	if err != nil {
		return err
	}
	out := teller{os.Stdout}
	out.tell(tellReady, 0, message.ID{})
	ctx, cancel := context.WithTimeout(background(), 6*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	limit := syscall.Rlimit{Cur: 48, Max: 48}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	wg.Go(func() { churn(ctx) })
	for n := uint64(0); n < 60_000 && ctx.Err() == nil && l.Err() == nil; n += 100 {
		var ms []*message.Message
		for i := range uint64(100) {
			out.tell(tellSubmit, n+i, message.ID{})
			ms = append(ms, numbered(n+i))
		}
		receipts := make([]Receipt, len(ms))
		if l.AppendBatch(ctx, ms, receipts) != nil {
			break
		}
		for i, r := range receipts {
			if r.Err == nil {
				out.tell(tellAccepted, n+uint64(i), r.ID)
			}
		}
	}
	for ctx.Err() == nil && l.Err() == nil {
		if err := l.db.Flatten(1); err == nil {
			break
		}
	}
	cancel()
	wg.Wait()
	if err := l.scrub(background()); err != nil || l.Err() != nil {
		out.tell(tellFailed, 0, message.ID{})
	}
	return nil // as a crash would: the log is not closed
}

// churn takes every free descriptor, lets one go, and takes it again.
func churn(ctx context.Context) {
	var held []int
	defer func() {
		for _, fd := range held {
			_ = syscall.Close(fd)
		}
	}()
	for ctx.Err() == nil {
		fd, err := syscall.Dup(1)
		if err == nil {
			held = append(held, fd)
			continue
		}
		if len(held) > 0 {
			_ = syscall.Close(held[0])
			held = held[1:]
		}
		<-time.After(50 * time.Microsecond)
	}
}

// TestTheFileLimitReachedDuringCompactionIsNeverSilent: Badger then loses whole
// tables without a word.
func TestTheFileLimitReachedDuringCompactionIsNeverSilent(t *testing.T) {
	t.Parallel()
	var seen []string
	for range 3 {
		cfg := smallConfig(t)
		account := newTold()
		cmd := child(t, "descriptors", "DIR="+cfg.Dir)
		account.writeUntil(t, cmd, 30*time.Second, func() {
			_ = cmd.Process.Kill()
			t.Error("the child went on for 30 s")
		})
		l, err := tryOpen(t, cfg)
		var damaged *DamagedError
		switch {
		case errors.As(err, &damaged):
			if !account.failed && damaged.Findings[0].Kind == FindMissing {
				t.Errorf("the child's scrub saw nothing, Open says: %v", err)
			}
			seen = append(seen, fmt.Sprintf("%d accepted, %d findings", len(account.accepted), damaged.Total))
		case err != nil:
			t.Fatal(err)
		default:
			account.check(t, l, false)
			closeTest(t, l)
			seen = append(seen, fmt.Sprintf("%d accepted, whole, failed %v", len(account.accepted), account.failed))
		}
	}
	t.Log(strings.Join(seen, "; "))
}

// TestACommitThatIsNotConfirmedFailsTheLog: Badger calls it done, and the file system
// cannot be asked whether it still lives.
func TestACommitThatIsNotConfirmedFailsTheLog(t *testing.T) {
	cfg := testConfig(t)
	failed := make(chan error, 1)
	cfg.Fatal = func(err error) { failed <- err }
	l := openTest(t, cfg)
	mustAppend(t, l, testMessage(0))
	if err := l.sync.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), testMessage(1)); !errors.Is(err, ErrFailed) {
		t.Fatalf("acknowledged, or refused for another reason: %v", err)
	}
	<-failed
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
}

// TestBadgersComplaintsFailTheLog: an error line of Badger's is a failed write.
func TestBadgersComplaintsFailTheLog(t *testing.T) {
	cfg := testConfig(t)
	failed := make(chan error, 1)
	cfg.Fatal = func(err error) { failed <- err }
	l := openTest(t, cfg)
	l.watch.Warningf("While running doCompact: %v", "no space")
	if l.watch.compactions.Load() == 0 {
		t.Fatal("a failed compaction brings no scrub")
	}
	l.watch.Errorf("error flushing memtable to disk: %v, retrying", "input/output error")
	if err := <-failed; !regexp.MustCompile("flushing memtable.*input/output").MatchString(err.Error()) {
		t.Fatal(err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
}
