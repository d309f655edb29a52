package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"forebay/appliance/config"
	"forebay/sink"
	"forebay/wal"
	"forebay/wal/message"
)

func TestParseMoment(t *testing.T) {
	for text, want := range map[string]time.Time{
		"":                     {},
		"2026-11-23T13:20:00Z": time.Date(2026, 11, 23, 13, 20, 0, 0, time.UTC),
		"2026-11-23":           time.Date(2026, 11, 23, 0, 0, 0, 0, time.Local),
	} {
		if got, err := parseMoment("since", text); err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
	before := time.Now()
	if got, err := parseMoment("since", "2d"); err != nil || got.Before(before.Add(-48*time.Hour)) || got.After(time.Now().Add(-48*time.Hour)) {
		t.Errorf("2d: got %v, %v", got, err)
	}
}

// The log has no times where the journal adds its own, and only there.
func TestLoggerUnderTheJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	for stream, wantTime := range map[string]bool{"": true, "1:2": true, fmt.Sprintf("%d:%d", stat.Dev, stat.Ino): false} {
		for format, mark := range map[string]string{"json": `"time":`, "text": "time="} {
			if err := f.Truncate(0); err != nil {
				t.Fatal(err)
			}
			logger, err := newLogger(config.Log{Level: "info", Format: format}, f, stream)
			if err != nil {
				t.Fatal(err)
			}
			logger.Debug("hidden")
			logger.Info("shown")
			content, err := os.ReadFile(f.Name())
			if text := string(bytes.Trim(content, "\x00")); err != nil || strings.Contains(text, mark) != wantTime || !strings.Contains(text, "shown") || strings.Contains(text, "hidden") {
				t.Errorf("stream %q, %s: %q, %v", stream, format, text, err)
			}
		}
	}
}

func TestShellQuoteAndReachable(t *testing.T) {
	for in, want := range map[string]string{"/a/b-c.d": "/a/b-c.d", "/a b": "'/a b'", "it's": `'it'\''s'`} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{":8080": "127.0.0.1:8080", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "127.0.0.1:1", "10.0.0.1:1": "10.0.0.1:1"} {
		if got := reachable(in); got != want {
			t.Errorf("reachable(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestVisible(t *testing.T) {
	if got := visible("a\x1b[2J\tb\u202ec\n"); got != "a�[2J�b�c�" {
		t.Errorf("got %q", got)
	}
}

// TestLostMessagesInTheStore: salvage names a lost message by what the store knows
// of it, and does not count it as lost where nothing more has to be done for it.
func TestLostMessagesInTheStore(t *testing.T) {
	a, b, c := message.NewID(1, 0, 1, 1, 1), message.NewID(2, 0, 1, 1, 2), message.NewID(3, 0, 1, 1, 3)
	r := logReport{Directory: "wal", Quarantine: "aside", Lost: 3}
	for _, f := range []wal.Finding{{Kind: wal.FindMissing, Seq: 1, After: a}, {Kind: wal.FindDamaged, ID: b}, {Kind: wal.FindMissing, Seq: 2, ID: b},
		{Kind: wal.FindMissing, Seq: 3, After: a, Before: c}, {Kind: wal.FindMissing, Text: "about 7 more"}} {
		r.add(f)
	}
	r.askStore(func(seqs []uint64) ([]sink.Found, error) {
		if !slices.Equal(seqs, []uint64{1, 2, 3}) {
			t.Errorf("asked for %v", seqs)
		}
		return []sink.Found{{Seq: 1, ID: a, Status: message.Delivered}, {Seq: 2, ID: b, Status: message.Queued}}, errors.New("a\nb")
	})
	var out strings.Builder
	if err := (&app{stdout: &out, output: "text"}).printReport(r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"not lost: the store has it as delivered +" + a.String() + " +number 1\n", "the store has it as queued, and nothing will deliver it +" + b.String() + " +number 2\n",
		a.String() + " < id < " + c.String() + " +number 3\n", "\nlost +2\n", "\nnot lost +1, which", "could not be asked for the lost ones: a; b\n"} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("want %q in\n%s", want, out.String())
		}
	}
}

// TestIsTerminal: a question is asked where somebody can answer it, and not of a
// service or a cron job, whose standard input is /dev/null.
func TestIsTerminal(t *testing.T) {
	for name, want := range map[string]bool{"/dev/ptmx": true, os.DevNull: false, "/dev/zero": false, "units_test.go": false} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := isTerminal(f); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSeconds(t *testing.T) {
	for s, want := range map[float64]string{0: "0s", .470281378: "470ms", 1.4: "1s", 90.2: "1m30s", 86400: "24h"} {
		if got := seconds(s); got != want {
			t.Errorf("seconds(%v) = %s, want %s", s, got, want)
		}
	}
}
