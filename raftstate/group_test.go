package raftstate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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
	stop    func()
	address string // of its cluster port, where the test chose it late
}

// open starts a group in dir and waits until it leads.
func open(t testing.TB, dir string, options ...func(*Config)) *world {
	t.Helper()
	w := &world{logs: &bytes.Buffer{}}
	var mu sync.Mutex
	cfg := Config{
		NodeID: 1, Dir: dir, Plans: plans("basic", "premium"),
		Fatal:  func(err error) { t.Errorf("fatal: %v", err) },
		Logger: slog.New(slog.NewTextHandler(lockedWriter{&mu, w.logs}, &slog.HandlerOptions{Level: slog.LevelDebug - 4})),
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

func TestAccountsAndKeys(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	ctx := t.Context()
	text := w.populate(t, 2)[1]

	p, err := w.Authenticate(text)
	if err != nil {
		t.Fatalf("authenticate: %v", err)
	}
	if p.Account != "acct-1" || p.Plan.Name != "basic" || !p.Test || p.Suspended || p.CallbackURL != "" {
		t.Errorf("got principal %+v", p)
	}

	tier, url, suspended := "premium", "https://example.org/hook", true
	view, err := w.UpdateAccount(ctx, account.UpdateAccount{ID: "acct-1", Tier: &tier, CallbackURL: &url, Suspended: &suspended})
	if err != nil || view.Keys != 1 || view.Tier != tier {
		t.Errorf("update: got %+v, %v", view, err)
	}
	if p, err = w.Authenticate(text); err != nil || p.Plan.Name != tier || !p.Suspended || p.CallbackURL != url {
		t.Errorf("after the update: got %+v, %v", p, err)
	}

	changed := plans("basic", "premium")
	changed[1].Burst = 77
	if _, err := w.SetPlans(ctx, changed); err != nil {
		t.Errorf("set plans: %v", err)
	}
	if p, _ = w.Authenticate(text); p.Plan.Burst != 77 {
		t.Errorf("after new plans: got burst %d, want 77", p.Plan.Burst)
	}

	if _, err := w.RevokeKey(ctx, "acct-0", p.Key); code(err) != account.CodeNotFound {
		t.Errorf("revoke by another account: got %v", err)
	}
	key, err := w.RevokeKey(ctx, "", p.Key)
	if err != nil || key.InForce() {
		t.Errorf("revoke: got %+v, %v", key, err)
	}
	if _, err := w.Authenticate(text); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("authenticate with a revoked key: got %v, want ErrUnknownKey", err)
	}
	if keys, err := w.Keys("acct-1"); err != nil || len(keys) != 1 || keys[0].InForce() {
		t.Errorf("keys: got %+v, %v", keys, err)
	}
}

func TestDeletedAccountCannotAuthenticate(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	text := w.populate(t, 1)[0]
	if err := w.DeleteAccount(t.Context(), "acct-0"); err != nil {
		t.Fatalf("delete: %v", err)
	}
	if _, err := w.Authenticate(text); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("got %v, want ErrUnknownKey", err)
	}
	// Made again, it is another account: the old key stays dead.
	if _, err := w.CreateAccount(t.Context(), account.CreateAccount{ID: "acct-0", Tier: "basic"}); err != nil {
		t.Fatalf("create again: %v", err)
	}
	if _, err := w.Authenticate(text); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("got %v, want ErrUnknownKey", err)
	}
}

func TestRefusalsAreCodes(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	w.populate(t, 1)
	ctx := t.Context()
	gold := "gold"
	for name, test := range map[string]struct {
		do   func() error
		want account.Code
	}{
		"exists": {func() error {
			_, err := w.CreateAccount(ctx, account.CreateAccount{ID: "acct-0", Tier: "basic"})
			return err
		}, account.CodeExists},
		"unknown tier": {func() error { _, err := w.CreateAccount(ctx, account.CreateAccount{ID: "b", Tier: "gold"}); return err }, account.CodeUnknownTier},
		"invalid":      {func() error { _, err := w.CreateAccount(ctx, account.CreateAccount{ID: "B", Tier: "gold"}); return err }, account.CodeInvalid},
		"update none":  {func() error { _, err := w.UpdateAccount(ctx, account.UpdateAccount{ID: "none"}); return err }, account.CodeNotFound},
		"update tier": {func() error {
			_, err := w.UpdateAccount(ctx, account.UpdateAccount{ID: "acct-0", Tier: &gold})
			return err
		}, account.CodeUnknownTier},
		"delete none":  {func() error { return w.DeleteAccount(ctx, "none") }, account.CodeNotFound},
		"key of none":  {func() error { _, _, err := w.CreateKey(ctx, "none", "", false); return err }, account.CodeNotFound},
		"show none":    {func() error { _, err := w.Account("none"); return err }, account.CodeNotFound},
		"keys of none": {func() error { _, err := w.Keys("none"); return err }, account.CodeNotFound},
	} {
		if got := code(test.do()); got != test.want {
			t.Errorf("%s: got code %q, want %q", name, got, test.want)
		}
	}
}

func TestAuthenticateRefuses(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	texts := w.populate(t, 2)
	live, test := texts[0], texts[1]
	last := live[:len(live)-1] + map[bool]string{true: "b", false: "a"}[live[len(live)-1] == 'a']
	for name, text := range map[string]string{
		"empty":             "",
		"wrong secret":      last,
		"secret of another": live[:len("fb_live_")+13] + test[len("fb_live_")+13:],
		"live as test":      "fb_test_" + live[8:],
		"test as live":      "fb_live_" + test[8:],
		"unknown id":        "fb_live_aaaaaaaaaaaa_" + live[len("fb_live_")+13:],
		"long":              strings.Repeat(live, 1000),
	} {
		p, err := w.Authenticate(text)
		if !errors.Is(err, ErrUnknownKey) || p != (Principal{}) {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
	}
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

func TestRestartKeepsAll(t *testing.T) {
	for name, snapshots := range map[string]int{"log alone": 0, "snapshot": 1, "snapshots and log": 2} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := open(t, dir).wait(t)
			texts := w.populate(t, 5)
			for n := range snapshots {
				if err := w.Snapshot(t.Context()); err != nil {
					t.Fatalf("snapshot: %v", err)
				}
				if _, err := w.CreateAccount(t.Context(), account.CreateAccount{ID: fmt.Sprintf("later-%d", n), Tier: "premium"}); err != nil {
					t.Fatal(err)
				}
			}
			before := w.dump(t)
			w.stop()

			again := open(t, dir).wait(t)
			if diff := gocmp.Diff(before, again.dump(t)); diff != "" {
				t.Errorf("state after restart (-before +after):\n%s", diff)
			}
			for i, text := range texts {
				if p, err := again.Authenticate(text); err != nil || p.Account != fmt.Sprintf("acct-%d", i) {
					t.Errorf("key %d after restart: got %+v, %v", i, p, err)
				}
			}
		})
	}
}

func TestConfiguredPlansAreProposedOnce(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir).wait(t)
	applied := w.Status().Applied
	if _, err := w.SetPlans(t.Context(), plans("premium", "basic")); err != nil {
		t.Fatal(err)
	}
	if got := w.Status().Applied; got != applied {
		t.Errorf("equal plans were proposed: applied index went from %d to %d", applied, got)
	}
	w.populate(t, 1)
	w.stop()

	w = open(t, dir, func(c *Config) { c.Plans = plans("enterprise") }).wait(t)
	var names []string
	for _, p := range w.Plans() {
		names = append(names, p.Name)
	}
	if diff := gocmp.Diff([]string{"basic", "enterprise"}, names); diff != "" {
		t.Errorf("plans after a changed configuration (-want +got):\n%s", diff)
	}
}

func TestDumpAndLoad(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	texts := w.populate(t, 3)
	dump := w.dump(t)

	dir := t.TempDir()
	other := open(t, dir).wait(t)
	if _, err := other.CreateAccount(t.Context(), account.CreateAccount{ID: "gone", Tier: "basic"}); err != nil {
		t.Fatal(err)
	}
	before := other.dump(t)
	if err := other.Load(t.Context(), strings.NewReader(dump[:len(dump)-5])); err == nil {
		t.Error("a dump that is cut short was loaded")
	}
	if other.dump(t) != before {
		t.Error("a dump that was refused changed the state")
	}
	if err := other.Load(t.Context(), strings.NewReader(dump)); err != nil {
		t.Fatalf("load: %v", err)
	}
	other.stop()
	other = open(t, dir).wait(t)
	if _, err := other.Authenticate(texts[2]); err != nil {
		t.Errorf("a loaded key after restart: %v", err)
	}
	if _, err := other.Account("gone"); code(err) != account.CodeNotFound {
		t.Errorf("an account that was there before: got %v", err)
	}
}

func TestSecretsAreNowhere(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir).wait(t)
	texts := w.populate(t, 3)
	dump := w.dump(t)
	if err := w.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, authErr := w.Authenticate(texts[0] + "x")
	w.stop()
	places := map[string]string{"dump": dump, "log": w.logs.String(), "error": authErr.Error()}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		places[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for place, content := range places {
		for _, text := range texts {
			if _, secret, _, _ := account.ParseKey(text); strings.Contains(content, secret) {
				t.Errorf("a secret is in %s", place)
			}
		}
	}
}

func TestStatus(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	got := w.Status()
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
forebay_raft_commands_total{kind="lease"} 0
forebay_raft_commands_total{kind="revoke_key"} 0
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

func TestConcurrentChangesAndReaders(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	text := w.populate(t, 1)[0]
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for i := range 10 {
				id := fmt.Sprintf("n%d-%d", n, i)
				if _, err := w.CreateAccount(t.Context(), account.CreateAccount{ID: id, Tier: "basic"}); err != nil {
					t.Errorf("create: %v", err)
				}
				if _, _, err := w.CreateKey(t.Context(), id, "", false); err != nil {
					t.Errorf("create key: %v", err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
			if _, err := w.Authenticate(text); err != nil {
				t.Fatalf("authenticate: %v", err)
			}
			w.Accounts()
		}
	}
	if got := len(w.Accounts()); got != 41 {
		t.Errorf("got %d accounts, want 41", got)
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

// TestNewerCommandStopsEveryStart writes what a newer program would have, and
// opens the log with this one.
func TestNewerCommandStopsEveryStart(t *testing.T) {
	dir := t.TempDir()
	fatal := make(chan error, 9)
	w := open(t, dir, func(c *Config) { c.Fatal = func(err error) { fatal <- err } }).wait(t)
	if _, _, err := w.submit(t.Context(), command{kind: 200}.encode()); err != nil {
		t.Fatalf("submit: %v", err)
	}
	w.stop()
	if len(fatal) != 1 {
		t.Fatalf("fatal was called %d times, want once", len(fatal))
	}
	<-fatal
	w = open(t, dir, func(c *Config) { c.Fatal = func(err error) { fatal <- err } })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := w.WaitLeader(ctx); err == nil || !strings.Contains(err.Error(), "kind 200") {
		t.Errorf("the next start: got %v, want an error that names the kind", err)
	}
	if err := <-fatal; !strings.Contains(err.Error(), "kind 200") {
		t.Errorf("fatal was called with %v", err)
	}
	if _, err := w.Authenticate("x"); !errors.Is(err, ErrNotReady) {
		t.Errorf("authenticate: got %v, want ErrNotReady", err)
	}
}

// BenchmarkAuthenticate has the bare hash beside it: what is above it is the
// look-up.
func BenchmarkAuthenticate(b *testing.B) {
	w := open(b, b.TempDir()).wait(b)
	texts := w.populate(b, 100)
	_, secret, _, _ := account.ParseKey(texts[0])
	b.Run("key=known", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := w.Authenticate(texts[i%len(texts)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("key=unknown", func(b *testing.B) {
		b.ReportAllocs()
		unknown := "fb_live_aaaaaaaaaaaa_" + secret
		for b.Loop() {
			if _, err := w.Authenticate(unknown); err == nil {
				b.Fatal("known")
			}
		}
	})
	b.Run("key=hash_alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			account.HashSecret(secret)
		}
	})
}

func TestAuthenticateDoesNotAllocate(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	text := w.populate(t, 1)[0]
	for _, key := range []string{text, text[:20]} {
		if got := testing.AllocsPerRun(100, func() { w.Authenticate(key) }); got != 0 {
			t.Errorf("%d characters: got %v allocations, want 0", len(key), got)
		}
	}
}
