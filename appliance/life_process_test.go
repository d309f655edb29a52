package appliance_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
)

// clientOf is a process as the helpers of the public API take it.
func clientOf(p *appliancetest.Process) *appliancetest.Node {
	return &appliancetest.Node{URL: p.URL, Key: p.Key, Client: p.Client}
}

// webhookProcess is a real process that delivers webhooks to loopback.
func webhookProcess(t *testing.T, w world, more ...string) *appliancetest.Process {
	settings := append([]string{"FOREBAY_CHANNELS_WEBHOOK_ALLOW_CIDRS=[127.0.0.0/8]", "FOREBAY_CHANNELS_WEBHOOK_ALLOW_HTTP=true", "FOREBAY_RATE_LIMITING_ENABLED=false",
		"FOREBAY_CIRCUIT_BREAKER_FAILURE_THRESHOLD=1000", "FOREBAY_DELIVERY_BASE_DELAY=20ms", "FOREBAY_DELIVERY_MAX_DELAY=200ms"}, more...)
	return appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"), w.settings(settings...)...)
}

// TestCancelAgainstTheAttempt: a cancel that comes while its message is about to be
// sent is decided once. What was answered with 200 never arrives and stays canceled,
// also after a kill; what was answered with 409 arrives, once. Canceling again says
// the same again.
func TestCancelAgainstTheAttempt(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		const messages = 300
		seed := seedOf(t)
		random := rand.New(rand.NewPCG(seed, 0))
		hooks := newHookReceiver(t)
		p := webhookProcess(t, w)
		n := clientOf(p)
		ids, answers, waits := make([]string, messages), make([]int, messages), make([]time.Duration, messages)
		for i := range waits {
			waits[i] = time.Duration(random.IntN(150)) * time.Millisecond
		}
		var clients sync.WaitGroup
		for c := range 6 {
			clients.Go(func() {
				for i := c; i < messages; i += 6 {
					if ids[i] = tryPost(p.Target(), map[string]any{"channel": "webhook", "to": fmt.Sprintf("%s/%d", hooks.URL, i), "body": "x"}); ids[i] == "" {
						continue
					}
					<-time.After(waits[i])
					answers[i], _ = ask(t, n, "POST", "/v1/messages/"+ids[i]+"/cancel", "")
				}
			})
		}
		clients.Wait()
		p.Kill()
		p.Start()
		awaitDrained(t, p.Admin())
		canceled, late := 0, 0
		for i, id := range ids {
			again, text := ask(t, n, "POST", "/v1/messages/"+id+"/cancel", "")
			hooks.mu.Lock()
			arrived := hooks.byID[id]
			hooks.mu.Unlock()
			v := show(t, n, id)
			switch {
			case answers[i] == http.StatusOK && again == http.StatusOK && arrived == 0 && v.Status == "canceled" && v.Final:
				canceled++
			case answers[i] == http.StatusConflict && again == http.StatusConflict && strings.Contains(text, `"not_cancelable"`) && arrived >= 1 && v.Status == "delivered":
				late++
			default:
				t.Errorf("%s: cancel answered %d, then %d %s; it arrived %d times and is %s", id, answers[i], again, text, arrived, v.Status)
			}
		}
		t.Logf("%d canceled in time, %d too late", canceled, late)
		if canceled < messages/20 || late < messages/20 {
			t.Errorf("%d canceled in time and %d too late: nothing is proved", canceled, late)
		}
	})
}

// TestTimesOfAMessage: not before send_at, and no attempt at or after the end of
// ttl_seconds, which counts from there; what waits says for what and until when; and
// usage counts what became of all, in JSON and in CSV.
func TestTimesOfAMessage(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		hooks := newHookReceiver(t)
		hooks.fail["/never"] = 1 << 30
		p := webhookProcess(t, w, "FOREBAY_DELIVERY_MAX_ATTEMPTS=100")
		n := clientOf(p)
		at := time.Now().Add(2 * time.Second).UTC().Truncate(time.Millisecond)
		order := func(path string, more map[string]any) string {
			fields := map[string]any{"channel": "webhook", "to": hooks.URL + path, "body": "x"}
			for k, v := range more {
				fields[k] = v
			}
			return post(t, n, fields)
		}
		later := order("/later", map[string]any{"send_at": at.Format(time.RFC3339Nano), "ttl_seconds": 60})
		never := order("/never", map[string]any{"send_at": at.Format(time.RFC3339Nano), "ttl_seconds": 2})
		resting := order("/resting", map[string]any{"send_at": at.Add(time.Hour).Format(time.RFC3339Nano)})
		for _, id := range []string{later, never, resting} {
			v := awaitStatus(t, n, id, "scheduled")
			if v.Hold != "scheduled" || v.Final || id != resting && !v.Next.Equal(at) {
				t.Errorf("%s: %+v, want it to wait for its time, %v", id, v, at)
			}
		}
		var told struct {
			Status    string
			ExpiresAt time.Time `json:"expires_at"`
			FailedAt  time.Time `json:"failed_at"`
			Error     struct{ Code, Category string }
			Attempts  []struct{ At time.Time }
		}
		awaitStatus(t, n, later, "delivered")
		awaitStatus(t, n, never, "expired")
		for id, least := range map[string]int{later: 1, never: 2} {
			_, text := ask(t, n, "GET", "/v1/messages/"+id, "")
			told.Attempts, told.Error.Code = nil, ""
			must(t, "read the message", json.Unmarshal([]byte(text), &told))
			if len(told.Attempts) < least {
				t.Fatalf("%d attempts, want %d at least: nothing is proved", len(told.Attempts), least)
			}
			for _, a := range told.Attempts {
				if a.At.Before(at) || !a.At.Before(told.ExpiresAt) {
					t.Errorf("an attempt at %v, before %v or after %v", a.At, at, told.ExpiresAt)
				}
			}
		}
		if _, text := ask(t, n, "GET", "/v1/messages/"+never, ""); json.Unmarshal([]byte(text), &told) != nil || !told.ExpiresAt.Equal(at.Add(2*time.Second)) || told.FailedAt.Before(told.ExpiresAt) || told.Error.Code == "" {
			t.Errorf("what expired: %s", text)
		}
		if status, text := ask(t, n, "POST", "/v1/messages/"+resting+"/cancel", ""); status != 200 || !strings.Contains(text, `"status":"canceled"`) {
			t.Errorf("cancel what is scheduled: %d %s", status, text)
		}
		awaitDrained(t, p.Admin())
		usageTells(t, n, map[string]int{"delivered": 1, "expired": 1, "canceled": 1})
	})
}

// usageTells holds both forms of the account's usage against what became of its
// webhooks.
func usageTells(t *testing.T, n *appliancetest.Node, want map[string]int) {
	t.Helper()
	status, text := ask(t, n, "GET", "/v1/usage", "")
	var usage struct {
		Total int
		Data  []struct {
			Channel, Status string
			Count           int
		}
	}
	must(t, "read the usage", json.Unmarshal([]byte(text), &usage))
	_, table := ask(t, n, "GET", "/v1/usage?format=csv", "")
	rows, err := csv.NewReader(strings.NewReader(table)).ReadAll()
	must(t, "read the table", err)
	total := 0
	for name, count := range want {
		total += count
		line := []string{"webhook", name, fmt.Sprint(count)}
		inJSON := slices.ContainsFunc(usage.Data, func(d struct {
			Channel, Status string
			Count           int
		}) bool {
			return d.Channel == line[0] && d.Status == line[1] && d.Count == count
		})
		if !inJSON || !slices.ContainsFunc(rows, func(r []string) bool { return slices.Equal(r[1:], line) }) {
			t.Errorf("usage: %d %s\n%s\nwant %v", status, text, table, line)
		}
	}
	if usage.Total != total {
		t.Errorf("usage: %d in all, want %d", usage.Total, total)
	}
}

// TestRequeueCommand: an operator counts what has failed, is asked before anything
// happens, and has it accepted anew at a rate, in lane low unless it says otherwise;
// each once, however often the command runs, and the failed ones stay.
func TestRequeueCommand(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		const messages, rate = 12, 5
		hooks := newHookReceiver(t)
		p := webhookProcess(t, w, "FOREBAY_DELIVERY_MAX_ATTEMPTS=1")
		n := clientOf(p)
		var failed []string
		for i := range messages {
			hooks.mu.Lock()
			hooks.fail[fmt.Sprint("/", i)] = 1
			hooks.mu.Unlock()
			failed = append(failed, post(t, n, map[string]any{"channel": "webhook", "to": fmt.Sprintf("%s/%d", hooks.URL, i), "body": "x", "client_ref": "r"}))
		}
		for _, id := range failed {
			awaitStatus(t, n, id, "failed")
		}
		awaitDrained(t, p.Admin())
		arrived := func() (all int) {
			hooks.mu.Lock()
			defer hooks.mu.Unlock()
			for _, times := range hooks.byID {
				all += times
			}
			return all
		}
		command := func(wantCode int, want string, args ...string) time.Duration {
			t.Helper()
			began := time.Now()
			cmd := p.Command(append([]string{"message", "requeue"}, args...)...)
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != wantCode || !strings.Contains(string(out), want) {
				t.Errorf("forebay message requeue %q: exit code %d\n%swant %d and %q", args, cmd.ProcessState.ExitCode(), out, wantCode, want)
			}
			return time.Since(began)
		}
		filter := []string{"--status", "failed", "--channel", "webhook", "--since", "10m"}
		command(0, "12 messages would be accepted anew.", append(filter, "--dry-run")...)
		command(2, "add --yes, or --dry-run", filter...) // nobody there to ask
		command(0, "0 messages would be accepted anew.", "--status", "failed", "--channel", "email", "--dry-run")
		if _, text := ask(t, n, "GET", "/v1/messages?client_ref=r", ""); strings.Count(text, `"id"`) != messages || arrived() != 0 {
			t.Fatalf("before anybody agreed: %d arrived, %s", arrived(), text)
		}
		took := command(0, "12 messages were accepted anew, 0 had been before.", append(filter, "--yes", "--rate", fmt.Sprint(rate))...)
		if least := (messages - 1) / rate * int(time.Second); took < time.Duration(least) {
			t.Errorf("%d messages at %d a second took %v, want %v at least", messages, rate, took, time.Duration(least))
		}
		command(0, "0 messages were accepted anew, 12 had been before.", append(filter, "--yes", "--rate", "1000")...)
		command(0, "0 messages were accepted anew, 1 had been before.", failed[0], "--yes", "--priority", "high")
		awaitDrained(t, p.Admin())
		_, text := ask(t, n, "GET", "/v1/messages?client_ref=r&limit=100", "")
		var list struct {
			Data []struct{ ID, Status, Priority string }
		}
		must(t, "read the list", json.Unmarshal([]byte(text), &list))
		states := map[string]int{}
		for _, m := range list.Data {
			states[m.Status+" "+m.Priority]++
		}
		if states["failed normal"] != messages || states["delivered low"] != messages || len(list.Data) != 2*messages || arrived() != messages {
			t.Errorf("%v, %d arrived; want %d failed as they were and as many delivered from lane low", states, arrived(), messages)
		}
	})
}
