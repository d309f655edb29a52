package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
)

const (
	accountJSON = `{"id":"acme","name":"Acme \u001b[31mred","tier":"premium","suspended":true,"created_at":"2026-11-23T13:20:00Z","keys":2}`
	keyJSON     = `{"id":"k1","account":"acme","label":"ci","test":true,"created_at":"2026-11-23T13:20:00Z","revoked_at":"2026-11-24T13:20:00Z"}`
	messageJSON = `{"id":"019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f","account":"acme","channel":"store","status":"stored","priority":"normal","client_ref":"r1","accepted_at":"2026-11-23T13:20:00.123Z","metadata":{"a":"b"}}`
	statusJSON  = `{"node":1,"version":"v1","uptime":3661.5,"intake":{"rate":10,"accepted_total":12,"refused":{"overloaded":3},"latency":{"p50":0.001,"p90":0.002,"p99":0.003}},` +
		`"log":{"backlog":{"critical":1,"high":2,"normal":3,"low":4},"oldest_age_seconds":2,"disk_bytes":10485760,"append_latency":{"p50":0,"p90":0,"p99":0}},` +
		`"store":{"kind":"postgres","up":false,"rate":0,"batch_size":0,"latency":{"p50":0,"p90":0,"p99":0},"down_since":"2026-11-23T13:20:00Z","detail":"connection refused"},` +
		`"raft":{"role":"leader","term":2,"leader":1,"members":[{"node":1,"address":"local","role":"leader"}]},"config":{"version":1,"loaded_at":"2026-11-23T13:20:00Z"}}`
	breakerJSON = `{"name":"webhook:a.example:443","state":"open","forced":"closed","forced_by":"olga","open_on":[2,3],"failures":5,"generation":7}`
	clusterJSON = `{"role":"leader","term":7,"leader":2,"members":[{"node":1,"address":"10.0.0.1:7000","role":"voter","reachable":false,"lag":12},{"node":2,"address":"10.0.0.2:7000","role":"leader","reachable":true,"lag":0},{"node":4,"address":"10.0.0.4:7000","role":"nonvoter"}]}`
	auditJSON   = `{"node":1,"from":1,"to":10,"accepted":10,"stored":7,"final":7,"waiting":3,"missing":0}`
)

// What each command asks, and what it prints.
func TestAdminCommands(t *testing.T) {
	f := newFakeAdmin(t, map[string]string{
		"POST /accounts": accountJSON, "GET /accounts": `{"data":[` + accountJSON + `]}`, "GET /accounts/acme": accountJSON, "PATCH /accounts/acme": accountJSON,
		"DELETE /accounts/acme": "", "POST /accounts/acme/keys": `{"id":"k1","account":"acme","test":false,"created_at":"2026-11-23T13:20:00Z","key":"fb_s3cret"}`,
		"GET /accounts/acme/keys": `{"data":[` + keyJSON + `]}`, "DELETE /keys/k1": keyJSON, "GET /messages/x": messageJSON,
		"GET /messages?account=acme&limit=5&status=stored": `{"data":[` + messageJSON + `],"has_more":true,"next_cursor":"c2"}`,
		"POST /messages/x/cancel":                          messageJSON, "GET /usage/acme?month=2026-11": `{"account":"acme","month":"2026-11","total":42,"data":[{"day":"2026-11-23","channel":"email","status":"failed","final":true,"count":42}]}`,
		"POST /messages/requeue": `{"matched":3,"requeued":2,"repeated":1,"has_more":false}`,
		"GET /status":            statusJSON, "GET /audit": auditJSON, "POST /drain": "",
		"GET /breakers": `{"data":[` + breakerJSON + `]}`, "POST /breakers/webhook:a.example:443/close": breakerJSON,
	})
	for _, tc := range []struct{ args, asked, want string }{
		{"account create acme --tier premium --name Acme", `POST /accounts {"id":"acme","tier":"premium","name":"Acme"}`, "acme  premium  suspended  2     2026-11-23 13:20:00  Acme �[31mred"},
		{"account list", "GET /accounts", "ID    TIER     STATE      KEYS"},
		{"account show acme", "GET /accounts/acme", "acme  premium"},
		{"account set acme --callback-url=", `PATCH /accounts/acme {"callback_url":""}`, "acme  premium"},
		{"account suspend acme", `PATCH /accounts/acme {"suspended":true}`, "suspended"},
		{"account resume acme", `PATCH /accounts/acme {"suspended":false}`, "acme"},
		{"account delete acme", "DELETE /accounts/acme", "deleted  acme"},
		{"key list acme", "GET /accounts/acme/keys", "k1  acme     revoked  test  2026-11-23 13:20:00  2026-11-24 13:20:00  ci"},
		{"key revoke k1", "DELETE /keys/k1", "revoked"},
		{"message show x", "GET /messages/x", "accepted_at  2026-11-23 13:20:00.123"},
		{"message list --account acme --status stored --limit 5", "GET /messages?account=acme&limit=5&status=stored", "There are more: add --cursor c2"},
		{"message cancel x", "POST /messages/x/cancel", "019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f"},
		{"message requeue --status failed --since 2026-11-01T00:00:00Z --until 2026-11-02T00:00:00Z --channel email --dry-run",
			`POST /messages/requeue {"status":"failed","channel":"email","since":"2026-11-01T00:00:00Z","until":"2026-11-02T00:00:00Z","priority":"low","dry_run":true,"limit":1000}`, "3 messages would be accepted anew."},
		{"usage acme --month 2026-11", "GET /usage/acme?month=2026-11", "2026-11-23  email    failed  42"},
		{"status", "GET /status", "critical 1, high 2, normal 3, low 4; oldest 2s; 10 MiB on disk"},
		{"audit", "GET /audit", "missing   0"},
		{"drain", "POST /drain", "draining"},
		{"breaker list", "GET /breakers", "node 2, node 3  closed by olga"},
		{"breaker close webhook:a.example:443", "POST /breakers/webhook:a.example:443/close", "webhook:a.example:443  open"},
		{"key create acme --label ci", `POST /accounts/acme/keys {"label":"ci"}`, "fb_s3cret\n"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			args := strings.Fields(tc.args)
			o := run(t, f.dir, nil, args...)
			if o.code != 0 || o.stderr != "" || !strings.Contains(o.stdout, tc.want) {
				t.Errorf("want %q, got %+v", tc.want, o)
			}
			if got := f.last(t); got != tc.asked {
				t.Errorf("asked %q, want %q", got, tc.asked)
			}
			isJSON(t, run(t, f.dir, nil, append(args, "--output", "json")...))
		})
	}
	o := run(t, f.dir, nil, "message", "requeue", "019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f", "--yes")
	if o.code != 0 || !strings.Contains(o.stdout, "2 messages were accepted anew, 1 had been before.") || o.stderr != "2 accepted anew, 1 were already\n" {
		t.Errorf("message requeue by id: %+v", o)
	}
	if got, want := f.last(t), `POST /messages/requeue {"ids":["019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f"],"priority":"low","limit":100}`; got != want {
		t.Errorf("message requeue by id asked %q, want %q", got, want)
	}
	if o := run(t, f.dir, nil, "key", "create", "acme"); o.stdout != "fb_s3cret\n" {
		t.Errorf("key create prints %q, want the key alone", o.stdout)
	}
	o = run(t, f.dir, nil, "account", "show", "nobody")
	if oneErrorLine(t, o, "There is no such account. (not_found)"); o.code != 1 {
		t.Errorf("exit code %d, want 1", o.code)
	}
}

func TestAuditFailsOnLoss(t *testing.T) {
	f := newFakeAdmin(t, map[string]string{"GET /audit": `{"node":1,"from":1,"to":10,"accepted":10,"stored":7,"final":7,"waiting":2,"missing":1,"missing_numbers":[8]}`})
	o := run(t, f.dir, nil, "audit")
	if o.code != 1 || !strings.Contains(o.stderr, "the first with number 8") || !strings.Contains(o.stdout, "missing   1") {
		t.Errorf("got %+v", o)
	}
}

func TestServerWithToken(t *testing.T) {
	f := &fakeAdmin{dir: t.TempDir(), answers: map[string]string{"GET /accounts": `{"data":[]}`}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, l)
	if err := os.WriteFile(filepath.Join(f.dir, "token"), []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := run(t, f.dir, nil, "account", "list", "--server", "http://"+l.Addr().String(), "--token-file", "token", "-o", "json")
	isJSON(t, o)
	if got := f.last(t); got != "Bearer s3cret" {
		t.Errorf("token: %q", got)
	}
	// Without the right one, it says which to show.
	closed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"title":"Unauthenticated","status":401,"detail":"show the admin token","code":"unauthenticated"}`))
	}))
	t.Cleanup(closed.Close)
	oneErrorLine(t, run(t, f.dir, nil, "account", "list", "--server", closed.URL), "(unauthenticated): add --token-file FILE")
	oneErrorLine(t, run(t, f.dir, nil, "account", "list", "--server", closed.URL, "--token-file", "token"), "what token holds is not what the appliance has (http.admin_token_file)")
}

// A message that was named and cannot be accepted anew is no success.
func TestRequeueRefused(t *testing.T) {
	f := newFakeAdmin(t, map[string]string{"POST /messages/requeue": `{"matched":0,"refused":[{"id":"019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f","code":"not_found"}],"has_more":false}`})
	o := run(t, f.dir, nil, "message", "requeue", "019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f", "--yes")
	if o.code != 1 || !strings.Contains(o.stdout, "not_found") || !strings.Contains(o.stderr, "1 of the messages cannot be accepted anew") {
		t.Errorf("got %+v", o)
	}
}

// A command line that makes no sense: 2, one line, and what to write instead.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	for args, want := range map[string]string{
		"acount":                            `unknown command "acount"; did you mean account?`,
		"account":                           "forebay account: which command?",
		"account creat":                     "did you mean create?",
		"completion tcsh":                   "unknown command",
		"--colour":                          "unknown flag: --colour; see `forebay --help`",
		"status --wat":                      "unknown flag: --wat; see `forebay status --help`",
		"status now":                        "takes no arguments",
		"account show":                      "forebay account show wants ID, got 0 arguments",
		"account create acme":               "Add --tier",
		"account set acme":                  "nothing to change",
		"status --output yaml":              "write text or json",
		"status --token-file x":             "--token-file is for --server",
		"send x --server http://h":          "forebay send speaks to the public API, which --url names; leave out --server",
		"wal salvage --server http://h":     "forebay wal salvage works on this machine's stopped appliance; leave out --server",
		"cluster recover --server http://h": "forebay cluster recover works on this machine's stopped appliance; leave out --server",
		"send x --wait 31":                  "--wait 31 is out of range; write 1 to 30",
		"send x --wait 0":                   "--wait 0 is out of range; write 1 to 30",
		"status --server ftp://x":           "want a URL",
		"message list --limit 0":            "write 1 to 100",
		"message list --limit x":            "invalid argument",
		"audit --since yesterday":           "--since \"yesterday\" is no time",
		"send hello":                        "set FOREBAY_KEY",
		"send a b":                          "at most one TEXT",
		"bench --rate fast":                 "write messages a second, or max",
		"bench --priorities urgent":         "does not exist",
		"bench --duration 5":                "without a unit",
		"bench":                             "no API key",
		"serve --dev --config x":            "leave out --config",
		"wal verify a b":                    "at most one DIR",
		"config check a b":                  "at most one FILE",
	} {
		if o := run(t, dir, nil, strings.Fields(args)...); o.code != 2 {
			t.Errorf("%s: exit code %d, want 2: %+v", args, o.code, o)
		} else {
			oneErrorLine(t, o, want)
		}
	}
}

// What is well-formed and cannot be done: 1, one line.
func TestFailures(t *testing.T) {
	dir := t.TempDir()
	for args, want := range map[string]string{
		"status":                             "is it running?",
		"status --server http://127.0.0.1:1": "is it running?",
		"serve --config none.yaml":           "none.yaml: no such file",
		"config check none.yaml":             "none.yaml: no such file",
		"wal verify":                         "data/wal is no directory with a log",
		"restore none":                       "none",
		"backup /tmp":                        "exists; choose another name",
		"send x --key-file none":             "read API key",
	} {
		if o := run(t, dir, nil, strings.Fields(args)...); o.code != 1 {
			t.Errorf("%s: exit code %d, want 1: %+v", args, o.code, o)
		} else {
			oneErrorLine(t, o, want)
		}
	}
}

func TestHelpVersionCompletion(t *testing.T) {
	dir := t.TempDir()
	for args, want := range map[string]string{"": "Available Commands:", "--help": "Available Commands:", "bench --help": "open loop",
		"version": "forebay v0-test (go1.", "version -o json": `"version": "v0-test"`,
		"completion bash": "__start_forebay", "completion zsh": "#compdef forebay", "completion fish": "complete -c forebay"} {
		if o := run(t, dir, nil, strings.Fields(args)...); o.code != 0 || !strings.Contains(o.stdout, want) || o.stderr != "" {
			t.Errorf("%s: want %q, got %+v", args, want, o)
		}
	}
}

func TestConfigCommands(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good.yaml", "database: {url: 'postgres://u:hunter2@h/d'}\nchannels: {webhook: {timeout: 5s}}\nhttp: {ops_listen: ':9'}\n")
	write("bad.yaml", "buffer:\n  capcity: 1\nnode: x\n")
	o := run(t, dir, nil, "config", "check", "good.yaml")
	if o.code != 0 || !strings.Contains(o.stdout, "read ") || !strings.Contains(o.stdout, "good.yaml") || !strings.Contains(strings.Join(strings.Fields(o.stdout), " "), "warning http.ops_listen") {
		t.Errorf("good: %+v", o)
	}
	isJSON(t, run(t, dir, nil, "config", "check", "good.yaml", "-o", "json"))
	o = run(t, dir, []string{"FOREBAY_ENVIRONMENT=staging"}, "config", "check", "good.yaml")
	if o.code != 0 || !strings.Contains(o.stdout, "there is no forebay.staging.yaml") {
		t.Errorf("an environment without an overlay: %+v", o)
	}
	write("forebay.staging.yaml", "node: 2\n")
	for _, args := range [][]string{{"config", "check", "good.yaml"}, {"serve", "--config", "good.yaml"}} {
		o = run(t, dir, []string{"FOREBAY_ENVIRONMENT=stagin"}, args...)
		if o.code != 1 || !strings.Contains(o.stderr, `FOREBAY_ENVIRONMENT: environment: "stagin" has no forebay.stagin.yaml, and there is forebay.staging.yaml`) {
			t.Errorf("%s with a slip in the environment's name: %+v", args, o)
		}
	}
	o = run(t, dir, nil, "config", "check", "bad.yaml")
	want := "forebay: bad.yaml:2: buffer.capcity: unknown key; did you mean buffer.capacity?\nforebay: bad.yaml:3: node: \"x\" is not a whole number; write digits only, for example 1000\n"
	if o.code != 1 || o.stderr != want {
		t.Errorf("bad: %+v", o)
	}
	if named := run(t, dir, nil, "config", "check", "--config", "bad.yaml"); named != o {
		t.Errorf("without FILE: %+v", named)
	}
	o = run(t, dir, nil, "config", "check", "bad.yaml", "-o", "json")
	if o.code != 1 || !strings.Contains(o.stdout, `"where": "bad.yaml:2"`) || strings.Count(o.stderr, "\n") != 1 {
		t.Errorf("bad as JSON: %+v", o)
	}
	for _, format := range []string{"text", "json"} {
		o = run(t, dir, []string{"FOREBAY_BUFFER_BATCH_SIZE=7"}, "config", "show", "--config", "good.yaml", "-o", format)
		if o.code != 0 || strings.Contains(o.stdout, "hunter2") || !strings.Contains(o.stdout, "postgres://u:xxxxx@h/d") {
			t.Errorf("show: %+v", o)
		}
		if format == "text" && !strings.Contains(o.stdout, "batch_size: 7  # FOREBAY_BUFFER_BATCH_SIZE") {
			t.Errorf("show: %s", o.stdout)
		}
	}
}

func TestSend(t *testing.T) {
	var mu sync.Mutex
	var got http.Header
	var body string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got, body = r.Header, string(content)
		switch r.Header.Get("Authorization") {
		case "Bearer good":
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write([]byte(`{"id":"019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f","status":"accepted","accepted_at":"2026-11-23T13:20:00.123Z"}`))
		case "Bearer busy":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"title":"Overloaded","status":503,"detail":"Too much at once.","code":"overloaded"}`))
		default:
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = w.Write([]byte(`{"title":"Invalid","status":422,"detail":"The message breaks rules.","code":"invalid","errors":[{"pointer":"#/to","detail":"is no number"}]}`))
		}
	}))
	t.Cleanup(api.Close)
	env := func(key string) []string { return []string{"FOREBAY_KEY=" + key, "FOREBAY_URL=" + api.URL} }
	o := run(t, t.TempDir(), env("good"), "send", "héllo", "--priority", "high", "--metadata", "a=b", "--wait", "3", "--idempotency-key", "i1")
	if o.code != 0 || !strings.Contains(o.stdout, "id           019ab3c4-") {
		t.Errorf("got %+v", o)
	}
	mu.Lock()
	if body != `{"channel":"store","body":"héllo","priority":"high","metadata":{"a":"b"}}` || got.Get("Prefer") != "wait=3" || got.Get("Idempotency-Key") != "i1" {
		t.Errorf("sent %s with %v", body, got)
	}
	mu.Unlock()
	isJSON(t, run(t, t.TempDir(), env("good"), "send", "x", "-o", "json"))
	run(t, t.TempDir(), env("good"), "send", "x", "--ttl", "0") // for the appliance to refuse
	mu.Lock()
	if want := `{"channel":"store","body":"x","ttl_seconds":0}`; body != want {
		t.Errorf("sent %s, want %s", body, want)
	}
	mu.Unlock()
	o = run(t, t.TempDir(), env("busy"), "send", "x")
	if oneErrorLine(t, o, "try again in 7 s: Too much at once. (overloaded)"); o.code != 1 {
		t.Errorf("exit code %d", o.code)
	}
	oneErrorLine(t, run(t, t.TempDir(), env("other"), "send", "x"), "The message breaks rules: to is no number (invalid)")
}

func TestBench(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte(`{"id":"019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f"}`))
	}))
	t.Cleanup(api.Close)
	dir := t.TempDir()
	env := []string{"FOREBAY_KEY=k", "FOREBAY_URL=" + api.URL}
	o := run(t, dir, env, "bench", "--rate", "max", "--count", "100", "--acked", "ids")
	if o.code != 0 || !strings.Contains(o.stdout, "closed loop, 64 connections") || !strings.Contains(o.stdout, "status 202  100") {
		t.Errorf("got %+v", o)
	}
	if ids, err := os.ReadFile(filepath.Join(dir, "ids")); err != nil || strings.Count(string(ids), "\n") != 100 {
		t.Errorf("acknowledged: %d lines, %v", strings.Count(string(ids), "\n"), err)
	}
	isJSON(t, run(t, dir, env, "bench", "--rate", "1000", "--count", "100", "-o", "json"))
}

// Accounts of a bench are gone after it.
func TestBenchAccounts(t *testing.T) {
	f := newFakeAdmin(t, nil)
	o := run(t, f.dir, nil, "bench", "--accounts", "2")
	if oneErrorLine(t, o, "create account bench-"); o.code != 1 {
		t.Errorf("exit code %d", o.code)
	}
	if last := f.last(t); !strings.HasPrefix(last, "DELETE /accounts/bench-") {
		t.Errorf("the last request was %q", last)
	}
}

// TestCommandsWithoutServer: they exist, and every other command asks whatever
// --server names.
func TestCommandsWithoutServer(t *testing.T) {
	root := (&app{}).root()
	var commands []string
	var look func(*cobra.Command)
	look = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if look(sub); !sub.HasSubCommands() && sub.IsAvailableCommand() && !strings.HasPrefix(sub.CommandPath(), "forebay completion ") {
				commands = append(commands, sub.CommandPath())
			}
		}
	}
	look(root)
	for path := range withoutServer {
		if !slices.Contains(commands, path) {
			t.Errorf("there is no command %s", path)
		}
	}
	arguments := strings.NewReplacer("[", "", "]", "", "…", "", "...", "", "VERSION", "1", "NODE", "1", "FILE", "new.file", "ID", "019ab3c4-5d6e-7f80-8001-2a3b4c5d6e7f")
	for _, path := range commands {
		if _, local := withoutServer[path]; local {
			continue
		}
		cmd, _, err := root.Find(strings.Fields(path)[1:])
		if err != nil {
			t.Fatal(err)
		}
		words := append(strings.Fields(path)[1:], strings.Fields(arguments.Replace(strings.TrimPrefix(cmd.Use, cmd.Name())))...)
		switch path {
		case "forebay account create":
			words = append(words, "--tier", "basic")
		case "forebay account set":
			words = append(words, "--name", "n")
		case "forebay config diff":
			words = []string{"config", "diff", "1", "2"}
		case "forebay bench":
			words = append(words, "--accounts", "1")
		case "forebay message requeue":
			words = []string{"message", "requeue", "--status", "failed", "--yes"}
		}
		o := run(t, t.TempDir(), nil, append(words, "--server", "http://127.0.0.1:1")...)
		if o.code != 1 || !strings.Contains(o.stderr, "127.0.0.1:1") {
			t.Errorf("%v: %+v", words, o)
		}
	}
}
