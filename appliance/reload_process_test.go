package appliance_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
)

// TestReloadCommands walks the ways in which a real process is told: the file
// alone, SIGHUP, and the commands, with their exit codes.
func TestReloadCommands(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "forebay.yaml")
	write := func(text string) { must(t, "write the configuration", os.WriteFile(file, []byte(text), 0o600)) }
	write("http: {max_body_bytes: 2KiB}\n")
	p := appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"), "FOREBAY_CONFIG="+file)
	takes := func(size, status int) bool {
		req, _ := http.NewRequest("POST", p.URL+"/v1/messages", strings.NewReader(fmt.Sprintf(`{"channel":"store","body":%q}`, strings.Repeat("x", size))))
		req.Header.Set("Authorization", "Bearer "+p.Key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := p.Client.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == status
	}
	if !takes(4000, http.StatusRequestEntityTooLarge) {
		t.Fatal("the first configuration is not in force")
	}
	write("http: {max_body_bytes: 8KiB}\n")
	appliancetest.Eventually(t, 30*time.Second, "the changed file is in force", func() bool { return takes(4000, http.StatusAccepted) })
	write("http: {max_body_bytes: 16KiB}\n")
	p.Signal(syscall.SIGHUP)
	appliancetest.Eventually(t, 30*time.Second, "SIGHUP, or the watch, puts the file in force", func() bool { return takes(12000, http.StatusAccepted) })

	out, err := p.Command("config", "history", "--output", "json").CombinedOutput()
	var history admin.ConfigHistory
	must(t, "history: "+string(out), err)
	must(t, "read the history", json.Unmarshal(out, &history))
	first := history.Data[len(history.Data)-1]
	if len(history.Data) != 3 || first.Source != "start" || history.Data[1].Source != "file" || !strings.Contains(history.Data[1].Who, "forebay.yaml of uid=") {
		t.Errorf("history: %s", out)
	}

	write("http: {max_bdy_bytes: 1KiB}\n")
	out, err = p.Command("config", "reload").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "did you mean http.max_body_bytes?") || !takes(12000, http.StatusAccepted) {
		t.Errorf("reload of an invalid file: %v\n%s", err, out)
	}
	out, err = p.Command("config", "rollback", fmt.Sprint(first.Version)).CombinedOutput()
	if err != nil || !takes(4000, http.StatusRequestEntityTooLarge) {
		t.Errorf("rollback: %v\n%s", err, out)
	}
	out, err = p.Command("config", "diff", fmt.Sprint(first.Version), fmt.Sprint(first.Version+1)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "http.max_body_bytes") || !strings.Contains(string(out), "8KiB") {
		t.Errorf("diff: %v\n%s", err, out)
	}
	out, err = p.Command("config", "show").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "max_body_bytes: 2KiB") || !strings.Contains(string(out), "otherwise: http.max_body_bytes") {
		t.Errorf("show: %v\n%s", err, out)
	}
	write("http: {max_body_bytes: 4KiB}\nenvironment: staging\n")
	out, err = p.Command("config", "reload").CombinedOutput()
	if err != nil || !takes(3000, http.StatusAccepted) || !strings.Contains(string(out), `environment is "staging" and there is no `) {
		t.Errorf("reload: %v\n%s", err, out)
	}
}

// TestReloadLog: a real process logs from the level on, and in the format, that
// the file says last.
func TestReloadLog(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "forebay.yaml")
	write := func(text string) { must(t, "write the configuration", os.WriteFile(file, []byte(text), 0o600)) }
	write("log: {level: error, format: json}\n")
	p := appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"), "FOREBAY_CONFIG="+file)
	asks := func(words ...string) {
		t.Helper()
		if out, err := p.Command(words...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", words, err, out)
		}
	}
	asks("config", "history")
	if log := p.Log(); log != "" {
		t.Errorf("at level error it logs\n%s", log)
	}
	write("log: {level: debug, format: text}\n")
	asks("config", "reload")
	asks("config", "history")
	appliancetest.Eventually(t, 30*time.Second, "it logs what level debug has, as text", func() bool {
		return strings.Contains(p.Log(), `level=DEBUG msg="admin: request"`)
	})
	write("log: {level: info, format: json}\n")
	asks("config", "reload")
	asks("account", "suspend", "acme")
	appliancetest.Eventually(t, 30*time.Second, "it logs what level info has, as JSON", func() bool {
		return strings.Contains(p.Log(), `"level":"INFO","msg":"admin: change"`)
	})
}

// TestReloadBodiesTooLargeForTheLog: bodies for which the log's memtables are too
// small, and which a restart with more memory would take, are refused by name, and
// nothing else of that change is applied.
func TestReloadBodiesTooLargeForTheLog(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "forebay.yaml")
	write := func(text string) { must(t, "write the configuration", os.WriteFile(file, []byte(text), 0o600)) }
	write("node: 1\nmemory: {limit: 192MiB}\n")
	p := appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"), "FOREBAY_CONFIG="+file)
	write("node: 1\nmemory: {limit: 1GiB}\nhttp: {max_body_bytes: 960KiB}\nbuffer: {batch_size: 500}\n")
	c := p.Admin()
	defer c.Close()
	r, err := c.ReloadConfig(t.Context())
	must(t, "reload", err)
	if said := fmt.Sprint(r.Detail, r.Rejected); r.Outcome == admin.ConfigApplied || len(r.Applied) != 0 || !strings.Contains(said, "http.max_body_bytes") || !strings.Contains(said, "restart") {
		t.Errorf("%+v", r)
	}
	ledger := appliancetest.NewLedger()
	for size, want := range map[int]int{200_000: http.StatusAccepted, 400_000: http.StatusRequestEntityTooLarge} {
		answer := ledger.Submit(p.Target(), appliancetest.Submission{Ref: fmt.Sprint(size), Body: strings.Repeat("x", size)})
		if answer.Status != want {
			t.Errorf("a body of %d bytes: %d, want %d", size, answer.Status, want)
		}
	}
}
