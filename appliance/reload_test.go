package appliance_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/appliance"
	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

func keys(list []admin.ConfigKey) []string {
	out := []string{}
	for _, k := range list {
		out = append(out, k.Key)
	}
	return out
}

func reload(t *testing.T, n *appliancetest.Node) admin.ConfigResult {
	t.Helper()
	r, err := n.Admin.ReloadConfig(t.Context())
	must(t, "reload", err)
	return r
}

func running(t *testing.T, n *appliancetest.Node) admin.RunningConfig {
	t.Helper()
	c, err := n.Admin.Config(t.Context())
	must(t, "show the configuration", err)
	return c
}

// body sends a message of about that many bytes and returns the status.
func bodyOf(t *testing.T, n *appliancetest.Node, size int) int {
	t.Helper()
	status, _ := submit(t, n, `{"channel":"store","body":"`+strings.Repeat("x", size)+`"}`)
	return status
}

func TestReloadAnswers(t *testing.T) {
	t.Parallel()
	f := appliancetest.NewFile(t, "http: {max_body_bytes: 2KiB}\n")
	n := appliancetest.StartFile(t, f, nil)
	if got := bodyOf(t, n, 4000); got != http.StatusRequestEntityTooLarge {
		t.Fatalf("a large body: %d before the change", got)
	}
	first := running(t, n).Version

	// The watcher may be quicker than the command: both tell the same story.
	f.Write("node: 7\nhttp: {max_body_bytes: 8KiB}\nbuffer: {batch_size: 500}\n")
	r := reload(t, n)
	if r.Outcome == admin.ConfigApplied {
		if diff := cmp.Diff([]string{"http.max_body_bytes", "buffer.batch_size"}, keys(r.Applied)); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff([]string{"node"}, keys(r.NeedsRestart)); diff != "" {
		t.Error(diff)
	}
	if got := bodyOf(t, n, 4000); got != http.StatusAccepted {
		t.Errorf("a large body: %d after the change", got)
	}
	c := running(t, n)
	if c.Version != first+1 || !slices.Equal(c.Drift, []string{"node"}) {
		t.Errorf("version %d, drift %q; want %d, node", c.Version, c.Drift, first+1)
	}

	// What is not valid changes nothing, and every mistake is named.
	f.Write("http: {max_body_bytes: 1MiB, read_timeout: 5}\nbufer: {}\n")
	r = reload(t, n)
	if r.Outcome != admin.ConfigRejected || len(r.Rejected) != 2 || len(r.Applied) != 0 || !strings.Contains(r.Rejected[1].Reason+r.Rejected[0].Reason, "did you mean buffer?") {
		t.Errorf("invalid file: %+v", r)
	}
	if !strings.HasSuffix(r.Rejected[0].Where, "forebay.yaml:3") {
		t.Errorf("the place of the mistake is %q", r.Rejected[0].Where)
	}
	if c := running(t, n); c.Version != first+1 || c.LastError == "" {
		t.Errorf("after a rejected change: version %d, last error %q", c.Version, c.LastError)
	}

	// Back to the first version: the file says otherwise, so there is drift.
	r, err := n.Admin.RollbackConfig(t.Context(), first)
	must(t, "roll back", err)
	if r.Outcome != admin.ConfigApplied || r.Version != first+2 {
		t.Errorf("rollback: %+v", r)
	}
	if got := bodyOf(t, n, 4000); got != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d after the rollback", got)
	}
	c = running(t, n)
	if !slices.Contains(c.Drift, "http.max_body_bytes") {
		t.Errorf("drift after a rollback: %q", c.Drift)
	}
	list, err := n.Admin.ConfigHistory(t.Context())
	must(t, "history", err)
	if len(list) != 3 || list[0].Source != "rollback" || list[0].Of != first || !list[0].Running || list[2].Source != "start" ||
		!strings.HasPrefix(list[0].Who, "uid=") || list[1].Outcome != "rolled_back" {
		t.Errorf("history: %+v", list)
	}
	d, err := n.Admin.DiffConfig(t.Context(), first, first+1)
	must(t, "diff", err)
	if diff := cmp.Diff([]string{"http.max_body_bytes", "buffer.batch_size"}, keys(d.Changed)); diff != "" {
		t.Error(diff)
	}
	if _, err := n.Admin.RollbackConfig(t.Context(), 999); err == nil || !strings.Contains(err.Error(), "not_found") {
		t.Errorf("rollback to a version that is not there: %v", err)
	}
}

// A step that fails leaves what ran before: all of it, and seen to be so.
func TestReloadStepFails(t *testing.T) {
	t.Parallel()
	f := appliancetest.NewFile(t, "log: {level: info}\nhttp: {max_body_bytes: 2KiB}\n")
	var calls []string
	var mu sync.Mutex
	n := appliancetest.StartFile(t, f, func(o *appliance.Options) {
		o.Process = func(c config.Config) error {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, c.Log.Level)
			if c.Log.Level == "debug" {
				return os.ErrPermission
			}
			return nil
		}
	})
	before := running(t, n)
	f.Write("log: {level: debug}\nhttp: {max_body_bytes: 8KiB}\n")
	r := reload(t, n)
	if r.Outcome != admin.ConfigFailed || !strings.Contains(r.Detail, `step "process" failed`) || len(r.Applied) != 0 || len(r.Rejected) != 2 {
		t.Errorf("got %+v", r)
	}
	mu.Lock()
	if len(calls) < 2 || calls[0] != "debug" || calls[1] != "info" {
		t.Errorf("the step was applied with %q, want debug and then, to take it back, info", calls)
	}
	mu.Unlock()
	if got := bodyOf(t, n, 4000); got != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d; the step before was not taken back", got)
	}
	after := running(t, n)
	if after.Version != before.Version || after.YAML != before.YAML || after.LastError == "" {
		t.Errorf("what runs is version %d, was %d", after.Version, before.Version)
	}
	list, err := n.Admin.ConfigHistory(t.Context())
	must(t, "history", err)
	if !slices.ContainsFunc(list, func(v admin.ConfigVersion) bool {
		return v.Outcome == "failed" && strings.Contains(v.Reason, "permission")
	}) {
		t.Errorf("the failure is not in the history: %+v", list)
	}
}

// A change after which the appliance does worse is taken back by itself; one
// after which it does as before stays.
func TestReloadDegradation(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]appliance.Sample{
		"errors":  {Rate: 100, ErrorRate: 0.2, P99: 10 * time.Millisecond},
		"latency": {Rate: 100, P99: 900 * time.Millisecond},
		"none":    {Rate: 100, P99: 12 * time.Millisecond}, // the control
		"load":    {Rate: 200, P99: 900 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := appliancetest.NewFile(t, "http: {max_body_bytes: 8KiB}\n")
			var worse atomic.Bool
			var looks atomic.Int64
			n := appliancetest.StartFile(t, f, func(o *appliance.Options) {
				o.Probation = 600 * time.Millisecond
				o.Probe = func() appliance.Sample {
					looks.Add(1)
					if worse.Load() {
						return bad
					}
					return appliance.Sample{Rate: 100, P99: 10 * time.Millisecond}
				}
			})
			first := running(t, n).Version
			// Without a look before the change there is nothing to compare.
			appliancetest.Eventually(t, 10*time.Second, "it was looked at before", func() bool { return looks.Load() > 1 })
			worse.Store(true)
			f.Write("http: {max_body_bytes: 2KiB}\n")
			reload(t, n)
			var list []admin.ConfigVersion
			appliancetest.Eventually(t, 20*time.Second, "the probation is over", func() bool {
				var err error
				list, err = n.Admin.ConfigHistory(context.Background())
				must(t, "history", err)
				i := slices.IndexFunc(list, func(v admin.ConfigVersion) bool { return v.Version == first+1 })
				return i >= 0 && list[i].Outcome != "probation"
			})
			want, status := "rolled_back", http.StatusAccepted
			stays := name == "none" || name == "load"
			if stays {
				want, status = "applied", http.StatusRequestEntityTooLarge
			}
			if i := slices.IndexFunc(list, func(v admin.ConfigVersion) bool { return v.Version == first+1 }); list[i].Outcome != want {
				t.Errorf("outcome %q, want %q", list[i].Outcome, want)
			}
			appliancetest.Eventually(t, 10*time.Second, "what runs is what should", func() bool { return bodyOf(t, n, 4000) == status })
			c := running(t, n)
			if taken := !stays; taken != (len(c.Drift) > 0) || taken != (c.LastError != "") {
				t.Errorf("drift %q, last error %q", c.Drift, c.LastError)
			}
		})
	}
}

// TestReloadDegradesForReal: under real load a change has the appliance refuse what
// it took before, as its own figures say, and it goes back by itself. A change that
// harms nothing, under the same load, stays.
func TestReloadDegradesForReal(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text, outcome, who string
		harms              bool
	}{
		"more free disk than there is": {"buffer: {min_free_disk_bytes: 1000TiB}\n", "rolled_back", "forebay", true},
		"the control":                  {"buffer: {batch_size: 999}\n", "applied", "uid=", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const patient = "alerts: {p99_latency: 1m}\n" // a machine that is busy must condemn nothing
			f := appliancetest.NewFile(t, patient)
			n := appliancetest.StartFile(t, f, func(o *appliance.Options) {
				o.Probation, o.Unwatched = 6*time.Second, true
				o.Files.Environ = slices.DeleteFunc(o.Files.Environ, func(v string) bool { return strings.HasPrefix(v, "FOREBAY_BUFFER_") })
			})
			first := running(t, n).Version
			ledger, stop := appliancetest.NewLedger(), make(chan struct{})
			var load sync.WaitGroup
			load.Go(func() { criticals(ledger, n.Target(), "load-", stop) })
			defer load.Wait()
			defer close(stop)
			appliancetest.Eventually(t, 30*time.Second, "the load is in the figures", func() bool {
				s, err := n.Admin.Status(t.Context())
				return err == nil && s.Intake.Rate > 5 && s.UptimeSeconds > 3
			})
			f.Write(patient + tc.text)
			if r := reload(t, n); r.Outcome != admin.ConfigApplied || r.ProbationUntil.IsZero() {
				t.Fatalf("reload: %+v", r)
			}
			var list []admin.ConfigVersion
			appliancetest.Eventually(t, time.Minute, "the probation is over", func() bool {
				var err error
				list, err = n.Admin.ConfigHistory(t.Context())
				must(t, "history", err)
				i := slices.IndexFunc(list, func(v admin.ConfigVersion) bool { return v.Version == first+1 })
				return i >= 0 && list[i].Outcome == tc.outcome
			})
			if !strings.HasPrefix(list[0].Who, tc.who) || tc.harms != (list[0].Source == "automatic" && strings.Contains(list[0].Reason, "answered with a server error")) {
				t.Errorf("the newest version: %+v", list[0])
			}
			refused := ledger.Count("503 storage_full")
			if tc.harms != (refused > 0) {
				t.Errorf("%d were refused", refused)
			}
			accepted := ledger.Count("202")
			appliancetest.Eventually(t, 30*time.Second, "messages are accepted", func() bool { return ledger.Count("202") > accepted+10 })
		})
	}
}

// The history outlives the process, and a version of before a restart can be
// gone back to.
func TestReloadHistoryOutlivesRestart(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	must(t, "write a secret", os.WriteFile(token, []byte("secret\n"), 0o600))
	text := fmt.Sprintf("http: {admin_token_file: %q, max_body_bytes: %%s}\n", token)
	f := appliancetest.NewFile(t, fmt.Sprintf(text, "2KiB"))
	n := appliancetest.StartFile(t, f, nil)
	first := running(t, n).Version
	must(t, "stop", n.Stop())
	n = appliancetest.StartFile(t, f, nil)
	if got := running(t, n).Version; got != first {
		t.Errorf("the same configuration is version %d, and %d after a restart", first, got)
	}
	must(t, "stop", n.Stop())
	f.Write(fmt.Sprintf(text, "8KiB"))
	n = appliancetest.StartFile(t, f, nil)
	v, err := n.Admin.ConfigVersion(t.Context(), first+1)
	must(t, "show the version of another configuration", err)
	if diff := cmp.Diff([]string{"http.max_body_bytes"}, keys(v.Changed)); !v.Running || diff != "" {
		t.Errorf("another configuration: %+v\n%s", v, diff)
	}
	r, err := n.Admin.RollbackConfig(t.Context(), first)
	must(t, "roll back", err)
	if got := bodyOf(t, n, 4000); r.Outcome != admin.ConfigApplied || got != http.StatusRequestEntityTooLarge {
		t.Errorf("%+v, and a large body is answered %d", r, got)
	}
}

// A secret that was changed, perhaps because the old one had leaked, is not taken
// back with what was changed beside it; alone it is on no probation.
func TestReloadKeepsSecrets(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	write := func(secret string) { must(t, "write the token", os.WriteFile(token, []byte(secret+"\n"), 0o600)) }
	write("leaked")
	text := fmt.Sprintf("http: {admin_token_file: %q, max_body_bytes: %%s}\n", token)
	f := appliancetest.NewFile(t, fmt.Sprintf(text, "8KiB"))
	var worse atomic.Bool
	var looks atomic.Int64
	n := appliancetest.StartFile(t, f, func(o *appliance.Options) {
		o.Unwatched, o.Probation = true, 600*time.Millisecond
		o.Probe = func() appliance.Sample {
			looks.Add(1)
			if worse.Load() {
				return appliance.Sample{Rate: 100, ErrorRate: 0.5, P99: 10 * time.Millisecond}
			}
			return appliance.Sample{Rate: 100, P99: 10 * time.Millisecond}
		}
	})
	allowed := func(secret string) bool {
		req, err := http.NewRequest("GET", n.OpsURL+"/admin/v1/accounts", nil)
		must(t, "make a request", err)
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := n.Client.Do(req)
		must(t, "ask", err)
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	appliancetest.Eventually(t, 10*time.Second, "it was looked at before", func() bool { return looks.Load() > 1 })
	worse.Store(true)
	write("second")
	if r := reload(t, n); r.Outcome != admin.ConfigApplied || !r.ProbationUntil.IsZero() || !allowed("second") {
		t.Errorf("a secret alone: %+v", r)
	}
	write("third")
	f.Write(fmt.Sprintf(text, "2KiB"))
	r := reload(t, n)
	if r.Outcome != admin.ConfigApplied || r.ProbationUntil.IsZero() {
		t.Fatalf("a secret with another key: %+v", r)
	}
	appliancetest.Eventually(t, time.Minute, "what was changed beside it is taken back", func() bool { return bodyOf(t, n, 4000) == http.StatusAccepted })
	if allowed("leaked") || allowed("second") || !allowed("third") {
		t.Errorf("after that: leaked %v, second %v, third %v", allowed("leaked"), allowed("second"), allowed("third"))
	}
	appliancetest.Eventually(t, 30*time.Second, "the file says otherwise than what runs", func() bool {
		return slices.Equal(running(t, n).Drift, []string{"http.max_body_bytes"})
	})
}
