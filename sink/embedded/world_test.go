package embedded

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/sink"
	"forebay/wal/message"
)

// world is a store that can be closed, opened again and looked into.
type world struct {
	*Store
	t        testing.TB
	cfg      Config
	log      *lines
	memTable int64

	mu       sync.Mutex // guards freeNow
	freeNow  uint64     // what the disk says is free
	seq      uint64
	accepted time.Time
}

// lines keeps what was logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newWorld(t testing.TB, change func(*Config)) *world {
	w := &world{t: t, freeNow: 1 << 40, accepted: time.Now().Add(-time.Hour), log: new(lines)}
	w.cfg = Config{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(w.log, nil))}
	if change != nil {
		change(&w.cfg)
	}
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *world) open() {
	w.t.Helper()
	s, err := open(w.cfg, surroundings{memTable: w.memTable, free: func(string) (uint64, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.freeNow, nil
	}})
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	w.Store = s
}

func (w *world) close() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Errorf("close: %v", err)
	}
}

func (w *world) reopen() {
	w.t.Helper()
	w.close()
	w.open()
}

func (w *world) setFree(n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.freeNow = n
}

// accept makes a record, one second after the one before.
func (w *world) accept(m message.Message) message.Record {
	w.seq++
	w.accepted = w.accepted.Add(time.Second)
	if m.Account == "" {
		m.Account = "account"
	}
	m.Channel = message.ChannelStore
	id := message.NewID(uint64(w.accepted.UnixMilli()), 1, 1, m.Priority, w.seq)
	return message.Record{ID: id, Seq: w.seq, Message: m, State: message.State{Status: message.Accepted}}
}

// insert inserts what must not fail and returns the records as they now stand.
func (w *world) insert(batch ...message.Record) []message.Record {
	w.t.Helper()
	results, err := w.Insert(context.Background(), batch)
	if err != nil {
		w.t.Fatalf("insert: %v", err)
	}
	for i := range batch {
		batch[i].State = results[i].State
	}
	return batch
}

// keys counts the keys of the tree by their first byte.
func (w *world) keys() map[byte]int {
	w.t.Helper()
	n := make(map[byte]int)
	err := w.db.View(func(txn *badger.Txn) error {
		return scan(context.Background(), txn, nil, nil, func(item *badger.Item) error {
			n[item.Key()[0]]++
			return nil
		})
	})
	if err != nil {
		w.t.Fatalf("count keys: %v", err)
	}
	return n
}

// edit changes the tree behind the store's back.
func (w *world) edit(change func(*badger.Txn) error) {
	w.t.Helper()
	if err := w.db.Update(change); err != nil {
		w.t.Fatalf("edit: %v", err)
	}
}

// missing returns which of all numbers so far the store lacks.
func (w *world) missing() []uint64 {
	w.t.Helper()
	got, err := w.Missing(context.Background(), 1, 1, w.seq, int(w.seq))
	if err != nil {
		w.t.Fatalf("missing: %v", err)
	}
	return got
}

func (w *world) count() sink.Tally {
	w.t.Helper()
	tally, err := w.Count(context.Background(), 1, 1, w.seq)
	if err != nil {
		w.t.Fatalf("count: %v", err)
	}
	return tally
}

// crashImage copies the directory as a crash of the process would leave it.
func (w *world) crashImage() string {
	w.t.Helper()
	to := w.t.TempDir()
	entries, err := os.ReadDir(w.cfg.Dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if err := copyFile(filepath.Join(to, e.Name()), filepath.Join(w.cfg.Dir, e.Name())); err != nil {
			w.t.Fatal(err)
		}
	}
	return to
}

// copyFile copies a file, and its holes as holes.
func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	zero := make([]byte, len(buf))
	for at := int64(0); at < info.Size(); at += int64(len(buf)) {
		n, err := src.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			return err
		}
		if bytes.Equal(buf[:n], zero[:n]) {
			continue
		}
		if _, err := dst.WriteAt(buf[:n], at); err != nil {
			return err
		}
	}
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	return dst.Close()
}
