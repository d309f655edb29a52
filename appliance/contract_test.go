package appliance_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/sink/sinktest"
)

// statusContract is what the status promises to have, by the names that scripts
// and the page read: [] is any element of a list that has one, * any name.
var statusContract = strings.Fields(`
	node version uptime health pressure.level pressure.signals[].name
	intake.rate intake.accepted_total intake.refused.* intake.latency.p50 intake.latency.p90 intake.latency.p99
	log.backlog.critical log.backlog.high log.backlog.normal log.backlog.low log.oldest_age_seconds log.disk_bytes log.append_latency.p99
	store.kind store.rate store.batch_size store.latency.p99 store.pool.max store.down_since
	channels[].name channels[].rate channels[].breaker channels[].queued channels[].parked channels[].failed
	limiter.leases limiter.commands_per_second limiter.top_accounts[].account
	raft.role raft.term raft.leader raft.members[].node raft.members[].address raft.members[].role raft.members[].reachable raft.members[].lag
	config.version config.loaded_at config.drift
	alerts[].name alerts[].severity alerts[].since alerts[].what_to_do`)

// readyContract is what /readyz promises to have.
var readyContract = strings.Fields(`status checks.wal.status checks.store.status checks.raft.status checks.memory.status checks.disk.status checks.breakers.webhook.state`)

// has reports whether the JSON value has what the path names.
func has(v any, path string) bool {
	if path == "" {
		return v != nil
	}
	if rest, ok := strings.CutPrefix(path, "[]"); ok {
		list, _ := v.([]any)
		for _, element := range list {
			if has(element, strings.TrimPrefix(rest, ".")) {
				return true
			}
		}
		return false
	}
	object, _ := v.(map[string]any)
	name, rest := path, ""
	if i := strings.IndexAny(path, ".["); i >= 0 {
		name, rest = path[:i], strings.TrimPrefix(path[i:], ".")
	}
	if name == "*" {
		return len(object) > 0
	}
	value, ok := object[name]
	return ok && has(value, rest)
}

// lacking are the paths that a body does not have.
func lacking(body []byte, paths []string) (missing []string) {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return paths
	}
	for _, path := range paths {
		if !has(v, path) {
			missing = append(missing, path)
		}
	}
	return missing
}

// TestStatusKeepsTheContract reads what a leader whose database is down says of
// itself, as a script would: without the types that wrote it. The feed sends the
// same.
func TestStatusKeepsTheContract(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	c := appliancetest.StartCluster(t, 3, appliancetest.WithPostgres(pg.URL()))
	n := c.Nodes[c.Leader()]
	read := func(url string) []byte {
		resp, err := n.Client.Get(url)
		must(t, "ask "+url, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, "read "+url, err)
		return body
	}
	if status, _ := submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=30"); status != http.StatusCreated {
		t.Fatalf("a message before the outage: %d", status)
	}
	if status, _ := submit(t, n, `{"channel":"nowhere"}`); status != http.StatusUnprocessableEntity {
		t.Fatalf("a message that is none: %d", status)
	}
	if got := lacking(read(n.OpsURL+"/status.json"), statusContract); len(got) == 0 {
		t.Error("the control: nothing is lacking though no alert fires and the database is up")
	}
	pg.Stop(sinktest.Fast)
	var missing []string
	for deadline := time.Now().Add(time.Minute); ; {
		if missing = lacking(read(n.OpsURL+"/status.json"), statusContract); len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("/status.json lacks %q", missing)
		}
		<-time.After(100 * time.Millisecond)
	}
	if missing := lacking(read(n.URL+"/readyz"), readyContract); len(missing) > 0 {
		t.Errorf("/readyz lacks %q", missing)
	}
}
