package appliance_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
)

// contract are the metrics that operators may build on, with their labels.
var contract = map[string]string{
	"http_requests_total": "code,route", "http_request_duration_seconds": "route", "messages_accepted_total": "channel,priority",
	"messages_refused_total": "code", "messages_final_total": "channel,status",
	"wal_append_duration_seconds": "", "wal_batch_messages": "", "wal_backlog_messages": "lane", "wal_oldest_age_seconds": "", "wal_disk_bytes": "",
	"pressure_level": "", "pressure_signal": "signal", "store_batch_duration_seconds": "", "store_rows_total": "outcome",
	"store_query_duration_seconds": "query", "store_slow_queries_total": "query", "store_up": "", "store_pool_connections": "state",
	"channel_attempts_total": "channel,outcome", "channel_duration_seconds": "channel", "breaker_state": "name", "breaker_transitions_total": "name,to",
	"limiter_decisions_total": "outcome", "limiter_lease_requests_total": "outcome", "raft_commands_total": "kind", "raft_apply_duration_seconds": "",
	"raft_leader": "", "config_version": "", "config_reloads_total": "outcome", "config_last_reload_success": "",
}

var sample = regexp.MustCompile(`^forebay_([a-z0-9_]+?)(?:\{([^}]*)\})? \S+$`)

// labelsOf reads a scrape: name → the labels of its series, without le.
func labelsOf(text string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(text) {
		m := sample.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		var labels []string
		for pair := range strings.SplitSeq(m[2], `",`) {
			if label, _, ok := strings.Cut(pair, "="); ok && label != "le" {
				labels = append(labels, label)
			}
		}
		slices.Sort(labels)
		name := m[1]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, is := strings.CutSuffix(name, suffix); is && strings.Contains(text, "# TYPE forebay_"+base+" histogram") {
				name = base
			}
		}
		found[name] = strings.Join(labels, ",")
	}
	return found
}

// TestMetricsKeepTheContract holds /metrics of a real appliance that has done a
// bit of everything, with either store, against the promised names and labels. The
// embedded store has no pool.
func TestMetricsKeepTheContract(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, w world) {
		options := []appliancetest.Option{func(c *config.Config) { c.Database.SlowQuery = time.Nanosecond }}
		if w.pg != nil {
			options = append(options, appliancetest.WithPostgres(w.pg.URL()))
		}
		n := appliancetest.Start(t, options...)
		if status, a := submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=30"); status != http.StatusCreated {
			t.Fatalf("%d %+v", status, a)
		}
		submit(t, n, `{"channel":"store"}`)
		found := labelsOf(scrape(t, n))
		for name, labels := range contract {
			switch got, ok := found[name]; {
			case !ok && (w.pg != nil || name != "store_pool_connections"):
				t.Errorf("forebay_%s is not there", name)
			case ok && got != labels:
				t.Errorf("forebay_%s has the labels %q, want %q", name, got, labels)
			}
		}
		for _, label := range []string{"account", "host", "id", "url", "recipient"} {
			for name, labels := range found {
				if slices.Contains(strings.Split(labels, ","), label) {
					t.Errorf("forebay_%s has a label that a client chooses: %s", name, label)
				}
			}
		}
	})
}

var metricName = regexp.MustCompile(`\b(forebay_[a-z0-9_]+)`)

// TestPackagedQueries: every metric that the Prometheus rules and the dashboard
// ask for is there.
func TestPackagedQueries(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t)
	submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=10")
	known := map[string]bool{}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(contract)), slices.Collect(maps.Keys(labelsOf(scrape(t, n)))), []string{"audit_missing_messages"}) {
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			known["forebay_"+name+suffix] = true
		}
	}
	for _, file := range []string{"prometheus/forebay.rules.yml", "grafana/forebay.json"} {
		text, err := os.ReadFile(filepath.Join("../packaging", file))
		must(t, "read "+file, err)
		asked := metricName.FindAllString(string(text), -1)
		for _, name := range asked {
			if !known[name] {
				t.Errorf("%s asks for %s, which there is not", file, name)
			}
		}
		if len(asked) < 15 {
			t.Errorf("%s asks for %d metrics only: the test is blind", file, len(asked))
		}
	}
	f, err := os.Open("../packaging/grafana/forebay.json")
	must(t, "open the dashboard", err)
	defer f.Close()
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	must(t, "read the dashboard", json.NewDecoder(io.LimitReader(f, 1<<20)).Decode(&dashboard))
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q is there twice, or shows nothing", p.ID, p.Title)
		}
		ids[p.ID] = true
	}
}

// TestRules lets Prometheus's own tool check the rules and run their tests.
func TestRules(t *testing.T) {
	t.Parallel()
	for _, arguments := range [][]string{{"check", "rules", "forebay.rules.yml"}, {"test", "rules", "forebay.rules_test.yml"}} {
		cmd := exec.Command("promtool", arguments...)
		cmd.Dir = "../packaging/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v (see `make deps`): %v\n%s", arguments, err, out)
		}
	}
}
