package appliance_test

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
)

// TestEmergencyProcedures walks, on a real process and with the manual's own
// commands (packaging/doc/emergency.md), what an operator does about a leaked
// key, a client that runs away, a leaked webhook secret and a service that must
// not be called. The rest has tests of its own
// (TestAlertsOfAFullDisk, TestReloadCommands, TestDamagedLogProcedure,
// TestLostQuorumProcedure, TestDatabaseGoneProcedure).
func TestEmergencyProcedures(t *testing.T) {
	t.Parallel()
	p := appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"))
	forebay := func(line string) string {
		t.Helper()
		out, err := p.Command(strings.Fields(line)...).Output()
		must(t, "forebay "+line, err)
		return strings.TrimSpace(string(out))
	}
	sends := func(key string) int {
		req, err := http.NewRequest("POST", p.URL+"/v1/messages", strings.NewReader(`{"channel":"store","body":"b"}`))
		must(t, "make a request", err)
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := p.Client.Do(req)
		must(t, "submit", err)
		resp.Body.Close()
		return resp.StatusCode
	}
	becomes := func(what, key string, status int) {
		t.Helper()
		appliancetest.Eventually(t, 10*time.Second, what, func() bool { return sends(key) == status })
	}

	// A client runs away.
	becomes("the client is served", p.Key, http.StatusAccepted)
	forebay("account suspend acme")
	becomes("a suspended client is refused", p.Key, http.StatusForbidden)
	forebay("account resume acme")
	becomes("it is served again", p.Key, http.StatusAccepted)

	// A key has leaked.
	fresh := forebay("key create acme --label replacement")
	becomes("the replacement works before the old one is revoked", fresh, http.StatusAccepted)
	var list struct {
		Data []struct{ ID, Label string }
	}
	must(t, "read the keys", json.Unmarshal([]byte(forebay("key list acme --output json")), &list))
	leaked := slices.DeleteFunc(list.Data, func(k struct{ ID, Label string }) bool { return k.Label == "replacement" })
	if len(leaked) != 1 {
		t.Fatalf("keys: %+v", list.Data)
	}
	forebay("key revoke " + leaked[0].ID)
	becomes("the leaked key is refused", p.Key, http.StatusUnauthorized)
	if got := sends(fresh); got != http.StatusAccepted {
		t.Errorf("the replacement: %d", got)
	}
	old := forebay("account secret show acme")
	rotated := forebay("account secret rotate acme")
	if !strings.HasPrefix(rotated, "whsec_") || rotated == old || forebay("account secret show acme") != rotated {
		t.Errorf("the webhook secret was not rotated: %v", rotated == old)
	}

	// A service must not be called now.
	forebay("breaker open whatsapp")
	if out := forebay("breaker list"); !strings.Contains(out, "open by uid=") {
		t.Errorf("breaker list:\n%s", out)
	}
	appliancetest.Eventually(t, 30*time.Second, "the status names the breaker and what to do", func() bool {
		out := forebay("status")
		return strings.Contains(out, "breaker_forced whatsapp, since ") && strings.Contains(out, "→ When it should watch again: `forebay breaker auto whatsapp`.")
	})
	forebay("breaker auto whatsapp")
	if out := forebay("breaker list"); strings.Contains(out, "open by") {
		t.Errorf("breaker list, after auto:\n%s", out)
	}
	if out := forebay("audit"); !strings.Contains(out, "missing   0") {
		t.Errorf("audit:\n%s", out)
	}
}
