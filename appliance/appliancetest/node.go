// Package appliancetest builds worlds for tests: real appliances in this
// process or as processes of their own, with accounts and keys, and faults.
package appliancetest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"forebay/appliance"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// Node is an appliance in this process.
type Node struct {
	*appliance.Appliance
	URL    string // of the public API
	OpsURL string
	Key    string // of the account "acme"
	Admin  *admin.Client
	Client *http.Client

	tb     testing.TB
	config config.Config
	cancel context.CancelFunc
	ended  chan error
	logs   *bytes.Buffer
}

// Option changes the configuration of a node before it starts.
type Option func(*config.Config)

// WithPostgres makes the node use the database at url.
func WithPostgres(url string) Option {
	return func(c *config.Config) { c.Database.URL = config.DSN(url) }
}

// Config returns the configuration that test nodes start from: the defaults on
// loopback ports that the kernel chooses, small enough for a test.
func Config(dir string) config.Config {
	c := config.Dev(dir)
	c.HTTP.Listen, c.HTTP.OpsListen = "127.0.0.1:0", "127.0.0.1:0"
	c.HTTP.AdminSocket = filepath.Join(dir, "a.sock")
	c.HTTP.ShutdownTimeout = 10 * time.Second
	c.Buffer.MinFreeDiskBytes = 256 << 20
	c.Database.MinPoolSize, c.Database.MaxPoolSize = 1, 8
	return c
}

// Start starts a node in a new directory, waits until it is ready, and makes the
// account "acme" with a key. The node is stopped when the test ends.
func Start(tb testing.TB, options ...Option) *Node {
	tb.Helper()
	c := Config(tb.TempDir())
	for _, o := range options {
		o(&c)
	}
	return StartIn(tb, c)
}

// StartIn starts a node with exactly this configuration; a directory that an
// earlier node has used keeps its account, and the key must be handed over.
func StartIn(tb testing.TB, c config.Config) *Node {
	tb.Helper()
	n := launch(tb, c, 0)
	n.waitReady()
	n.Key = n.account()
	return n
}

// launch starts a node and does not wait until it is ready.
func launch(tb testing.TB, c config.Config, heartbeat time.Duration) *Node {
	tb.Helper()
	return launchWith(tb, appliance.Options{Config: c, Heartbeat: heartbeat})
}

func launchWith(tb testing.TB, o appliance.Options) *Node {
	tb.Helper()
	n := &Node{tb: tb, config: o.Config, ended: make(chan error, 1), logs: new(bytes.Buffer)}
	o.Version = "test"
	if o.Settle == 0 {
		o.Settle = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	var err error
	n.Appliance, err = appliance.New(o)
	if err != nil {
		tb.Fatalf("start the appliance: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.ended <- n.Run(ctx) }()
	n.URL, n.OpsURL = "http://"+n.Addr().String(), "http://"+n.OpsAddr().String()
	n.Admin = admin.NewSocketClient(n.Socket())
	n.Client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}}
	tb.Cleanup(func() { n.Stop() })
	return n
}

// Target is the node as a client sees it.
func (n *Node) Target() Target { return Target{n.URL, n.Key, n.Client} }

// Configuration is what the node was started with.
func (n *Node) Configuration() config.Config { return n.config }

// Dir is the node's data directory.
func (n *Node) Dir() string { return n.config.DataDir }

func (n *Node) waitReady() {
	n.tb.Helper()
	Eventually(n.tb, 30*time.Second, "the appliance is ready", func() bool {
		r, err := n.Client.Get(n.URL + "/readyz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		io.Copy(io.Discard, r.Body)
		return r.StatusCode == http.StatusOK
	})
}

func (n *Node) account() string {
	n.tb.Helper()
	ctx := context.Background()
	if _, err := n.Admin.CreateAccount(ctx, admin.CreateAccount{ID: "acme", Tier: "development"}); err != nil {
		if _, err := n.Admin.Account(ctx, "acme"); err != nil {
			n.tb.Fatalf("make an account: %v", err)
		}
	}
	k, err := n.Admin.CreateKey(ctx, "acme", admin.CreateKey{Label: "test"})
	if err != nil {
		n.tb.Fatalf("make a key: %v", err)
	}
	return k.Secret
}

// Stop stops the node gracefully and returns what Run returned. It may be
// called again.
func (n *Node) Stop() error {
	n.cancel()
	err := <-n.ended
	n.ended <- err
	n.Client.CloseIdleConnections()
	n.Admin.Close()
	if closeErr := n.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Restart stops the node and starts another in its directory.
func (n *Node) Restart() *Node {
	n.tb.Helper()
	if err := n.Stop(); err != nil {
		n.tb.Fatalf("stop the appliance: %v", err)
	}
	return StartIn(n.tb, n.config)
}

// Eventually waits until the condition holds, looking often, and fails the test
// when it does not within the limit.
func Eventually(tb testing.TB, limit time.Duration, what string, holds func() bool) {
	tb.Helper()
	deadline := time.Now().Add(limit)
	for !holds() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", limit, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
