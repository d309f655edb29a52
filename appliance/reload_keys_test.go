package appliance_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/appliance"
	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
)

// otherValues are valid values for keys whose own rule does not let one be made
// from the value that is there.
var otherValues = map[string]string{
	"node": "2", "http.max_connections": "9000", "environment": "staging", "data_dir": "/elsewhere", "http.listen": "127.0.0.1:9999", "http.ops_listen": "127.0.0.1:9998",
	"http.admin_socket": "/elsewhere.sock", "rate_limiting.without_quorum": "refuse", "delivery.unknown_outcome": "fail",
	"channels.whatsapp.phone_number_id": "12345", "channels.whatsapp.base_url": "https://graph.example.org", "channels.email.tls": "implicit", "channels.email.from": "a@example.org",
	"alerts.webhook_url": "https://alerts.example.org/", "log.level": "error", "log.format": "text",
	"channels.webhook.allow_cidrs": "[10.0.0.0/8]", "memory.elevated": "0.5", "memory.high": "0.8", "memory.critical": "0.9", "alerts.error_rate": "0.5",
	"buffer.capacity": "30000", "buffer.backpressure_threshold": "20000", "database.min_pool_size": "3", "memory.limit": "256MiB",
}

// notAlone are keys that change only with others, which other tests change.
var notAlone = []string{"database.url", "database.url_file", "http.tls_cert_file", "http.tls_key_file", "http.admin_token_file", "cluster.listen",
	"cluster.advertise", "cluster.peers", "cluster.tls_cert_file", "cluster.tls_key_file", "cluster.tls_ca_file",
	"channels.whatsapp.enabled", "channels.email.enabled", "channels.email.username", "channels.email.password_file"}

// provedBy names the tests that prove, on a running appliance, what a key that
// changes there does, where its part has no figure to be asked for.
var provedBy = map[string]string{
	"http.tls_cert_file": "TestReloadCertificate", "http.tls_key_file": "TestReloadCertificate", "http.admin_token_file": "TestReloadAdminToken",
	"channels.webhook.enabled": "TestReloadChannels", "channels.whatsapp": "TestReloadChannels", "channels.email": "TestReloadChannels", "log": "TestReloadLog",
}

// needsDatabase are keys of the store in PostgreSQL: the embedded store has no use
// for them.
var needsDatabase = []string{"database.max_pool_size", "database.min_pool_size", "database.connection_timeout"}

// proof names the test of a key; empty: there is none.
func proof(key string) string {
	for k, test := range provedBy {
		if key == k || strings.HasPrefix(key, k+".") {
			return test
		}
	}
	return ""
}

// TestPolicyProofs: the tests that provedBy names exist, and each of its keys is
// one of the schema's.
func TestPolicyProofs(t *testing.T) {
	t.Parallel()
	var declared strings.Builder
	sources(t, func(path string, text []byte) {
		if strings.HasSuffix(path, "_test.go") {
			declared.Write(text)
		}
	})
	leaves := config.Config{}.Leaves()
	for key, test := range provedBy {
		if !strings.Contains(declared.String(), "func "+test+"(") {
			t.Errorf("%s: there is no %s", key, test)
		}
		if !slices.ContainsFunc(leaves, func(l config.Leaf) bool { return l.Key == key || strings.HasPrefix(l.Key, key+".") }) {
			t.Errorf("there is no key %s", key)
		}
	}
}

// another returns a valid value other than the one that is there.
func another(l config.Leaf) string {
	text := l.Text()
	if v, ok := otherValues[l.Key]; ok {
		return v
	}
	if strings.HasSuffix(l.Key, ".mode") {
		return "shadow"
	}
	if n, err := strconv.Atoi(text); err == nil {
		return strconv.Itoa(n + 1)
	}
	if d, err := config.ParseDuration(text); err == nil {
		return config.FormatDuration(d + time.Second)
	}
	if s, err := config.ParseSize(text); err == nil {
		return (s + config.KiB).String()
	}
	switch text {
	case "true":
		return "false"
	case "false":
		return "true"
	}
	return text + "x"
}

// nested is a key with its value as YAML.
func nested(key, value string) string {
	parts := strings.Split(key, ".")
	return strings.Join(parts, ": {") + ": " + value + strings.Repeat("}", len(parts)-1) + "\n"
}

// startQuiet starts a node whose file is not watched, so that each change is
// the test's own and its answer is seen.
func startQuiet(t *testing.T, pg *sinktest.Postgres) (*appliancetest.Node, *appliancetest.File) {
	t.Helper()
	more := ""
	if pg != nil {
		more = fmt.Sprintf("database: {url: %q}\n", pg.URL())
	}
	f := appliancetest.NewFile(t, more)
	n := appliancetest.StartFile(t, f, func(o *appliance.Options) {
		o.Unwatched = true
		o.Process = func(config.Config) error { return nil }
	})
	return n, f
}

// TestReloadEveryKey changes each key of the schema, one at a time, on a running
// appliance with either store: one that is tagged live or cluster is in force
// afterwards, in the parts that it configures, or has a test of its own; one that
// is tagged restart is answered as such, and what runs stays.
func TestReloadEveryKey(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, w world) {
		n, f := startQuiet(t, w.pg)
		base := ""
		if w.pg != nil {
			base = fmt.Sprintf("database: {url: %q", w.pg.URL())
		}
		measured := 0
		loaded, _, err := f.Files().Load()
		must(t, "load", err)
		for _, l := range loaded.Leaves() {
			if _, ok := n.InForce(l.Key); l.Change != "restart" && !ok && proof(l.Key) == "" && !(w.pg == nil && slices.Contains(needsDatabase, l.Key)) {
				t.Errorf("%s [%s]: nothing proves that it changes: give it a figure (InForce) or a test (provedBy)", l.Key, l.Change)
			}
			if slices.Contains(notAlone, l.Key) || strings.HasPrefix(l.Key, "rate_limiting.tiers.development.") || slices.Contains([]string{"http.listen", "http.ops_listen", "buffer.min_free_disk_bytes"}, l.Key) {
				continue // the last ones: this test's variables say them
			}
			value := another(l)
			text := nested(l.Key, value)
			if rest, ok := strings.CutPrefix(text, "database: {"); ok && w.pg != nil {
				text = base + ", " + rest
			} else if w.pg != nil {
				text += base + "}\n"
			}
			if l.Key == "environment" || l.Key == "data_dir" {
				f.WriteInstead(l.Key, value, strings.TrimPrefix(text, nested(l.Key, value)))
			} else {
				f.Write(text)
			}
			before := running(t, n)
			r := reload(t, n)
			list, other := r.Applied, r.NeedsRestart
			fixed := l.Change == "restart"
			if fixed {
				list, other = other, list
			}
			if r.Outcome == admin.ConfigRejected || len(list) == 0 || !slices.Contains(keys(list), l.Key) || slices.Contains(keys(other), l.Key) {
				t.Errorf("%s [%s] to %s: %+v", l.Key, l.Change, value, r)
				continue
			}
			after := running(t, n)
			if got := valueOf(after, l.Key); !fixed && got == valueOf(before, l.Key) {
				t.Errorf("%s: what runs is %s as before", l.Key, got)
			} else if fixed && got != valueOf(before, l.Key) {
				t.Errorf("%s: what runs is %s", l.Key, got)
			}
			if got, ok := n.InForce(l.Key); ok && !fixed {
				measured++
				if want := plain(value); got != want {
					t.Errorf("%s: its part works with %s, want %s", l.Key, got, want)
				}
			}
			if w.pg != nil {
				f.Write(base + "}\n")
			} else {
				f.Write("")
			}
			if r := reload(t, n); r.Outcome == admin.ConfigRejected || r.Outcome == admin.ConfigFailed {
				t.Fatalf("%s back: %+v", l.Key, r)
			}
		}
		t.Logf("%d keys were measured in the parts that they configure", measured)
	})
}

// plain is a value as InForce writes it: durations as Go's, sizes in bytes.
func plain(value string) string {
	if _, err := strconv.Atoi(value); err == nil {
		return value
	}
	if d, err := config.ParseDuration(value); err == nil {
		return d.String()
	}
	if s, err := config.ParseSize(value); err == nil {
		return strconv.FormatInt(int64(s), 10)
	}
	return value
}

func valueOf(c admin.RunningConfig, key string) string {
	var node any = c.Values
	for _, part := range strings.Split(key, ".") {
		m, ok := node.(map[string]any)
		if !ok {
			return ""
		}
		node = m[part]
	}
	return fmt.Sprint(node)
}

// TestProperty22_ReloadTakesEffectOrChangesNothing: any set of changes that are
// all valid takes effect without a restart; one that is not valid among them,
// and nothing changes.
func TestProperty22_ReloadTakesEffectOrChangesNothing(t *testing.T) {
	t.Parallel()
	n, f := startQuiet(t, nil)
	type setting struct{ key, value string }
	valid := func(rt *rapid.T) (list []setting) {
		add := func(key string, value *rapid.Generator[string]) {
			if rapid.Bool().Draw(rt, key+"?") {
				list = append(list, setting{key, value.Draw(rt, key)})
			}
		}
		number := func(low, high int) *rapid.Generator[string] {
			return rapid.Map(rapid.IntRange(low, high), strconv.Itoa)
		}
		duration := func(low, high time.Duration) *rapid.Generator[string] {
			return rapid.Map(rapid.Int64Range(int64(low/time.Millisecond), int64(high/time.Millisecond)), func(ms int64) string { return strconv.FormatInt(ms, 10) + "ms" })
		}
		add("buffer.capacity", number(1000, 100_000))
		add("buffer.batch_size", number(1, 10_000))
		add("buffer.batch_timeout", duration(time.Millisecond, time.Minute))
		add("buffer.idempotency_ttl", duration(time.Minute, time.Hour))
		add("http.max_body_bytes", number(1<<10, 960<<10))
		add("http.max_connections", number(1000, 10_000))
		add("http.read_timeout", duration(time.Second, time.Minute))
		add("http.idle_timeout", duration(10*time.Second, time.Hour))
		add("database.retention", duration(24*time.Hour, 90*24*time.Hour))
		add("circuit_breaker.failure_threshold", number(1, 1000))
		add("rate_limiting.tiers.basic.burst", number(1, 1000))
		return list
	}
	invalid := []setting{{"buffer.capacity", "99"}, {"buffer.batch_size", "many"}, {"http.read_timeout", "5"}, {"http.max_body_bytes", "3MiB"},
		{"buffer.no_such_key", "1"}, {"database.min_pool_size", "100000"}, {"memory.high", "0.1"}, {"log.level", "loud"}, {"channels.email.enabled", "true"}}
	var mu sync.Mutex // rapid runs one check at a time; the counts are read after it
	counts := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		list := valid(rt)
		var bad *setting
		if rapid.Bool().Draw(rt, "invalid?") {
			b := rapid.SampledFrom(invalid).Draw(rt, "invalid")
			bad = &b
			list = slices.DeleteFunc(list, func(s setting) bool { return s.key == b.key })
			list = append(list, b)
		}
		before := map[string]string{}
		for _, s := range list {
			before[s.key], _ = n.InForce(s.key)
		}
		var text strings.Builder
		sections := map[string][]string{}
		for _, s := range list {
			section, key, _ := strings.Cut(s.key, ".")
			sections[section] = append(sections[section], strings.TrimSuffix(nested(key, s.value), "\n"))
		}
		for section, lines := range sections {
			fmt.Fprintf(&text, "%s: {%s}\n", section, strings.Join(lines, ", "))
		}
		f.Write(text.String())
		old := running(t, n)
		r := reload(t, n)
		now := running(t, n)
		mu.Lock()
		counts[r.Outcome]++
		mu.Unlock()
		if bad != nil {
			if r.Outcome != admin.ConfigRejected || now.Version != old.Version || now.YAML != old.YAML {
				rt.Fatalf("%+v with %+v invalid: %+v", list, *bad, r)
			}
			for _, s := range list {
				if got, _ := n.InForce(s.key); got != before[s.key] {
					rt.Fatalf("%s is %s in force, was %s", s.key, got, before[s.key])
				}
			}
			return
		}
		if r.Outcome != admin.ConfigApplied && r.Outcome != admin.ConfigUnchanged || len(r.NeedsRestart) != 0 {
			rt.Fatalf("%+v: %+v", list, r)
		}
		for _, s := range list {
			if got, ok := n.InForce(s.key); !ok || got != plain(s.value) {
				rt.Fatalf("%s is %s in force, want %s", s.key, got, s.value)
			}
		}
	})
	if counts[admin.ConfigApplied] == 0 || counts[admin.ConfigRejected] == 0 {
		t.Errorf("not every outcome was seen: %v", counts)
	}
	t.Logf("outcomes: %v", counts)
}

// TestReloadUnderLoad: a thousand requests a second go on while the configuration
// changes again and again; none fails.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	n, f := startQuiet(t, nil)
	const rate, seconds = 1000, 5
	var failed []string
	var mu sync.Mutex
	var sent int
	var wg sync.WaitGroup
	slots := make(chan struct{}, 256)
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	stop := make(chan struct{})
	wg.Go(func() {
		var requests sync.WaitGroup
		defer requests.Wait()
		for i := 0; i < rate*seconds; i++ {
			<-tick.C
			slots <- struct{}{}
			requests.Go(func() {
				defer func() { <-slots }()
				status, err := trySubmit(n, fmt.Sprintf(`{"channel":"store","body":"message %d"}`, i))
				mu.Lock()
				defer mu.Unlock()
				if sent++; err != nil || status != 202 {
					failed = append(failed, fmt.Sprint(status, err))
				}
			})
		}
		close(stop)
	})
	reloads := 0
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
			k := reloads % 10
			f.Write(fmt.Sprintf("http: {max_body_bytes: %dKiB, read_timeout: %ds, idle_timeout: %ds, max_connections: %d}\nbuffer: {capacity: %d, batch_size: %d, batch_timeout: %dms}\nrate_limiting: {tiers: {basic: {burst: %d}}}\n",
				4+k, 5+k, 60+k, 1000+k, 1000+k, 100+k, 10+k, 20+k))
			if r := reload(t, n); r.Outcome != admin.ConfigApplied {
				t.Errorf("reload %d: %+v", reloads, r)
				done = true
			}
			reloads++
		}
	}
	wg.Wait()
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, as %q", len(failed), sent, failed[:min(5, len(failed))])
	}
	if reloads < 10 {
		t.Errorf("%d reloads are too few to say anything", reloads)
	}
	t.Logf("%d requests at %d/s through %d reloads, %d failed", sent, rate, reloads, len(failed))
	awaitDrained(t, n.Admin)
	checkAudit(t, n.Admin)
}

// trySubmit sends a message from a goroutine that must not end the test.
func trySubmit(n *appliancetest.Node, body string) (status int, err error) {
	req, err := http.NewRequest("POST", n.URL+"/v1/messages", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+n.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := n.Client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
