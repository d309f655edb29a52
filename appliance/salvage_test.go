package appliance_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
)

// TestDamagedLogProcedure walks the manual's procedure for a damaged log on a
// real process: one bit of a waiting message is flipped, the start is refused
// and names the way on, verify fails and changes nothing, salvage rebuilds, and
// all but the damaged message are there after the next start.
func TestDamagedLogProcedure(t *testing.T) {
	t.Parallel()
	const messages = 30
	dir := filepath.Join(t.TempDir(), "data")
	p := appliancetest.StartProcess(t, dir)
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	id := regexp.MustCompile(`"id":"([^"]+)"`)
	var ids []string
	for i := range messages {
		req, err := http.NewRequest("POST", p.URL+"/v1/messages", strings.NewReader(fmt.Sprintf(`{"channel":"webhook","to":"https://example.org/","send_at":%q,"body":"number-%02d-of-them"}`, later, i)))
		must(t, "make a request", err)
		req.Header.Set("Authorization", "Bearer "+p.Key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := p.Client.Do(req)
		must(t, "submit", err)
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		found := id.FindSubmatch(text)
		if resp.StatusCode != http.StatusAccepted || found == nil {
			t.Fatalf("submit: %s %s", resp.Status, text)
		}
		ids = append(ids, string(found[1]))
	}
	operator := p.Admin()
	defer operator.Close()
	appliancetest.Eventually(t, time.Minute, "all are in the store", func() bool {
		shown, err := operator.Message(t.Context(), ids[messages-1])
		return err == nil && strings.Contains(string(shown), `"stored_at"`)
	})
	p.Kill()
	if n := flip(t, filepath.Join(dir, "wal"), []byte("number-07-of-them")); n == 0 {
		t.Fatal("the message was not found on disk: nothing is damaged")
	}

	p.Spawn()
	if err := p.Wait(); err == nil || !strings.Contains(p.Log(), "forebay wal ") {
		t.Fatalf("the start with a damaged log: %v\n%s", err, p.Log())
	}
	if out, err := p.Command("wal", "verify").CombinedOutput(); err == nil || !strings.Contains(string(out), "`forebay wal salvage` rebuilds it") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	out, err := p.Command("wal", "salvage").CombinedOutput()
	// The id from the log or the store, and the status from the store alone.
	if named := regexp.MustCompile(`(?m)^missing .*the store has it as scheduled, and nothing will deliver it +` + ids[7] + ` +number 8$`); err != nil || !named.Match(out) {
		t.Errorf("salvage does not name what is lost: %v\n%s", err, out)
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, "wal.damaged-*")); len(kept) != 1 {
		t.Errorf("the damaged log is kept in %q, want one directory", kept)
	}
	p.Start()
	for i, id := range ids {
		if out, err := p.Command("message", "show", id).CombinedOutput(); i != 7 && err != nil {
			t.Errorf("message %d after the salvage: %v %s", i, err, out)
		}
	}
}

// flip changes one bit wherever the text stands in files below dir.
func flip(t *testing.T, dir string, text []byte) (changed int) {
	t.Helper()
	must(t, "look for the text", filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for at := 0; ; {
			i := bytes.Index(content[at:], text)
			if i < 0 {
				break
			}
			at += i + len(text)
			content[at-1] ^= 1
			changed++
		}
		if changed > 0 {
			return os.WriteFile(path, content, 0o600)
		}
		return nil
	}))
	return changed
}
