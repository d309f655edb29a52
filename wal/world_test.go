package wal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"forebay/wal/message"
)

// childEnv names the part that this test binary plays when it runs as a child
// of itself: a process that can be killed, or that Badger may end.
const childEnv = "FOREBAY_WAL_CHILD"

func TestMain(m *testing.M) {
	parts := map[string]func() error{"write": childWrite, "open": childOpen, "descriptors": childDescriptors}
	if part := parts[os.Getenv(childEnv)]; part != nil {
		if err := part(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	// Each check opens logs: rapid's hundred would take minutes.
	if err := flag.Set("rapid.checks", "10"); err != nil { // the command line, parsed later, wins
		panic(err)
	}
	goleak.VerifyTestMain(m,
		// Badger leaves these behind when it refuses to open a database.
		goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*DB).monitorCache"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto/v2/z.(*AllocatorPool).freeupAllocators"))
}

// child is this binary in another part, with variables of its own.
func child(t testing.TB, part string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), childEnv+"="+part), env...)
	return cmd
}

// tempDir is in memory where there is such a place: most tests are about what is
// written and not about the disk, whose syncs are most of their time.
func tempDir(t testing.TB) string {
	t.Helper()
	if info, err := os.Stat("/dev/shm"); err != nil || !info.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "forebay-wal-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func testConfig(t testing.TB) Config {
	return Config{Dir: filepath.Join(tempDir(t), "wal"), Node: 7, MemTable: 4 << 20, MinFreeBytes: 1, BallastBytes: -1}
}

// smallConfig has memtables so small that a few MiB make tables and compactions.
func smallConfig(t testing.TB) Config {
	cfg := testConfig(t)
	cfg.MemTable = 1 << 20
	return cfg
}

func openTest(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := tryOpen(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// whenFree does what needs a log that nobody has open. Badger's lock on one that was
// closed may be held for a moment longer: by a child of this process between its fork
// and its exec.
func whenFree(t testing.TB, do func() error) (err error) {
	t.Helper()
	eventually(t, "the log is free", func() bool {
		err = do()
		return !errors.Is(err, errInUse)
	})
	return err
}

// tryOpen, tryRestore, tryVerify and trySalvage are Open, Restore, Verify and Salvage
// of a log that is closed.
func tryOpen(t testing.TB, cfg Config) (l *Log, err error) {
	t.Helper()
	err = whenFree(t, func() error { l, err = Open(cfg); return err })
	return l, err
}

func tryRestore(t testing.TB, backup []byte, dir string, since Issued) (s Summary, err error) {
	t.Helper()
	err = whenFree(t, func() error { s, err = Restore(bytes.NewReader(backup), dir, since); return err })
	return s, err
}

func tryVerify(t testing.TB, dir string, report func(Finding)) (s Summary, err error) {
	t.Helper()
	err = whenFree(t, func() error { s, err = Verify(dir, report); return err })
	return s, err
}

func trySalvage(t testing.TB, dir, quarantine string, report func(Finding)) (s Summary, err error) {
	t.Helper()
	err = whenFree(t, func() error { s, err = Salvage(dir, quarantine, report); return err })
	return s, err
}

func closeTest(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func testMessage(i int) *message.Message {
	return &message.Message{Account: "acme", Channel: message.ChannelStore, Priority: message.Priority(i % 4), Body: fmt.Sprintf("message %d", i)}
}

// bigMessage has about n bytes that do not repeat.
func bigMessage(i, n int) *message.Message {
	m := testMessage(i)
	text := noise()
	from := i * 7919 % (len(text) / 2)
	m.Body += " " + text[from:from+n]
	return m
}

// noise is 1 MiB of hexadecimal digits that do not repeat.
var noise = sync.OnceValue(func() string {
	raw := make([]byte, 512<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(raw)
	return hex.EncodeToString(raw)
})

// drain takes everything that waits, without completing it.
func drain(t testing.TB, l *Log) (all []message.Entry) {
	t.Helper()
	for l.Waiting() > 0 {
		got, err := l.Next(t.Context(), 1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got...)
	}
	return all
}

func mustAppend(t testing.TB, l *Log, m *message.Message) Receipt {
	t.Helper()
	r, err := l.Append(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// crashCopy copies the log's directory as a kill would leave it: what is in the
// page cache survives. Nothing may be appended meanwhile; Badger's own goroutines
// may be at work.
func crashCopy(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(tempDir(t), "wal")
	copyTree(t, dir, to)
	return to
}

// copyTree copies again if files came or went meanwhile: a kill sees one moment.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	eventually(t, "a copy without a file that comes or goes", func() bool {
		before := listing(from)
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		err := copyOnce(from, to)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil && before == listing(from)
	})
}

// listing names every file and the size of those that only grow.
func listing(dir string) string {
	var b strings.Builder
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		b.WriteString(path)
		if info, err := d.Info(); err == nil && filepath.Ext(path) == "" {
			fmt.Fprint(&b, info.Size(), info.ModTime())
		}
		return nil
	})
	return b.String()
}

func copyOnce(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := os.Create(target)
		if err != nil {
			return err
		}
		_, err = f.Write(trimZeros(data))
		return errors.Join(err, f.Truncate(int64(len(data))), f.Close())
	})
}

// fileSums are the SHA-256 of every file below dir, by name.
func fileSums(t testing.TB, dir string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		sums[rel] = hex.EncodeToString(h.Sum(nil))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

// flip inverts one bit.
func flip(t testing.TB, path string, offset int64, bit int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << bit
	if _, err := f.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until cond is true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-ticker.C {
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// held is what the test knows to be in a log.
type held map[message.ID][]byte // payloads

// check compares what a log hands out with what must be there.
func (h held) check(got []message.Entry) error {
	seen := map[message.ID]bool{}
	for _, e := range got {
		want, ok := h[e.ID]
		switch {
		case seen[e.ID]:
			return fmt.Errorf("%s is handed out twice", e.ID)
		case !ok:
			return fmt.Errorf("%s is handed out, and was complete or never accepted", e.ID)
		case !bytes.Equal(e.Payload, want):
			return fmt.Errorf("%s has another payload", e.ID)
		}
		seen[e.ID] = true
	}
	if len(seen) != len(h) {
		return fmt.Errorf("%d of %d messages are handed out", len(seen), len(h))
	}
	return nil
}

// inOrder checks that the entries of each lane ascend.
func inOrder(got []message.Entry) error {
	var last [message.Lanes]message.ID
	for _, e := range got {
		if p := e.ID.Lane(); e.ID.Compare(last[p]) <= 0 {
			return fmt.Errorf("%s after %s", e.ID, last[p])
		} else {
			last[p] = e.ID
		}
	}
	return nil
}

func background() context.Context { return context.Background() }

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// heapBytes is what is reachable on the heap.
func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
