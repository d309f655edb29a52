package appliance_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/appliance"
	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// sendUntil sends messages of a key to a node until an answer is not 202, at most
// n, and returns how many were and that answer.
func sendUntil(t *testing.T, node *appliancetest.Node, key string, n int) (taken int, last limitedAnswer) {
	t.Helper()
	for taken < n {
		if last, _ = submitAs(t, node, key, "/v1/messages", "application/json", storeBody); last.status != http.StatusAccepted {
			return taken, last
		}
		taken++
	}
	return taken, last
}

// TestClusterRefusesWithoutQuorum: rate_limiting.without_quorum: refuse. A node
// that is left alone takes nothing, whatever it holds, and says 503 and not 429;
// with the others back it goes on.
func TestClusterRefusesWithoutQuorum(t *testing.T) {
	t.Parallel()
	c := appliancetest.StartCluster(t, 3, withLimits(time.Hour, config.Tier{RequestsPerMinute: 1000, Burst: 1000, Concurrent: 30}),
		func(c *config.Config) { c.RateLimiting.WithoutQuorum = "refuse" })
	key := smallAccount(t, c.Nodes[c.Leader()])
	c.Await(key)
	alone := c.Followers()[0]
	n := c.Nodes[alone]
	if taken, last := sendUntil(t, n, key, 5); taken != 5 {
		t.Fatalf("with the group: %d of 5 taken, then %d %s", taken, last.status, last.Code)
	}
	// Else that it refuses would say nothing.
	appliancetest.Eventually(t, time.Minute, "the node holds something", func() bool {
		held, err := n.Admin.Limits(t.Context(), "small")
		must(t, "show the limits", err)
		return slices.ContainsFunc(held.Holdings, func(h admin.HoldingView) bool { return h.Node == alone && h.Tokens > 0 })
	})
	gone := []uint16{}
	for _, node := range []uint16{1, 2, 3} {
		if node != alone {
			gone = append(gone, node)
			c.Stop(node)
		}
	}
	appliancetest.Eventually(t, time.Minute, "the node that is left refuses", func() bool {
		a, _ := submitAs(t, n, key, "/v1/messages", "application/json", storeBody)
		return a.status != http.StatusAccepted
	})
	for range 20 {
		a, text := submitAs(t, n, key, "/v1/messages", "application/json", storeBody)
		if a.status != http.StatusServiceUnavailable || a.Code != "unavailable" || a.header.Get("Retry-After") == "" {
			t.Fatalf("without the group: got %d %s, want 503 unavailable", a.status, text)
		}
	}
	wantReadiness(t, n, http.StatusServiceUnavailable, "unready")
	c.Start(gone...)
	appliancetest.Eventually(t, time.Minute, "with the group back it takes again", func() bool {
		a, _ := submitAs(t, n, key, "/v1/messages", "application/json", storeBody)
		return a.status == http.StatusAccepted
	})
	wantReadiness(t, n, http.StatusOK, "ready")
}

// wantReadiness waits for what /readyz says to a load balancer.
func wantReadiness(t *testing.T, n *appliancetest.Node, status int, word string) {
	t.Helper()
	appliancetest.Eventually(t, 30*time.Second, fmt.Sprintf("/readyz says %d %s", status, word), func() bool {
		got, r := readiness(t, n)
		return got == status && r.Status == word
	})
}

// TestLimitsSwitchedOffAndOn: rate_limiting.enabled while the appliance runs. Off,
// nothing is limited and no answer speaks of limits; on again, what was spent before
// still counts.
func TestLimitsSwitchedOffAndOn(t *testing.T) {
	t.Parallel()
	const limit = 5
	text := fmt.Sprintf("rate_limiting: {enabled: %%v, window: 1h, tiers: {small: {requests_per_minute: %d, burst: %[1]d, concurrent: 9}}}\n", limit)
	f := appliancetest.NewFile(t, fmt.Sprintf(text, true))
	n := appliancetest.StartFile(t, f, func(o *appliance.Options) { o.Unwatched = true })
	key := smallAccount(t, n)
	if taken, last := sendUntil(t, n, key, limit+1); taken != limit || last.status != http.StatusTooManyRequests {
		t.Fatalf("%d taken, then %d, want %d and 429", taken, last.status, limit)
	}
	set := func(on bool, mode string) {
		t.Helper()
		f.Write(fmt.Sprintf(text, on))
		if r := reload(t, n); r.Outcome != admin.ConfigApplied {
			t.Fatalf("reload: %+v", r)
		}
		if _, text := submitAs(t, n, key, "/v1/limits", "", ""); !strings.Contains(text, `"mode":"`+mode+`"`) {
			t.Errorf("GET /v1/limits: %s, want mode %s", text, mode)
		}
	}
	set(false, "off")
	if taken, last := sendUntil(t, n, key, 4*limit); taken != 4*limit || len(last.header["Ratelimit"]) > 0 || len(last.header["Ratelimit-Policy"]) > 0 {
		t.Errorf("switched off: %d taken, then %d with %v", taken, last.status, last.header)
	}
	set(true, "enforce")
	if a, text := submitAs(t, n, key, "/v1/messages", "application/json", storeBody); a.status != http.StatusTooManyRequests {
		t.Errorf("on again: got %d %s, want 429: what was spent counts", a.status, text)
	}
}

// TestClusterCountsAlone: rate_limiting.distributed: false. Each node counts by
// itself, so three nodes give three times the plan, and none more than it.
func TestClusterCountsAlone(t *testing.T) {
	t.Parallel()
	const limit = 12
	c := appliancetest.StartCluster(t, 3, withLimits(time.Hour, config.Tier{RequestsPerMinute: limit, Burst: limit, Concurrent: 30}),
		func(c *config.Config) { c.RateLimiting.Distributed = false })
	key := smallAccount(t, c.Nodes[c.Leader()])
	c.Await(key)
	takings := appliancetest.NewTakings()
	for number, n := range c.Nodes {
		target := n.Target()
		target.Key = key
		for i := range limit + 3 {
			a := takings.Submit(target, int(number))
			if want := http.StatusAccepted; i < limit && a.Status != want {
				t.Errorf("node %d, message %d: got %d %s, want %d", number, i+1, a.Status, a.Code, want)
			}
			if i >= limit && a.Status != http.StatusTooManyRequests {
				t.Errorf("node %d, message %d: got %d, want 429", number, i+1, a.Status)
			}
		}
		s, err := n.Admin.Status(t.Context())
		must(t, "ask for the status", err)
		if s.Limiter.Mode != "local" {
			t.Errorf("node %d: the limiter is %q, want local", number, s.Limiter.Mode)
		}
	}
	// The checker that other tests hold against a shared limit finds what these did.
	if err := takings.Check(time.Hour, limit, 3*limit); err == nil || !strings.Contains(err.Error(), "accepted within") {
		t.Errorf("three times the limit, and the checker says %v", err)
	}
}

// TestShadowRefusesNothing: scenario 27, over HTTP. A plan of mode shadow counts
// what it would refuse, and refuses nothing.
func TestShadowRefusesNothing(t *testing.T) {
	t.Parallel()
	const limit, sent, inBatch = 5, 20, 10
	n := appliancetest.Start(t, withLimits(time.Hour, config.Tier{RequestsPerMinute: limit, Burst: limit, Concurrent: 2, Mode: "shadow"}))
	key := smallAccount(t, n)
	for i := range sent {
		if a, text := submitAs(t, n, key, "/v1/messages", "application/json", storeBody); a.status != http.StatusAccepted {
			t.Fatalf("message %d: got %d %s", i+1, a.status, text)
		}
	}
	_, text := submitAs(t, n, key, "/v1/messages/batch", "application/x-ndjson", strings.Repeat(storeBody+"\n", inBatch))
	if got := strings.Count(text, `"status":"accepted"`); got != inBatch {
		t.Errorf("%d of %d lines accepted:\n%s", got, inBatch, text)
	}
	if _, text := submitAs(t, n, key, "/v1/limits", "application/json", ""); !strings.Contains(text, `"mode":"shadow"`) {
		t.Errorf("GET /v1/limits: %s", text)
	}
	v, err := n.Admin.Limits(t.Context(), "small")
	must(t, "show the limits", err)
	// The group tells a moment later of messages for which the node did not know.
	want := float64(sent + inBatch - limit)
	appliancetest.Eventually(t, 10*time.Second, "what is over the limit has been counted", func() bool { return decisions(t, n, "shadow") >= want })
	if over := decisions(t, n, "shadow"); !v.Shadow || over != want {
		t.Errorf("shadow %v, %v counted as over the limit of %d messages, want %v", v.Shadow, over, limit, want)
	}
	if got := decisions(t, n, "rate") + decisions(t, n, "burst") + decisions(t, n, "concurrent"); got != 0 {
		t.Errorf("%v refused", got)
	}
}

// decisions is what a node's metrics say of its limiter's decisions.
func decisions(t *testing.T, n *appliancetest.Node, outcome string) float64 {
	t.Helper()
	return metric(t, n, `forebay_limiter_decisions_total{outcome="`+outcome+`"}`)
}

// TestClusterPlanChangesEverywhere: an account is put on another plan, and every
// node holds it to that within a second; lowered, nothing is forgotten that was spent.
// (The bucket of a burst that was used up fills at the new pace, here 500/s.)
func TestClusterPlanChangesEverywhere(t *testing.T) {
	t.Parallel()
	c := appliancetest.StartCluster(t, 3, withLimits(time.Minute, config.Tier{RequestsPerMinute: 9, Burst: 9, Concurrent: 30}), func(c *config.Config) {
		c.RateLimiting.Tiers["large"] = config.Tier{RequestsPerMinute: 30000, Burst: 3000, Concurrent: 30, Mode: "enforce"}
	})
	key := smallAccount(t, c.Nodes[c.Leader()])
	c.Await(key)
	by := c.Nodes[c.Followers()[0]]
	for number, n := range c.Nodes { // warm and used up everywhere
		if _, last := sendUntil(t, n, key, 20); last.status != http.StatusTooManyRequests {
			t.Fatalf("node %d: got %d %s, want the small plan to be used up", number, last.status, last.Code)
		}
	}
	fastest := time.Minute // of all changes: how fast a busy machine is says nothing
	change := func(tier string, status int) {
		t.Helper()
		began := time.Now()
		_, err := by.Admin.PatchAccount(t.Context(), "small", admin.PatchAccount{Tier: &tier})
		must(t, "change the plan", err)
		for number, n := range c.Nodes {
			var a limitedAnswer
			appliancetest.Eventually(t, 20*time.Second, fmt.Sprintf("node %d answers %d on plan %s", number, status, tier), func() bool {
				a, _ = submitAs(t, n, key, "/v1/messages", "application/json", storeBody)
				return a.status == status
			})
		}
		took := time.Since(began)
		fastest = min(fastest, took)
		t.Logf("plan %s in force on three nodes after %v", tier, took.Round(time.Millisecond))
	}
	change("large", http.StatusAccepted)
	for _, n := range c.Nodes {
		if taken, last := sendUntil(t, n, key, 5); taken != 5 {
			t.Errorf("on the large plan %d of 5 taken, then %d %s", taken, last.status, last.Code)
		}
	}
	change("small", http.StatusTooManyRequests)
	change("large", http.StatusAccepted)
	change("small", http.StatusTooManyRequests)
	if fastest >= time.Second {
		t.Errorf("the fastest of four changes was in force on all nodes after %v, want under a second", fastest)
	}
	for number, n := range c.Nodes {
		if a, text := submitAs(t, n, key, "/v1/messages", "application/json", storeBody); a.status != http.StatusTooManyRequests {
			t.Errorf("node %d on the small plan again: got %d %s, want 429: what was spent counts", number, a.status, text)
		}
	}
}

// reloadRates is what the cluster's load comes to in TestClusterReload: clients on
// each node, and the pause of each between two messages.
const (
	reloadClients = 12
	reloadPause   = 15 * time.Millisecond
)

// TestClusterReload changes a limit in the files of a cluster under load and
// reloads one node: all three hold accounts to it, and no request fails.
func TestClusterReload(t *testing.T) {
	t.Parallel()
	tiers := func(limit int) string {
		return fmt.Sprintf("rate_limiting: {window: 1h, tiers: {development: {requests_per_minute: 100000000, burst: 1000000, concurrent: 100000}, "+
			"small: {requests_per_minute: %d, burst: %d, concurrent: 30}}}\n", limit, limit)
	}
	c, files := appliancetest.StartFileCluster(t, 3, tiers(9))
	key := smallAccount(t, c.Nodes[c.Leader()])
	c.Await(key)
	load := appliancetest.NewTakings()
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	began := time.Now()
	for number, n := range c.Nodes {
		clients.Go(func() { load.Load(ctx, n.Target(), int(number), reloadClients, reloadPause) })
	}
	defer clients.Wait()
	defer stop()
	appliancetest.Eventually(t, time.Minute, "the load is there", func() bool { return load.Count("202") > 1000 })
	by := c.Followers()[0]
	for _, limit := range []int{4000, 6} {
		for _, f := range files {
			f.Write(tiers(limit))
		}
		asked := time.Now()
		r := reload(t, c.Nodes[by])
		answered := time.Since(asked)
		if r.Outcome != admin.ConfigApplied || len(r.Rejected) > 0 {
			t.Fatalf("reload: %+v", r)
		}
		for number, n := range c.Nodes {
			appliancetest.Eventually(t, 20*time.Second, fmt.Sprintf("node %d holds to the new limit", number), func() bool {
				a, _ := submitAs(t, n, key, "/v1/messages", "application/json", storeBody)
				return (a.status == http.StatusAccepted) == (limit == 4000) && strings.Contains(a.header.Get("RateLimit-Policy"), fmt.Sprintf(`"minute";q=%d;`, limit))
			})
		}
		t.Logf("limit %d: reload answered after %v, three nodes hold to it after %v (target under 1s)",
			limit, answered.Round(time.Millisecond), time.Since(asked).Round(time.Millisecond))
		if limit == 4000 {
			for _, n := range c.Nodes {
				sendUntil(t, n, key, 20) // so that six are spent when six are the limit
			}
		}
	}
	appliancetest.Eventually(t, time.Minute, "the load goes on", func() bool { return load.Count("202") > 3000 })
	stop()
	clients.Wait()
	took := time.Since(began)
	t.Logf("%d requests, %.0f a second: %s", load.Count("202"), float64(load.Count("202"))/took.Seconds(), load.Summary())
	if want := fmt.Sprintf("map[202:%d]", load.Count("202")); load.Summary() != want {
		t.Errorf("got %s, want every request of the load accepted", load.Summary())
	}
}

// TestWindowOfANodeThatCountsAlone: the window of rate_limiting.distributed: false
// is the node's own, and a reload changes it: who was over the limit for an hour
// is let in within seconds.
func TestWindowOfANodeThatCountsAlone(t *testing.T) {
	t.Parallel()
	const limit = 5
	text := fmt.Sprintf("rate_limiting: {distributed: false, window: %%s, tiers: {small: {requests_per_minute: %d, burst: %[1]d, concurrent: 9}}}\n", limit)
	f := appliancetest.NewFile(t, fmt.Sprintf(text, "1h"))
	n := appliancetest.StartFile(t, f, func(o *appliance.Options) { o.Unwatched = true })
	key := smallAccount(t, n)
	if _, last := sendUntil(t, n, key, limit+1); last.status != http.StatusTooManyRequests {
		t.Fatalf("message %d in an hour: got %d, want 429", limit+1, last.status)
	}
	f.Write(fmt.Sprintf(text, "1s"))
	if r := reload(t, n); r.Outcome != admin.ConfigApplied || !slices.Contains(keys(r.Applied), "rate_limiting.window") {
		t.Fatalf("reload: %+v", r)
	}
	appliancetest.Eventually(t, 30*time.Second, "it is let in", func() bool {
		a, _ := submitAs(t, n, key, "/v1/messages", "application/json", storeBody)
		return a.status == http.StatusAccepted
	})
	if drift := running(t, n).Drift; len(drift) > 0 {
		t.Errorf("drift %q", drift)
	}
}
