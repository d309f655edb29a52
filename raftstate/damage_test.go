package raftstate

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forebay/raftstate/account"
)

// closedDir is a directory with some state in it that nobody has open.
func closedDir(t *testing.T, snapshot bool) string {
	t.Helper()
	dir := t.TempDir()
	w := open(t, dir).wait(t)
	w.populate(t, 20)
	if snapshot {
		if err := w.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.stop()
	return dir
}

func reopen(dir string, node uint16) error {
	g, err := Open(Config{NodeID: node, Dir: dir, Plans: plans("basic", "premium"), Fatal: func(error) {}})
	if err != nil {
		return err
	}
	return g.Close()
}

// TestDamageIsNamed damages the log in every way a disk does, and wants an error
// that names the file, no panic, and the file left as it was where the damage is
// one that bbolt must not see.
func TestDamageIsNamed(t *testing.T) {
	flipIn := func(b []byte, text string) []byte {
		i := bytes.LastIndex(b, []byte(text))
		if i < 0 {
			return b[:0]
		}
		b[i] ^= 1
		return b
	}
	for name, damage := range map[string]func([]byte) []byte{
		"empty":            func(b []byte) []byte { return b[:0] },
		"half":             func(b []byte) []byte { return b[:len(b)/2] },
		"first pages only": func(b []byte) []byte { return b[:3*os.Getpagesize()] },
		"cut in a page":    func(b []byte) []byte { return b[:os.Getpagesize()+100] },
		"zeros":            func(b []byte) []byte { clear(b); return b },
		"no meta page":     func(b []byte) []byte { clear(b[:2*os.Getpagesize()]); return b },
		"pages zeroed":     func(b []byte) []byte { clear(b[2*os.Getpagesize():]); return b },
		"noise": func(b []byte) []byte {
			for i := 2 * os.Getpagesize(); i < len(b); i++ {
				b[i] = byte(i * 31)
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) { wantDamaged(t, closedDir(t, false), logFile, true, damage) })
	}
	t.Run("one bit of a command", func(t *testing.T) {
		// bbolt keeps old pages, so a text may stand in a page that is free: flip
		// each that there is.
		wantDamaged(t, closedDir(t, false), logFile, false, func(b []byte) []byte {
			for i := 0; ; {
				n := bytes.Index(b[i:], []byte(`"label":"first"`))
				if n < 0 {
					return b
				}
				b[i+n+10] ^= 1
				i += n + 1
			}
		})
	})
	t.Run("one bit of the only snapshot", func(t *testing.T) {
		dir := closedDir(t, true)
		states, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
		if err != nil || len(states) != 1 {
			t.Fatalf("got snapshots %v, %v", states, err)
		}
		rel, _ := filepath.Rel(dir, states[0])
		wantDamaged(t, dir, rel, true, func(b []byte) []byte { return flipIn(b, "acct-7") })
	})
	t.Run("one root page", func(t *testing.T) {
		// bbolt alone would go on with the other, one change older.
		for _, at := range []int{40, os.Getpagesize() + 40} {
			wantDamaged(t, closedDir(t, false), logFile, true, func(b []byte) []byte { b[at] ^= 1; return b })
		}
	})
	t.Run("gone", func(t *testing.T) {
		dir := closedDir(t, true)
		if err := os.Remove(filepath.Join(dir, logFile)); err != nil {
			t.Fatal(err)
		}
		if err := reopen(dir, 1); !errors.As(err, new(*DamagedError)) {
			t.Errorf("got %v, want a *DamagedError", err)
		}
	})
}

func wantDamaged(t *testing.T, dir, file string, untouched bool, damage func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, file)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := damage(bytes.Clone(content))
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	err = reopen(dir, 1)
	if !errors.As(err, new(*DamagedError)) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("got %v, want a *DamagedError that names %s", err, dir)
	}
	if after, err := os.ReadFile(path); untouched && (err != nil || !bytes.Equal(after, damaged)) {
		t.Errorf("the damaged file was changed (%v)", err)
	}
}

// TestAnyFlippedBitIsNoPanic flips bits anywhere in the file: Open names the
// damage or finds none, and never ends the process.
func TestAnyFlippedBitIsNoPanic(t *testing.T) {
	dir := closedDir(t, false)
	path := filepath.Join(dir, logFile)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(content)
		for range rapid.IntRange(1, 3).Draw(t, "bits") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := openBolt(path, os.O_RDWR, 0o600)
		if err == nil {
			f.Close()
			err = reopen(dir, 1)
		}
		if err != nil && !errors.As(err, new(*DamagedError)) {
			t.Fatalf("got %v, want a *DamagedError", err)
		}
	})
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).wait(t)
	if err := reopen(dir, 1); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
}

func TestDirectoryOfAnotherNode(t *testing.T) {
	dir := closedDir(t, false)
	err := reopen(dir, 2)
	if err == nil || !strings.Contains(err.Error(), `belongs to node "1"`) {
		t.Errorf("got %v, want an error that names the owner", err)
	}
	if err := reopen(dir, 1); err != nil {
		t.Errorf("as its owner: %v", err)
	}
}

// TestCrashWhileFounding opens what a crash leaves between the first write to
// the log and the note of its owner.
func TestCrashWhileFounding(t *testing.T) {
	dir := closedDir(t, false)
	if err := os.Remove(filepath.Join(dir, nodeFile)); err != nil {
		t.Fatal(err)
	}
	w := open(t, dir).wait(t)
	if _, err := w.Account("acct-0"); err != nil {
		t.Error(err)
	}
	w.stop()
	if err := reopen(dir, 2); err == nil {
		t.Error("the owner was not noted again")
	}
}

func TestConfigValidate(t *testing.T) {
	good := Config{NodeID: 1, Dir: "x", Plans: plans("basic"), Fatal: func(error) {}}
	if err := good.Validate(); err != nil {
		t.Errorf("good: %v", err)
	}
	for name, edit := range map[string]func(*Config){
		"node":  func(c *Config) { c.NodeID = 0 },
		"dir":   func(c *Config) { c.Dir = "" },
		"fatal": func(c *Config) { c.Fatal = nil },
		"plans": func(c *Config) { c.Plans = nil },
		"plan":  func(c *Config) { c.Plans = []account.Plan{{Name: "BASIC"}} },
		"limit": func(c *Config) { c.StallLimit = -1 },
	} {
		bad := good
		edit(&bad)
		if _, err := Open(bad); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
