package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve runs f until the test ends.
func serve(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := f(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
}

func socket(t *testing.T, w *world) (path string, client *Client) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "admin.sock")
	l, err := ListenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, func(ctx context.Context) error { return w.ServeSocket(ctx, l) })
	client = NewSocketClient(path)
	t.Cleanup(client.Close)
	return path, client
}

func TestPeerCredentialsAreTheActor(t *testing.T) {
	w := newWorld(t)
	path, client := socket(t, w)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != socketMode {
		t.Errorf("got mode %v, %v, want %o", info.Mode(), err, socketMode)
	}
	if err := client.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`actor="uid=%d(`, os.Getuid()); !strings.Contains(w.logs.String(), want) {
		t.Errorf("got log %s, want %s", w.logs, want)
	}
}

// TestClient calls every method over a real socket, and over TCP.
func TestClient(t *testing.T) {
	w := newWorld(t)
	_, overSocket := socket(t, w)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, func(ctx context.Context) error { return w.ServeOps(ctx, l) })
	overTCP, err := NewClient("http://"+l.Addr().String()+"/", secretToken)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(overTCP.Close)
	for name, c := range map[string]*Client{"socket": overSocket, "tcp": overTCP} {
		t.Run(name, func(t *testing.T) { callAll(t, w, c) })
	}
}

func callAll(t *testing.T, w *world, c *Client) {
	ctx := t.Context()
	same := func(what string, want, got any, err error) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
		}
	}
	list, err := c.Accounts(ctx)
	same("accounts", []Account{acme}, list, err)
	a, err := c.Account(ctx, "acme")
	same("account", acme, a, err)
	a, err = c.CreateAccount(ctx, CreateAccount{ID: "b", Tier: "basic", Name: "B"})
	same("create", Account{ID: "b", Tier: "basic", Name: "B", CreatedAt: birth}, a, err)
	yes := true
	a, err = c.PatchAccount(ctx, "acme", PatchAccount{Suspended: &yes})
	same("patch", acme, a, err)
	same("delete", nil, nil, c.DeleteAccount(ctx, "acme"))
	keys, err := c.Keys(ctx, "acme")
	same("keys", []Key{acmeKey}, keys, err)
	created, err := c.CreateKey(ctx, "acme", CreateKey{Label: "ci"})
	same("create key", CreatedKey{Key: acmeKey, Secret: secretKey}, created, err)
	revoked, err := c.RevokeKey(ctx, acmeKey.ID)
	same("revoke", birth, revoked.RevokedAt, err)
	m, err := c.Message(ctx, someID.String())
	same("message", true, strings.Contains(string(m), `"seq":5`), err)
	page, err := c.Messages(ctx, MessageQuery{Account: "acme", Limit: 1, AcceptedAfter: birth})
	same("messages", someID.String(), page.NextCursor, err)
	same("after", true, w.query.AcceptedAfter.Equal(birth), nil)
	audit, err := c.Audit(ctx, birth)
	same("audit", []uint64{4}, audit.MissingNumbers, err)
	same("since", true, w.since.Equal(birth), nil)
	status, err := c.Status(ctx)
	same("status", "1.2.3", status.Version, err)
	same("drain", nil, nil, c.Drain(ctx))
	var b bytes.Buffer
	n, err := c.Backup(ctx, &b)
	same("backup", "backup", b.String(), err)
	same("size", int64(6), n, nil)

	_, err = c.Account(ctx, "a?b#c")
	problem, ok := errors.AsType[*Problem](err)
	if !ok || problem.Code != CodeNotFound || problem.Error() != "there is no account a?b#c (not_found)" {
		t.Errorf("no account: got %v", err)
	}
}

func TestClientSeesACutBackup(t *testing.T) {
	w := newWorld(t)
	w.backup = func(_ context.Context, out io.Writer) error {
		out.Write(bytes.Repeat([]byte("x"), 1<<20))
		return errPrivate
	}
	_, client := socket(t, w)
	if _, err := client.Backup(t.Context(), io.Discard); err == nil {
		t.Error("a backup that was cut off looks whole")
	}
}

func TestClientErrorsSayWhatToDo(t *testing.T) {
	c := NewSocketClient(filepath.Join(t.TempDir(), "none.sock"))
	_, err := c.Status(t.Context())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "is it running?") || strings.Contains(err.Error(), "http://") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "localhost:9090", "ftp://x", "http://"} {
		if _, err := NewClient(bad, ""); err == nil {
			t.Errorf("%q is taken for a server", bad)
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if _, err := ListenSocket(path); !errors.Is(err, ErrSocketInUse) {
		t.Errorf("a live socket: got %v, want ErrSocketInUse", err)
	}
	l.Close() // as a killed process leaves it
	ours, err := ListenSocket(path)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFileThatIsNoSocketStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenSocket(path); err == nil {
		t.Fatal("listening over a file")
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file was removed")
	}
	if _, err := ListenSocket("/" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "http.admin_socket") {
		t.Errorf("long path: got %v", err)
	}
}

func TestServeEndsThoughABackupGoesOn(t *testing.T) {
	w := newWorld(t)
	w.grace = 10 * time.Millisecond
	started, cause := make(chan struct{}), make(chan error, 1)
	w.backup = func(ctx context.Context, out io.Writer) error {
		out.Write([]byte("x"))
		close(started)
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	}
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := ListenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.ServeSocket(ctx, l) }()
	client := NewSocketClient(path)
	defer client.Close()
	copied := make(chan error, 1)
	go func() {
		_, err := client.Backup(context.Background(), io.Discard)
		copied <- err
	}()
	<-started
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := <-cause; !errors.Is(err, errStopping) {
		t.Errorf("the backup ended for %v, want errStopping", err)
	}
	if <-copied == nil {
		t.Error("the client took half a backup for a whole one")
	}
}

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1": true, "::1": true, "127.8.8.8": true, "0.0.0.0": false, "::": false, "192.0.2.1": false} {
		if got := isLoopback(&net.TCPAddr{IP: net.ParseIP(address)}); got != want {
			t.Errorf("%s: got %v, want %v", address, got, want)
		}
	}
}
