package appliance_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/raftstate/limiter"
)

// withLimits puts the account "small" on a plan of these limits.
func withLimits(window time.Duration, t config.Tier) appliancetest.Option {
	return func(c *config.Config) {
		t.Mode = cmp.Or(t.Mode, "enforce")
		c.RateLimiting.Window = window
		c.RateLimiting.Tiers["small"] = t
	}
}

func smallAccount(t *testing.T, n *appliancetest.Node) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := n.Admin.CreateAccount(ctx, admin.CreateAccount{ID: "small", Tier: "small"})
	must(t, "make an account", err)
	key, err := n.Admin.CreateKey(ctx, "small", admin.CreateKey{})
	must(t, "make a key", err)
	return key.Secret
}

type limitedAnswer struct {
	status     int
	header     http.Header
	Code       string   `json:"code"`
	Violated   []string `json:"violated-policies"`
	RetryAfter int      `json:"retry_after_seconds"`
}

func submitAs(t *testing.T, n *appliancetest.Node, key, path, kind, body string) (limitedAnswer, string) {
	t.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	r, err := http.NewRequestWithContext(t.Context(), method, n.URL+path, strings.NewReader(body))
	must(t, "make a request", err)
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", kind)
	answer, err := n.Client.Do(r)
	if err != nil {
		t.Errorf("submit: %v", err)
		return limitedAnswer{}, ""
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(t, "read an answer", err)
	a := limitedAnswer{status: answer.StatusCode, header: answer.Header}
	if answer.StatusCode >= 400 {
		must(t, "decode "+string(text), json.Unmarshal(text, &a))
	}
	return a, string(text)
}

const storeBody = `{"channel":"store","body":"x"}`

var (
	policyForm = regexp.MustCompile(`^"minute";q=\d+;w=\d+,"burst";q=\d+;w=\d+,"concurrent";q=\d+;qu="concurrent-requests"$`)
	stateForm  = regexp.MustCompile(`^"(minute|burst|concurrent)";r=\d+;t=\d+$`)
)

func TestLimitsAreExactAndRetryAfterSuffices(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, withLimits(3*time.Second, config.Tier{RequestsPerMinute: 20, Burst: 20, Concurrent: 4}))
	key := smallAccount(t, n)
	took := 0
	var refused limitedAnswer
	for range 30 {
		began := time.Now()
		a, text := submitAs(t, n, key, "/v1/messages", "application/json", storeBody)
		if !policyForm.MatchString(a.header.Get("RateLimit-Policy")) || !stateForm.MatchString(a.header.Get("RateLimit")) {
			t.Fatalf("RateLimit-Policy %q, RateLimit %q", a.header.Get("RateLimit-Policy"), a.header.Get("RateLimit"))
		}
		switch a.status {
		case 202:
			took++
		case 429:
			refused = a
		default:
			t.Fatalf("got %d %s after %s", a.status, text, time.Since(began))
		}
		if refused.status != 0 {
			break
		}
	}
	if took < 20 || took > 26 { // more than 20 only by what came back meanwhile
		t.Errorf("%d taken, want 20", took)
	}
	wait, err := strconv.Atoi(refused.header.Get("Retry-After"))
	if err != nil || wait < 1 || wait != refused.RetryAfter || len(refused.Violated) != 1 {
		t.Fatalf("Retry-After %q, problem %+v", refused.header.Get("Retry-After"), refused)
	}
	if left := refused.header.Get("RateLimit"); !strings.Contains(left, ";r=0;") {
		t.Errorf("refused for %s, and RateLimit is %q", refused.Violated, left)
	}
	<-time.After(time.Duration(wait) * time.Second) // what the client is told
	if a, text := submitAs(t, n, key, "/v1/messages", "application/json", storeBody); a.status != 202 {
		t.Errorf("after Retry-After: got %d %s", a.status, text)
	}
	if _, text := submitAs(t, n, key, "/v1/limits", "application/json", ""); !strings.Contains(text, `"plan":"small"`) || !strings.Contains(text, `"remaining"`) {
		t.Errorf("GET /v1/limits: %s", text)
	}
}

// TestTooManyInFlightIsSaidAtOnce: who has as many requests in flight as the plan
// allows is told so, and not after a wait for slots that nobody has.
func TestTooManyInFlightIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	const concurrent = 3
	n := appliancetest.Start(t, withLimits(time.Minute, config.Tier{RequestsPerMinute: 600, Burst: 600, Concurrent: concurrent}))
	key := smallAccount(t, n)
	var unfinished []*io.PipeWriter
	var answers sync.WaitGroup
	for range concurrent {
		body, rest := io.Pipe()
		unfinished = append(unfinished, rest)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.URL+"/v1/messages", body)
		must(t, "make a request", err)
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/json")
		answers.Go(func() {
			answer, err := n.Client.Do(r)
			if err != nil || answer.StatusCode != 202 {
				t.Errorf("a request that was finished late: %v, %+v", err, answer)
				return
			}
			answer.Body.Close()
		})
		_, err = io.WriteString(rest, storeBody[:1])
		must(t, "begin a body", err)
	}
	appliancetest.Eventually(t, 5*time.Second, "all of them are in flight", func() bool {
		_, text := submitAs(t, n, key, "/v1/limits", "", "")
		return strings.Contains(text, fmt.Sprintf(`"in_flight":%d`, concurrent))
	})
	began := time.Now()
	a, text := submitAs(t, n, key, "/v1/messages", "application/json", storeBody)
	if a.status != 429 || a.Code != "too_many_concurrent" || !slices.Equal(a.Violated, []string{"concurrent"}) ||
		a.header.Get("Retry-After") != "1" || !strings.HasPrefix(a.header.Get("RateLimit"), `"concurrent";r=0;`) {
		t.Errorf("one more: got %d %s, %v", a.status, text, a.header)
	}
	if took := time.Since(began); took >= limiter.DefaultWaitLimit {
		t.Errorf("the refusal took %s, which is the wait for slots", took)
	}
	for _, rest := range unfinished {
		_, err := io.WriteString(rest, storeBody[1:])
		must(t, "end a body", errors.Join(err, rest.Close()))
	}
	answers.Wait()
	if a, text := submitAs(t, n, key, "/v1/messages", "application/json", storeBody); a.status != 202 {
		t.Errorf("after them: got %d %s", a.status, text)
	}
}

func TestLimitsChargeABatchByLine(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, withLimits(time.Hour, config.Tier{RequestsPerMinute: 100, Burst: 30, Concurrent: 4}))
	key := smallAccount(t, n)
	_, text := submitAs(t, n, key, "/v1/messages/batch", "application/x-ndjson", strings.Repeat(storeBody+"\n", 50))
	accepted, limited := 0, 0
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.Contains(line, `"status":"accepted"`):
			accepted++
		case strings.Contains(line, `"code":"burst_limited"`) && strings.Contains(line, `"retry_after_seconds"`):
			limited++
		}
	}
	if accepted != 30 || limited != 20 {
		t.Errorf("%d accepted and %d limited, want 30 and 20:\n%s", accepted, limited, text)
	}
	appliancetest.Eventually(t, time.Minute, "the status names it among the busiest, with what it has sent", func() bool {
		status, err := n.Admin.Status(t.Context())
		must(t, "ask for the status", err)
		return slices.Contains(status.Limiter.TopAccounts, admin.TopAccount{Account: "small", Tier: "small", Rate: 30, Limit: 100})
	})
}

// TestClusterOneLimitForAllNodes: scenarios 15 and 6, one hot account on three
// nodes, and a node that is left alone.
func TestClusterOneLimitForAllNodes(t *testing.T) {
	t.Parallel()
	const limit = 60
	c := appliancetest.StartCluster(t, 3, withLimits(time.Hour, config.Tier{RequestsPerMinute: limit, Burst: limit, Concurrent: 30}))
	key := smallAccount(t, c.Nodes[c.Leader()])
	c.Await(key)
	var mu sync.Mutex
	statuses := map[int]int{}
	send := func(n *appliancetest.Node, times int) {
		for range times {
			a, _ := submitAs(t, n, key, "/v1/messages", "application/json", storeBody)
			mu.Lock()
			statuses[a.status]++
			mu.Unlock()
		}
	}
	for _, n := range c.Nodes {
		send(n, 5)
	}
	alone := c.Followers()[0]
	// What the last of the group holds it cannot give back to anybody: it counts as
	// spent for the rest of the window. Nothing else is lost.
	lost := 0
	held, err := c.Nodes[c.Leader()].Admin.Limits(t.Context(), "small")
	must(t, "show the limits", err)
	for _, h := range held.Holdings {
		if h.Node != alone {
			lost += int(h.Tokens)
		}
	}
	for _, node := range []uint16{1, 2, 3} {
		if node != alone {
			c.Stop(node)
		}
	}
	// It may lead until it notices, and rightly lend to itself until then.
	appliancetest.Eventually(t, time.Minute, "the node that is left knows of no leader", func() bool {
		s, err := c.Nodes[alone].Admin.Status(t.Context())
		return err == nil && s.Raft.Leader == 0
	})
	wantReadiness(t, c.Nodes[alone], http.StatusOK, "degraded") // it has its reserve
	before := statuses[202]
	a := limitedAnswer{status: 202}
	for range limit { // its stock, which may be all that is left, and then it does not know
		if a, _ = submitAs(t, c.Nodes[alone], key, "/v1/messages", "application/json", storeBody); a.status != 202 {
			break
		}
		statuses[202]++
	}
	for range 20 { // and never 429: whether the account is over its limit nobody knows
		if a.status != 503 || a.Code != "unavailable" || a.header.Get("Retry-After") == "" {
			t.Errorf("cut off and its stock spent: got %d %s, want 503", a.status, a.Code)
		}
		a, _ = submitAs(t, c.Nodes[alone], key, "/v1/messages", "application/json", storeBody)
	}
	if took := statuses[202] - before; took == 0 {
		t.Error("nothing was taken without the group: the node had no reserve")
	} else {
		t.Logf("%d taken without the group", took)
	}
	for _, node := range []uint16{1, 2, 3} {
		if node != alone {
			c.Start(node)
		}
	}
	c.Await(key)
	var clients sync.WaitGroup
	for _, n := range c.Nodes {
		clients.Go(func() { send(n, limit) })
	}
	clients.Wait()
	// A node that was refused takes that as read for a second, and what another has
	// in stock comes back after one.
	appliancetest.Eventually(t, time.Minute, fmt.Sprintf("all of the plan of %d is used but the %d that were lost", limit, lost), func() bool {
		for _, n := range c.Nodes {
			send(n, 1)
		}
		return statuses[202] >= limit-lost
	})
	for _, n := range c.Nodes {
		send(n, limit/4)
	}
	if got := statuses[202]; got > limit {
		t.Errorf("%d taken by all nodes, want at most %d: %v", got, limit, statuses)
	}
	t.Logf("%d of %d taken, %d were lost with the nodes that stopped: %v", statuses[202], limit, lost, statuses)
}
