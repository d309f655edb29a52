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
	Path    string
	base    string
	environ []string // beside that of Files
	tb      testing.TB
}

// NewFile writes a configuration file in a directory of its own, which says what
// Config says, and below that more.
func NewFile(tb testing.TB, more string) *File {
	tb.Helper()
	data := tb.TempDir()
	f := &File{Path: filepath.Join(tb.TempDir(), "forebay.yaml"), tb: tb,
		base: fmt.Sprintf("data_dir: %q\nenvironment: production\n", data)}
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
	environ := f.environ
	if environ == nil {
		environ = []string{"FOREBAY_RATE_LIMITING_TIERS={development: {requests_per_minute: 100000000, burst: 1000000, concurrent: 100000}}"}
	}
	return config.Files{Path: f.Path, Environ: append([]string{"FOREBAY_HTTP_LISTEN=127.0.0.1:0", "FOREBAY_HTTP_OPS_LISTEN=127.0.0.1:0",
		"FOREBAY_BUFFER_MIN_FREE_DISK_BYTES=256MiB"}, environ...)}
}

// StartFileCluster starts n nodes that are one group, each from a file of its own
// that says the same: what NewFile writes, and more, which must have the tier
// "development". The files are not watched.
func StartFileCluster(tb testing.TB, n int, more string) (*Cluster, map[uint16]*File) {
	tb.Helper()
	c := NewCluster(tb, n)
	files := map[uint16]*File{}
	for node, cfg := range c.configs {
		f := NewFile(tb, more)
		var peers []string
		for other, address := range cfg.Cluster.Peers {
			peers = append(peers, fmt.Sprintf("%d: %q", other, address))
		}
		f.environ = []string{fmt.Sprint("FOREBAY_NODE=", node), "FOREBAY_CLUSTER_LISTEN=" + cfg.Cluster.Listen,
			"FOREBAY_CLUSTER_PEERS={" + strings.Join(peers, ", ") + "}"}
		cfg, _, err := f.Files().Load()
		if err != nil {
			tb.Fatalf("load the configuration: %v", err)
		}
		c.configs[node], files[node] = cfg, f
		c.Nodes[node] = launchWith(tb, appliance.Options{Config: cfg, Files: f.Files(), Heartbeat: clusterHeartbeat, Unwatched: true})
	}
	for _, node := range c.Nodes {
		node.waitReady()
	}
	c.Key = c.Nodes[1].account()
	for _, node := range c.Nodes {
		node.Key = c.Key
	}
	c.Await(c.Key)
	return c, files
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
