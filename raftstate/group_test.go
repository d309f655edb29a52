package raftstate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"forebay/raftstate/account"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var patience = 30 * time.Second // a limit for a busy machine, never a measurement

func plans(names ...string) []account.Plan {
	var list []account.Plan
	for _, n := range names {
		list = append(list, account.Plan{Name: n, RequestsPerMinute: 100, Burst: 20, Concurrent: 10})
	}
	return list
}

// world is a group that runs, with all that it has logged.
type world struct {
	*Group
	logs    *bytes.Buffer
	logMu   *sync.Mutex // guards logs while the group runs
	stop    func()
	address string // of its cluster port, where the test chose it late
}

// open starts a group in dir and waits until it leads.
func open(t testing.TB, dir string, options ...func(*Config)) *world {
	t.Helper()
	w := &world{logs: &bytes.Buffer{}, logMu: &sync.Mutex{}}
	cfg := Config{
		NodeID: 1, Dir: dir, Plans: plans("basic", "premium"),
		Fatal:  func(err error) { t.Errorf("fatal: %v", err) },
		Logger: slog.New(slog.NewTextHandler(lockedWriter{w.logMu, w.logs}, &slog.HandlerOptions{Level: slog.LevelDebug - 4})),
	}
	for _, o := range options {
		o(&cfg)
	}
	g, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	w.Group = g
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	w.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := g.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func (w *world) wait(t testing.TB) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.WaitLeader(ctx); err != nil {
		t.Fatalf("wait: %v\n%s", err, w.logs)
	}
	return w
}

// logged is what the group has logged so far.
func (w *world) logged() string {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.logs.String()
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *world) dump(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	if err := w.Dump(&b); err != nil {
		t.Fatalf("dump: %v", err)
	}
	return b.String()
}

// populate makes accounts with a key each, and returns the keys' texts.
func (w *world) populate(t testing.TB, n int) []string {
	t.Helper()
	var texts []string
	for i := range n {
		id := fmt.Sprintf("acct-%d", i)
		if _, err := w.CreateAccount(t.Context(), account.CreateAccount{ID: id, Tier: "basic"}); err != nil {
			t.Fatalf("create %s: %v", id, err)
		}
		_, text, err := w.CreateKey(t.Context(), id, "first", i%2 == 1)
		if err != nil {
			t.Fatalf("create key of %s: %v", id, err)
		}
		texts = append(texts, text)
	}
	return texts
}

func code(err error) account.Code {
	var refusal *account.Error
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return ""
}

func TestNotReadyBeforeRun(t *testing.T) {
	g, err := Open(Config{NodeID: 1, Dir: t.TempDir(), Plans: plans("basic"), Fatal: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if _, err := g.Authenticate("fb_live_x"); !errors.Is(err, ErrNotReady) {
		t.Errorf("authenticate: got %v, want ErrNotReady", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := g.DeleteAccount(ctx, "a"); !errors.Is(err, ErrNotReady) {
		t.Errorf("delete: got %v, want ErrNotReady", err)
	}
}

func TestStatus(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	var got Status
	// raft counts an entry as applied a moment after it is.
	eventually(t, "it has applied all of its log", func() bool {
		got = w.Status()
		return len(got.Members) == 1 && got.Members[0].Lag == 0
	})
	want := Status{Ready: true, Role: "leader", Term: got.Term, Leader: 1, Applied: got.Applied,
		Members: []Member{{Node: 1, Address: "node-1", Role: "leader", Reachable: true}}}
	if diff := gocmp.Diff(want, got); diff != "" || got.Term == 0 || got.Applied == 0 {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	w := open(t, t.TempDir(), func(c *Config) { c.Registerer = reg }).wait(t)
	w.populate(t, 2)
	want := `# HELP forebay_raft_commands_total Commands that this node has applied to the replicated state.
# TYPE forebay_raft_commands_total counter
forebay_raft_commands_total{kind="breaker_force"} 0
forebay_raft_commands_total{kind="breaker_report"} 0
forebay_raft_commands_total{kind="breaker_settings"} 1
forebay_raft_commands_total{kind="create_account"} 2
forebay_raft_commands_total{kind="create_key"} 2
forebay_raft_commands_total{kind="delete_account"} 0
forebay_raft_commands_total{kind="drop_member"} 0
forebay_raft_commands_total{kind="forget_endpoint"} 0
forebay_raft_commands_total{kind="keep_endpoint"} 0
forebay_raft_commands_total{kind="lease"} 0
forebay_raft_commands_total{kind="revoke_key"} 0
forebay_raft_commands_total{kind="rotate_webhook_secret"} 0
forebay_raft_commands_total{kind="set_member"} 0
forebay_raft_commands_total{kind="set_plans"} 1
forebay_raft_commands_total{kind="update_account"} 0
forebay_raft_commands_total{kind="window"} 0
# HELP forebay_raft_leader 1 while this node leads the group, else 0.
# TYPE forebay_raft_leader gauge
forebay_raft_leader 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "forebay_raft_commands_total", "forebay_raft_leader"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestChangeAfterClose(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	w.stop()
	if err := w.DeleteAccount(t.Context(), "a"); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
