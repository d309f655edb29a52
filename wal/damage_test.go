package wal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/wal/message"
)

// opened is what a child saw in a log that it opened: its own process, for it
// may be ended by Badger.
type opened struct {
	Err     string
	Damaged bool              // *DamagedError
	Waiting map[string]string // SHA-256 of the payload by id
	Parked  int
	Keys    map[string]string // id by idempotency key
}

const damagedKeys = 20 // idempotency keys in damagedWorld: key 0 …

func childOpen() error {
	var o opened
	l, err := Open(Config{Dir: os.Getenv("DIR"), Node: 7, MemTable: 1 << 20, MinFreeBytes: 1, BallastBytes: -1})
	if err != nil {
		_, o.Damaged = err.(*DamagedError)
		o.Err = err.Error()
		return json.NewEncoder(os.Stdout).Encode(o)
	}
	o.Waiting, o.Keys = map[string]string{}, map[string]string{}
	for l.Waiting() > 0 {
		got, err := l.Next(background(), 1000, 0)
		if err != nil {
			return fmt.Errorf("next: %w", err)
		}
		for _, e := range got {
			o.Waiting[e.ID.String()] = sumOf(e.Payload)
		}
	}
	o.Parked = l.Stats().Parked
	for i := range damagedKeys {
		r, err := l.Append(background(), keyed(i))
		if err != nil {
			return fmt.Errorf("append key %d: %w", i, err)
		}
		if !r.Replayed {
			return fmt.Errorf("key %d was forgotten", i)
		}
		o.Keys[fmt.Sprint(i)] = r.ID.String()
	}
	if err := l.Close(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(o)
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func keyed(i int) *message.Message {
	m := testMessage(i)
	m.IdempotencyKey = fmt.Sprint("key ", i)
	m.Fingerprint = m.PayloadFingerprint()
	return m
}

// openInChild returns what a child sees; it fails the test if the child dies.
func openInChild(t *testing.T, dir string) opened {
	t.Helper()
	cmd := child(t, "open", "DIR="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the process that opened the log ended: %v\n%s", err, stderr.String())
	}
	var o opened
	if err := json.Unmarshal(out, &o); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	return o
}

// damagedWorld makes a log with tables, a .mem file, completions, parked
// messages and keys, and returns a copy as of a kill, what is in it, and the id of
// every number. The tide mark of the copy is as old as may be.
func damagedWorld(t *testing.T) (dir string, whole opened, issued map[uint64]message.ID) {
	t.Helper()
	cfg := smallConfig(t)
	l := openTest(t, cfg)
	issued = map[uint64]message.ID{}
	issue := func(r Receipt) { issued[r.Seq] = r.ID }
	early, err := os.ReadFile(filepath.Join(cfg.Dir, tideName))
	if err != nil {
		t.Fatal(err)
	}
	for i := range damagedKeys {
		issue(mustAppend(t, l, keyed(i)))
	}
	var ms []*message.Message
	for i := range 1400 {
		ms = append(ms, bigMessage(i, 1000))
	}
	for part := range slices.Chunk(ms, 50) {
		out := make([]Receipt, len(part))
		if err := l.AppendBatch(t.Context(), part, out); err != nil {
			t.Fatal(err)
		}
		for _, r := range out {
			issue(r)
		}
	}
	taken, err := l.Next(t.Context(), 500, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Complete(t.Context(), taken[:300]); err != nil {
		t.Fatal(err)
	}
	if err := l.Park(t.Context(), time.Now().Add(time.Hour), taken[300:400]); err != nil {
		t.Fatal(err)
	}
	for i := range 60 { // in the .mem file, whatever was flushed
		issue(mustAppend(t, l, bigMessage(i, 1000)))
	}
	dir = crashCopy(t, cfg.Dir)
	if err := os.WriteFile(filepath.Join(dir, tideName), early, 0o600); err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
	probe := crashCopy(t, dir)
	if whole = openInChild(t, probe); whole.Err != "" || len(whole.Waiting) != 1460+damagedKeys-400 || whole.Parked != 100 {
		t.Fatalf("%s; %d waiting, %d parked", whole.Err, len(whole.Waiting), whole.Parked)
	}
	return dir, whole, issued
}

// places are offsets worth a flip: in a file's head, its body and its end, and
// some by chance.
func places(t *testing.T, rnd *rand.Rand, path string) (at []int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(len(trimZeros(data)))
	if n == 0 {
		return nil
	}
	at = []int64{0, n - 1}
	if filepath.Ext(path) == ".mem" || filepath.Ext(path) == ".sst" {
		at = append(at, min(25, n-1), n/2, n-5, n-20)
	}
	for range 1 {
		at = append(at, rnd.Int64N(n))
	}
	return slices.DeleteFunc(at, func(i int64) bool { return i < 0 || i >= n })
}

func TestOneFlippedBitInAnyFileIsFoundOrHarmless(t *testing.T) {
	t.Parallel()
	dir, whole, issued := damagedWorld(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	names, err := databaseFiles(dbDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, name := range append(names, filepath.Join("..", tideName)) {
		kind := filepath.Ext(name)
		if kinds[kind]++; kind != "" && kinds[kind] > 1 {
			continue // one of each kind is enough
		}
		for _, at := range places(t, rnd, filepath.Join(dbDir(dir), name)) {
			bit := rnd.IntN(8)
			t.Run(fmt.Sprintf("%s/byte=%d,bit=%d", filepath.Base(name), at, bit), func(t *testing.T) {
				hurt := crashCopy(t, dir)
				flip(t, filepath.Join(dbDir(hurt), name), at, bit)
				mustBeFoundOrHarmless(t, hurt, filepath.Base(name), whole, issued)
			})
		}
	}
}

// mustBeFoundOrHarmless opens a copy of a damaged log. If that is refused,
// Verify must say why and change nothing, and Salvage must get back all that it
// does not name as lost.
func mustBeFoundOrHarmless(t *testing.T, hurt, name string, whole opened, issued map[uint64]message.ID) {
	t.Helper()
	got := openInChild(t, crashCopy(t, hurt))
	if got.Err == "" {
		if diff := cmp.Diff(whole, got); diff != "" {
			t.Fatalf("the log opened, and is not what it was:\n%.2000s", diff)
		}
		return
	}
	if !strings.Contains(got.Err, name) && !strings.Contains(got.Err, "number") && !strings.Contains(got.Err, " id ") && !strings.Contains(got.Err, "key") {
		t.Errorf("the error names neither the file nor a key: %s", got.Err)
	}
	before := fileSums(t, hurt)
	var found []Finding
	s, err := tryVerify(t, hurt, func(f Finding) { found = append(found, f) })
	if err != nil {
		t.Fatalf("verify: %v (open: %s)", err, got.Err)
	}
	if s.Grave == 0 {
		t.Fatalf("open says %q, verify finds nothing grave: %v", got.Err, found)
	}
	if diff := cmp.Diff(before, fileSums(t, hurt)); diff != "" {
		t.Fatalf("verify changed the log:\n%s", diff)
	}
	salvaged(t, hurt, before, whole, issued)
}

func salvaged(t *testing.T, hurt string, before map[string]string, whole opened, issued map[uint64]message.ID) {
	t.Helper()
	lost := map[uint64]bool{}
	quarantine := filepath.Join(filepath.Dir(hurt), "quarantine")
	unnamed, byID := false, 0
	s, err := trySalvage(t, hurt, quarantine, func(f Finding) {
		if f.Kind == FindMissing && f.Seq != 0 {
			lost[f.Seq] = true
			if !f.ID.IsZero() {
				byID++
			}
			truly(t, f, issued[f.Seq])
		}
		unnamed = unnamed || f.Kind == FindShort
	})
	if err != nil {
		t.Fatalf("salvage: %v", err)
	}
	if diff := cmp.Diff(before, fileSums(t, s.Quarantine)); diff != "" {
		t.Fatalf("the log in quarantine is not the damaged one:\n%s", diff)
	}
	l := openTest(t, Config{Dir: hurt, Node: 7, MemTable: 1 << 20, MinFreeBytes: 1, BallastBytes: -1})
	have := 0
	for _, e := range drain(t, l) {
		want, ok := whole.Waiting[e.ID.String()]
		if !ok {
			continue // it was complete: it is handed out again
		}
		if have++; sumOf(e.Payload) != want {
			t.Fatalf("%s came back with another payload", e.ID)
		}
	}
	missing := len(whole.Waiting) - have + whole.Parked - l.Stats().Parked
	if missing > len(lost) && !unnamed {
		t.Fatalf("%d messages are missing, %d are named as lost", missing, len(lost))
	}
	r := mustAppend(t, l, testMessage(0))
	if r.Seq <= s.LastSeq {
		t.Fatalf("number %d is issued again after %d", r.Seq, s.LastSeq)
	}
	closeTest(t, l)
	t.Logf("%d recovered, %d missing, %d named, %d by id", have, missing, len(lost), byID)
}

// truly checks what a finding says of the id of a lost message.
func truly(t *testing.T, f Finding, id message.ID) {
	t.Helper()
	switch {
	case !f.ID.IsZero() && f.ID != id:
		t.Errorf("number %d is said to be %s, it is %s", f.Seq, f.ID, id)
	case f.ID.IsZero() && f.After.IsZero() && f.Before.IsZero():
		t.Errorf("nothing is said of the id of number %d", f.Seq)
	case f.ID.IsZero() && (f.After.Compare(id) >= 0 || !f.Before.IsZero() && f.Before.Compare(id) <= 0):
		t.Errorf("number %d is said to be between %s and %s, it is %s", f.Seq, f.After, f.Before, id)
	}
}
