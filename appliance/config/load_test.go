package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLayers(t *testing.T) {
	dir := tree(t, map[string]string{
		"forebay.yaml":         "environment: staging\nnode: 2\nbuffer: {batch_size: 1, batch_timeout: 1ms, idempotency_ttl: 1h}\n",
		"conf.d/20-b.yaml":     "buffer: {batch_size: 3, batch_timeout: 3ms}\n",
		"conf.d/10-a.yaml":     "buffer: {batch_size: 2}\n",
		"conf.d/.hidden.yaml":  "node: nonsense\n",
		"conf.d/readme.txt":    "node: nonsense\n",
		"forebay.staging.yaml": "# only a comment\n",
		"forebay.test.yaml":    "buffer: {batch_timeout: 4ms}\n",
	})
	path := filepath.Join(dir, "forebay.yaml")
	c, sources, err := Load(path, []string{"FOREBAY_BUFFER_BATCH_SIZE=9", "FOREBAY_BUFFER_BATCH_SIZE=5", "FOREBAY_NODE=",
		"FOREBAY_ENVIRONMENT=test", "FOREBAY_PORT=tcp://10.0.0.1:80", "FOREBAY_SERVICE_HOST=10.0.0.1", "FOREBAY_CONFIG=/x"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Node != 2 || c.Buffer.BatchSize != 5 || c.Buffer.BatchTimeout != 4*time.Millisecond || c.Buffer.IdempotencyTTL != time.Hour || c.Environment != "test" {
		t.Errorf("got %+v", c)
	}
	want := []string{path, filepath.Join(dir, "conf.d/10-a.yaml"), filepath.Join(dir, "conf.d/20-b.yaml"), filepath.Join(dir, "forebay.test.yaml")}
	if diff := cmp.Diff(want, sources.Files); diff != "" {
		t.Error(diff)
	}
	for key, want := range map[string]string{"node": path + ":2", "buffer.batch_size": "FOREBAY_BUFFER_BATCH_SIZE",
		"buffer.batch_timeout": want[3] + ":1", "buffer.capacity": "default"} {
		if got := sources.Of(key); got != want {
			t.Errorf("Of(%s) = %s, want %s", key, got, want)
		}
	}
}

// A name that no overlay has does not pass in silence: beside other overlays it
// is refused, else it is warned of. The default needs none.
func TestMissingOverlay(t *testing.T) {
	for name, tc := range map[string]struct {
		name            string // of the file; empty: forebay.yaml
		text, others    string // environment of the file; an overlay that is there
		variable        string
		problem, warned string
	}{
		"a slip in the variable":    {variable: "stagin", others: "forebay.staging.yaml", problem: `FOREBAY_ENVIRONMENT: environment: "stagin" has no `},
		"a slip in the file":        {text: "node: 3\nenvironment: stagin", others: "forebay.staging.yaml", problem: `forebay.yaml:2: environment: "stagin" has no `},
		"not the name that is read": {variable: "staging", others: "forebay.staging.yml", problem: "and there is forebay.staging.yml"},
		"no overlay at all":         {variable: "staging", warned: `environment is "staging" and there is no `},
		"one that is empty":         {variable: "staging", others: "forebay.staging.yaml"},
		"the default's":             {others: "forebay.staging.yaml"},
		"the default's by name":     {variable: "production", text: "environment: stagin", others: "forebay.staging.yaml"},
		"the file itself":           {name: "forebay.one.yaml", variable: "staging", warned: "there is no "},
		"of something else":         {variable: "staging", others: "forebay.yaml.old", warned: "there is no "},
	} {
		t.Run(name, func(t *testing.T) {
			name := tc.name
			if name == "" {
				name = "forebay.yaml"
			}
			files := map[string]string{name: tc.text}
			if tc.others != "" {
				files[tc.others] = "# nothing\n"
			}
			f := Files{Path: filepath.Join(tree(t, files), name), Environ: []string{"FOREBAY_ENVIRONMENT=" + tc.variable}}
			c, sources, err := f.Load()
			if tc.problem != "" {
				if err == nil || !strings.Contains(err.Error(), tc.problem) || !strings.Contains(err.Error(), tc.others) {
					t.Errorf("got %v, want %q and %s", err, tc.problem, tc.others)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(Warnings(c, sources), "\n")
			if (tc.warned == "") != (got == "") || !strings.Contains(got, tc.warned) {
				t.Errorf("warnings %q, want %q", got, tc.warned)
			}
		})
	}
}

func TestPath(t *testing.T) {
	env := []string{"FOREBAY_CONFIG=/b.yaml"}
	for want, got := range map[string]string{"/a.yaml": Path("/a.yaml", env), "/b.yaml": Path("", env), DefaultPath: Path("", nil)} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if _, _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestEnvironmentVariables(t *testing.T) {
	c, _, err := loadText(t, "", "FOREBAY_RATE_LIMITING_TIERS_BASIC_BURST=21", `FOREBAY_RATE_LIMITING_TIERS={gold: {requests_per_minute: 1, burst: 2, concurrent: 3}}`,
		"FOREBAY_RATE_LIMITING_TIERS_GOLD_BURST=7", "FOREBAY_CHANNELS_WEBHOOK_ALLOW_CIDRS=[10.0.0.0/8]", "FOREBAY_DATABASE_URL=postgres://u:hunter2@h/d",
		"FOREBAY_BUFFER_CAPACITY=auto", "FOREBAY_BUFFER_MAX_DISK_BYTES=1GiB")
	if err != nil {
		t.Fatal(err)
	}
	tiers := c.RateLimiting.Tiers
	if tiers["basic"].Burst != 21 || tiers["basic"].Concurrent != 10 || tiers["gold"] != (Tier{1, 7, 3, "enforce"}) ||
		c.Channels.Webhook.AllowCIDRs[0] != "10.0.0.0/8" || c.Database.URL.Reveal() != "postgres://u:hunter2@h/d" || c.Buffer.Capacity != 50000 {
		t.Errorf("got %+v", c)
	}
	if defaults().RateLimiting.Tiers["basic"].Burst != 20 {
		t.Error("the defaults changed")
	}
}

// Every mistake has its line and says what to do.
func TestProblems(t *testing.T) {
	for name, tc := range map[string]struct {
		text, variable string
		want           []string // where: key: part of the message
	}{
		"unknown key":            {text: "buffer:\n  capcity: 5", want: []string{":2: buffer.capcity: unknown key; did you mean buffer.capacity?"}},
		"key of another section": {text: "\nmax_pool_size: 5", want: []string{":2: max_pool_size: unknown key; did you mean database.max_pool_size?"}},
		"a key like no other":    {text: "log: {quack: x}", want: []string{":1: log.quack: unknown key; known here: level, format"}},
		"all at once": {text: "node: 0\nbuffer: {capacity: many}\nlog: {level: inof}\nhttp: {read_timeout: 5}\ndatabase: {max_pool_size: 1.5}",
			want: []string{`:2: buffer.capacity: "many" is not a whole number`, `:4: http.read_timeout: "5" is without a unit; write for example 5s`,
				`:5: database.max_pool_size: "1.5" is not a whole number`}},
		"all rules at once":       {text: "node: 0\nlog: {level: inof}\n", want: []string{":1: node: 0 is out of range", `:2: log.level: "inof" is not known; did you mean info?`}},
		"clear text to afar":      {text: "channels:\n  email:\n    host: smtp.example.org\n    tls: none", want: []string{`:4: channels.email.tls: none is for a relay on this machine only, and "smtp.example.org" is not loopback`}},
		"part of a second":        {text: "delivery: {default_ttl: 1500ms}", want: []string{":1: delivery.default_ttl: 1.5s is no whole number of seconds"}},
		"number of a number":      {text: "channels: {whatsapp: {enabled: true, api_version: v23.0, access_token_file: a, phone_number_id: +4915}}", want: []string{`:1: channels.whatsapp.phone_number_id: "+4915" is no number`}},
		"one port for two":        {text: "http:\n  ops_listen: 127.0.0.1:8080", want: []string{`:2: http.ops_listen: "127.0.0.1:8080" takes the port of http.listen, which is :8080`}},
		"one port, cluster":       {text: "cluster: {listen: 127.0.0.1:9090}", want: []string{`:1: cluster.listen: "127.0.0.1:9090" takes the port of http.ops_listen`}},
		"nobody could dial it":    {text: "cluster: {listen: \":7000\", tls_cert_file: a, tls_key_file: b, tls_ca_file: c}", want: []string{`:1: cluster.listen: ":7000" is no address that others could dial`}},
		"too large a plan":        {text: "rate_limiting: {tiers: {basic: {burst: 2000000000}}}", want: []string{":1: rate_limiting.tiers.basic.burst: 2000000000 is too large"}},
		"threshold":               {text: "buffer:\n  capacity: 1000\n  backpressure_threshold: 2000", want: []string{":3: buffer.backpressure_threshold: 2000 is out of range; write 1 to buffer.capacity, which is 1000"}},
		"zero for auto":           {text: "buffer: {capacity: 0}", want: []string{`:1: buffer.capacity: "0" is too small`}},
		"pool":                    {text: "database: {max_pool_size: 5}", want: []string{"database.min_pool_size: 10 is out of range; write 0 to database.max_pool_size, which is 5"}},
		"body":                    {text: "http: {max_body_bytes: 3MiB}", want: []string{":1: http.max_body_bytes: 3MiB is out of range; write 1KiB to 960KiB"}},
		"node":                    {text: "node: 65536", want: []string{`:1: node: "65536" is not between 0 and 65535`}},
		"twice":                   {text: "node: 1\nnode: 2", want: []string{":2: node: is there twice, first in line 1"}},
		"shape":                   {text: "buffer: 5\nnode: [1]\nchannels: {webhook: {allow_cidrs: x}}", want: []string{":1: buffer: is a single value; write its keys", ":2: node: is a list; write a single value", ":3: channels.webhook.allow_cidrs: is a single value; write a list"}},
		"not YAML":                {text: "node: 1\nbuffer: [1", want: []string{"not YAML: "}},
		"tab":                     {text: "buffer:\n\tcapacity: 1", want: []string{":2: not YAML: "}},
		"two documents":           {text: "node: 1\n---\nnode: 2\n", want: []string{"second YAML document"}},
		"list":                    {text: "- node", want: []string{":1: is a list; write its keys"}},
		"cluster port open":       {text: "cluster: {listen: '0.0.0.0:7000'}", want: []string{"cluster.listen: \"0.0.0.0:7000\" is not loopback"}},
		"cluster of two":          {text: "cluster: {listen: 'localhost:1', peers: {1: 'a:1', 3: 'b:1'}}", want: []string{"cluster.peers: name 2 nodes"}},
		"half TLS":                {text: "http: {tls_cert_file: /x}", want: []string{"http.tls_key_file: is empty; set http.tls_cert_file, http.tls_key_file, all of them or none"}},
		"delays":                  {text: "delivery: {base_delay: 2h}", want: []string{"delivery.base_delay: 2h is over delivery.max_delay, which is 1h"}},
		"embedded, little memory": {text: "memory: {limit: 160MiB}", want: []string{":1: memory.limit: 160MiB is too small for the embedded store; write at least 192MiB"}},
		"body, little memory":     {text: "database: {url_file: /x}\nmemory: {limit: 160MiB}\nhttp: {max_body_bytes: 512KiB}", want: []string{":3: http.max_body_bytes: 512KiB is too large for memory.limit, which is 160MiB; lower it, or give the process 205MiB"}},
		"memory":                  {text: "memory: {high: 0.5, critical: 1.5}", want: []string{"memory.high: 0.5 is not over memory.elevated", "memory.critical: 1.5 is out of range"}},
		"channel":                 {text: "channels: {email: {enabled: true, from: nobody}}", want: []string{"channels.email.from: \"nobody\" is no address", "channels.email.host: is empty; channels.email.enabled needs it"}},
		"tier":                    {text: "rate_limiting:\n  tiers:\n    gold: {burst: 5}", want: []string{"tiers.gold.requests_per_minute: 0 is too small", "tiers.gold.concurrent: 0 is too small"}},
		"environment":             {text: "environment: ../x", want: []string{`:1: environment: "../x" is no name`}},
		"address":                 {text: "http: {listen: 8080, ops_listen: 'a:b:c'}", want: []string{`http.listen: "8080" is no address`, `http.ops_listen: "a:b:c" is no address`}},
		"variable":                {variable: "FOREBAY_BUFFER_CAPACITY=many", want: []string{`FOREBAY_BUFFER_CAPACITY: buffer.capacity: "many" is not a whole number`}},
		"unknown variable":        {variable: "FOREBAY_BUFFER_CAPCITY=5", want: []string{"FOREBAY_BUFFER_CAPCITY: unknown variable; did you mean FOREBAY_BUFFER_CAPACITY?"}},
		"near variable":           {variable: "FOREBAY_DATADIR=5", want: []string{"did you mean FOREBAY_DATA_DIR?"}},
		"unknown tier":            {variable: "FOREBAY_RATE_LIMITING_TIERS_GOLD_BURST=5", want: []string{"FOREBAY_RATE_LIMITING_TIERS_GOLD_BURST: sets nothing"}},
		"list variable":           {variable: "FOREBAY_CLUSTER_PEERS=x", want: []string{"FOREBAY_CLUSTER_PEERS: cluster.peers: is a single value"}},
		"database":                {text: "database: {url: 'mysql://root:hunter2@h/d'}", want: []string{":1: database.url: is no PostgreSQL address"}},
		"bad escape":              {text: "database: {url: 'postgres://u:hunter2%zz@h/d'}", want: []string{":1: database.url: cannot be read as a URL"}},
		"both":                    {text: "database: {url: 'postgres://u:hunter2@h/d', url_file: /x}", want: []string{"database.url_file: is set beside database.url"}},
	} {
		t.Run(name, func(t *testing.T) {
			var environ []string
			if tc.variable != "" {
				environ = append(environ, tc.variable)
			}
			_, _, err := loadText(t, tc.text, environ...)
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want problems", err)
			}
			if len(problems) != len(tc.want) {
				t.Errorf("got %d problems, want %d:\n%v", len(problems), len(tc.want), err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in:\n%v", want, err)
				}
			}
			for _, p := range problems {
				if strings.Contains(p.String(), "hunter2") || strings.ContainsAny(p.String(), "\n") {
					t.Errorf("a secret, or more than a line: %q", p)
				}
			}
		})
	}
}

func TestReadSecrets(t *testing.T) {
	dir := tree(t, map[string]string{"token": "s3cret\r\n", "url": "host=h password='hunter 2' dbname=d\n", "empty": "\n", "lines": "a\nb\n", "bad": "mysql://hunter2"})
	file := func(name string) string { return filepath.Join(dir, name) }
	c, sources, err := loadText(t, "http: {admin_token_file: "+file("token")+"}\ndatabase: {url_file: "+file("url")+"}")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ReadSecrets(sources); err != nil {
		t.Fatal(err)
	}
	if c.HTTP.AdminToken.Reveal() != "s3cret" || c.Database.URL.Reveal() != "host=h password='hunter 2' dbname=d" {
		t.Errorf("got %q, %q", c.HTTP.AdminToken.Reveal(), c.Database.URL.Reveal())
	}
	for name, want := range map[string]string{"none": "does not exist", "empty": "is empty", "lines": "more than one line"} {
		c.HTTP.AdminTokenFile = file(name)
		err := c.ReadSecrets(sources)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "forebay.yaml:1: http.admin_token_file: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.HTTP.AdminTokenFile, c.Database.URLFile = "", file("bad")
	if err := c.ReadSecrets(sources); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("bad URL: %v", err)
	}
	c.Database.URLFile, c.HTTP.TLSCertFile, c.HTTP.TLSKeyFile = "", file("token"), file("token")
	if err := c.ReadSecrets(sources); err == nil || !strings.Contains(err.Error(), "http.tls_cert_file") {
		t.Errorf("bad certificate: %v", err)
	}
	if os.Getuid() != 0 { // root reads everything
		if err := os.Chmod(file("token"), 0); err != nil {
			t.Fatal(err)
		}
		c.HTTP.TLSCertFile, c.HTTP.AdminTokenFile = "", file("token")
		if err := c.ReadSecrets(sources); err == nil || !strings.Contains(err.Error(), "cannot be read by this user") {
			t.Errorf("unreadable: %v", err)
		}
	}
}
