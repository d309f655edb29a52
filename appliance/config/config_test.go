package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree writes files below a new directory and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func loadText(t *testing.T, text string, environ ...string) (Config, Sources, error) {
	t.Helper()
	dir := tree(t, map[string]string{"forebay.yaml": text})
	return load(defaults(), filepath.Join(dir, "forebay.yaml"), environ, 4*GiB)
}

const samplePath = "../../packaging/forebay.yaml"

// The shipped sample has every key, its default, and what it takes to change it.
func TestSampleEqualsDefaults(t *testing.T) {
	got, sources, err := load(defaults(), samplePath, nil, 4*GiB)
	if err != nil {
		t.Fatal(err)
	}
	want := defaults().derived(4 * GiB)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the sample differs from the defaults (-default +sample):\n%s", diff)
	}
	content, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(content), "\n")
	for _, l := range got.Leaves() {
		file, number, ok := strings.Cut(sources.Of(l.Key), "yaml:")
		var n int
		if _, err := fmt.Sscan(number, &n); !ok || err != nil {
			t.Errorf("%s is not in the sample (%s)", l.Key, file)
			continue
		}
		if !strings.Contains(lines[n-1], "# ["+l.Change+"]") {
			t.Errorf("line %d says nothing of [%s]: %s", n, l.Change, lines[n-1])
		}
	}
	if warnings := Warnings(got, sources); len(warnings) != 0 {
		t.Errorf("Warnings of the sample = %v, want none", warnings)
	}
}

func TestSchemaIsTagged(t *testing.T) {
	changes := map[string]bool{"live": true, "cluster": true, "restart": true}
	seen := map[string]string{}
	c := Default()
	for _, l := range c.Leaves() {
		if !changes[l.Change] {
			t.Errorf("%s: change tag %q", l.Key, l.Change)
		}
		if !regexp.MustCompile(`^[a-z0-9_.]+$`).MatchString(l.Key) {
			t.Errorf("key %q", l.Key)
		}
		if other, clash := seen[VariableName(l.Key)]; clash {
			t.Errorf("%s and %s have the same variable", l.Key, other)
		}
		seen[VariableName(l.Key)] = l.Key
	}
}

func TestDerivedFromMemory(t *testing.T) {
	for _, tc := range []struct {
		available           Size
		capacity, threshold int
		limit               Size
	}{
		{64 * GiB, 50000, 40000, 64 * GiB / 10 * 7},
		{GiB, 50000, 40000, GiB / 10 * 7},
		{512 * MiB, 32768, 26214, 512 * MiB / 10 * 7},
		{8 * MiB, 1000, 800, 192 * MiB},
	} {
		c := defaults().derived(tc.available)
		if c.Buffer.Capacity != tc.capacity || c.Buffer.BackpressureThreshold != tc.threshold || c.Memory.Limit != tc.limit {
			t.Errorf("%v: got %d, %d, %v; want %d, %d, %v", tc.available, c.Buffer.Capacity, c.Buffer.BackpressureThreshold,
				c.Memory.Limit, tc.capacity, tc.threshold, tc.limit)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%v: %v", tc.available, err)
		}
	}
}

func TestThresholdFollowsCapacity(t *testing.T) {
	c, _, err := loadText(t, "buffer: {capacity: 1000}")
	if err != nil || c.Buffer.BackpressureThreshold != 800 {
		t.Errorf("got %d, %v; want 800", c.Buffer.BackpressureThreshold, err)
	}
}

func TestAvailableMemory(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	meminfo := file("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
	for name, tc := range map[string]struct {
		root fstest.MapFS
		want Size
	}{
		"no cgroup":     {fstest.MapFS{"proc/meminfo": meminfo}, 8 * GiB},
		"nothing known": {fstest.MapFS{}, fallbackMemory},
		"container": {fstest.MapFS{"proc/meminfo": meminfo, "proc/self/cgroup": file("0::/\n"),
			"sys/fs/cgroup/memory.max": file("536870912\n")}, 512 * MiB},
		"unit below a slice": {fstest.MapFS{"proc/meminfo": meminfo, "proc/self/cgroup": file("0::/system.slice/forebay.service\n"),
			"sys/fs/cgroup/system.slice/memory.max":                 file("1073741824\n"),
			"sys/fs/cgroup/system.slice/forebay.service/memory.max": file("max\n")}, GiB},
		"version 1": {fstest.MapFS{"proc/meminfo": meminfo, "proc/self/cgroup": file("4:cpu,memory:/a\n3:pids:/b\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   file("9223372036854771712\n"),
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": file("268435456\n")}, 256 * MiB},
	} {
		if got := availableMemory(tc.root); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

func TestDev(t *testing.T) {
	c := Dev("./data")
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.Database.URL != "" || c.HTTP.Listen != "127.0.0.1:8080" || c.HTTP.OpsListen != "127.0.0.1:9090" || c.AdminSocket() != "data/admin.sock" {
		t.Errorf("got %+v", c)
	}
	c, _, err := LoadDev("x", []string{"FOREBAY_HTTP_LISTEN=127.0.0.1:0"})
	if err != nil || c.HTTP.Listen != "127.0.0.1:0" || c.Environment != "development" {
		t.Errorf("LoadDev: %q, %v", c.HTTP.Listen, err)
	}
}

func TestWarnings(t *testing.T) {
	c, sources, err := loadText(t, `
http: {ops_listen: "0.0.0.0:9090"}
`)
	if err != nil {
		t.Fatal(err)
	}
	if w := Warnings(c, sources); len(w) != 1 || !strings.Contains(w[0], "http.ops_listen") {
		t.Errorf("Warnings = %q", w)
	}
}

// What show prints can be loaded again and is the same configuration.
func TestYAMLRoundTrip(t *testing.T) {
	c, sources, err := loadText(t, `
node: 7
data_dir: "/srv/#1: \"x\"\t\u007f"
cluster: {listen: "localhost:7000", peers: {7: "a:1", 2: "b:2", 10: "c:3"}}
channels: {email: {from: "A <a@example.org>"}, webhook: {allow_cidrs: [10.0.0.0/8, "::/0"]}}
rate_limiting: {tiers: {basic: {burst: 21}}}
`)
	if err != nil {
		t.Fatal(err)
	}
	text := c.YAML(sources)
	again, _, err := loadText(t, text)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	if diff := cmp.Diff(c, again); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(text, "node: 7  # ") || !strings.Contains(text, "forebay.yaml:2\n") {
		t.Errorf("no source behind node:\n%s", text)
	}
	if got := c.Tree()["buffer"].(map[string]any)["batch_timeout"]; got != "100ms" {
		t.Errorf("Tree: batch_timeout = %v", got)
	}
}

func TestRuleOfEveryKey(t *testing.T) {
	// A value that no key accepts must be refused for every key of a kind other
	// than text, with that key's name and line.
	base := defaults().derived(4 * GiB)
	for _, l := range base.Leaves() {
		if l.value.Kind().String() == "string" {
			continue
		}
		parts := strings.Split(l.Key, ".")
		text := ""
		for i, p := range parts {
			text += strings.Repeat("  ", i) + p + ":\n"
		}
		_, _, err := loadText(t, strings.TrimSuffix(text, "\n")+" \"x y\"\n")
		var problems Problems
		if !errors.As(err, &problems) || len(problems) != 1 || problems[0].Key != l.Key ||
			!strings.HasSuffix(problems[0].Where, fmt.Sprintf("forebay.yaml:%d", len(parts))) {
			t.Errorf("%s: %v", l.Key, err)
		}
	}
}

// Scalars that other parsers rewrite arrive as they were written.
func TestScalarsAsWritten(t *testing.T) {
	for _, s := range []string{"+4915112345678", "007", "1.10", "0x1F", "1_000", "1e3", "yes", "2026-11-23"} {
		c, _, err := loadText(t, "channels: {whatsapp: {phone_number_id: "+s+"}}")
		if err != nil || c.Channels.WhatsApp.PhoneNumberID != s {
			t.Errorf("%s: got %q, %v", s, c.Channels.WhatsApp.PhoneNumberID, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	sample, err := os.ReadFile(samplePath)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(sample), "", "a: &a [*a]", "http: &h {listen: x}\nbuffer: *h", "buffer:\n\tcapacity: 1",
		"node: 1\n---\nnode: 2", "? [a]\n: b", "rate_limiting: {tiers: {x: ~}}", "cluster: {peers: {1: 2}}", "- x", "database: {url: 'postgres://u:p@h/d'}"} {
		f.Add(seed, "FOREBAY_BUFFER_CAPACITY=100")
	}
	f.Fuzz(func(t *testing.T, text, variable string) {
		l := loader{cfg: defaults(), sources: Sources{where: map[string]string{}}}
		l.document("f.yaml", []byte(text))
		l.environment([]string{variable})
		if len(l.problems) > 0 {
			for _, p := range l.problems {
				if p.Message == "" || p.Where == "" {
					t.Errorf("a problem that says too little: %+v", p)
				}
			}
			return
		}
		c := l.cfg.derived(GiB)
		if c.Validate() != nil || c.Database.URL != "" {
			return
		}
		shown := c.YAML(l.sources)
		again := loader{cfg: defaults(), sources: Sources{where: map[string]string{}}}
		again.document("again.yaml", []byte(shown))
		if diff := cmp.Diff(c, again.cfg); diff != "" || len(again.problems) > 0 {
			t.Errorf("shown and read again: %v\n%s\n%s", again.problems, diff, shown)
		}
	})
}
