package appliancetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/appliance"
	"forebay/appliance/config"
)

// File is a configuration file of a test.
type File struct {
	Path string
	base string
	tb   testing.TB
}

// NewFile writes a configuration file in a directory of its own, which says what
// Config says, and below that more.
func NewFile(tb testing.TB, more string) *File {
	tb.Helper()
	data := tb.TempDir()
	f := &File{Path: filepath.Join(tb.TempDir(), "forebay.yaml"), tb: tb,
		base: fmt.Sprintf("data_dir: %q\nenvironment: development\n", data)}
	f.Write(more)
	return f
}

// Write writes the file in place.
func (f *File) Write(more string) {
	f.tb.Helper()
	if err := os.WriteFile(f.Path, []byte(f.Text(more)), 0o600); err != nil {
		f.tb.Fatalf("write the configuration: %v", err)
	}
}

// WriteInstead writes the file with another value for a key that Config says.
func (f *File) WriteInstead(key, value, more string) {
	base := f.base
	defer func() { f.base = base }()
	f.base = ""
	for line := range strings.Lines(base) {
		if !strings.HasPrefix(line, key+":") {
			f.base += line
		}
	}
	f.base += key + ": " + value + "\n"
	f.Write(more)
}

// Text is what Write writes.
func (f *File) Text(more string) string { return f.base + more }

// Files is the file with the variables that keep a test's node on loopback.
func (f *File) Files() config.Files {
	return config.Files{Path: f.Path, Environ: []string{"FOREBAY_HTTP_LISTEN=127.0.0.1:0", "FOREBAY_HTTP_OPS_LISTEN=127.0.0.1:0",
		"FOREBAY_BUFFER_MIN_FREE_DISK_BYTES=256MiB",
		"FOREBAY_RATE_LIMITING_TIERS={development: {requests_per_minute: 100000000, burst: 1000000, concurrent: 100000}}"}}
}

// StartFile starts a node from the file.
func StartFile(tb testing.TB, f *File, change func(*appliance.Options)) *Node {
	tb.Helper()
	c, _, err := f.Files().Load()
	if err != nil {
		tb.Fatalf("load the configuration: %v", err)
	}
	o := appliance.Options{Config: c, Files: f.Files()}
	if change != nil {
		change(&o)
	}
	n := launchWith(tb, o)
	n.waitReady()
	n.Key = n.account()
	return n
}
