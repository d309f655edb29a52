package appliance_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/wal/message"
)

// moody is a customer's server that fails the calls of some nodes: a message's id
// says which node it is from.
type moody struct {
	*httptest.Server
	mu     sync.Mutex // guards what follows
	ill    map[uint16]bool
	flying int
	most   int // flying at once
	calls  int
	taken  map[string]int // by message
}

func newMoody(t *testing.T) *moody {
	m := &moody{ill: map[uint16]bool{}, taken: map[string]int{}}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func (m *moody) service() string { return "webhook:" + strings.TrimPrefix(m.URL, "http://") }

func (m *moody) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	id, err := message.ParseID(r.Header.Get("webhook-id"))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.flying++; m.flying > m.most {
		m.most = m.flying
	}
	if m.ill[id.Node()] {
		m.mu.Unlock()
		<-time.After(100 * time.Millisecond) // long enough to meet another
		m.mu.Lock()
		w.WriteHeader(http.StatusServiceUnavailable)
	} else {
		m.taken[id.String()]++
	}
	m.flying--
}

// fails has the calls of these nodes fail, and of no others.
func (m *moody) fails(nodes ...uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ill = map[uint16]bool{}
	for _, n := range nodes {
		m.ill[n] = true
	}
}

// watched begins to count calls anew.
func (m *moody) watched() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls, m.most = 0, m.flying
}

func (m *moody) seen() (calls, most int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls, m.most
}

// TestClusterBreaker is one breaker on three nodes over a real group: a service
// that fails one node alone, then all, is probed by one at a time, and comes back;
// a node that starts meanwhile finds the breaker as it is.
func TestClusterBreaker(t *testing.T) {
	t.Parallel()
	m := newMoody(t)
	c := appliancetest.StartCluster(t, 3, withWebhooks, func(c *config.Config) {
		c.CircuitBreaker = config.CircuitBreaker{FailureThreshold: 3, Timeout: 5 * time.Second, RecoveryTime: 2 * time.Second}
		// However often a message was the probe, its next attempt is due soon.
		c.Delivery.MaxAttempts, c.Delivery.MaxDelay = 100, 5*time.Second
	})
	sent := map[string]uint16{}
	send := func(nodes ...uint16) {
		for _, n := range nodes {
			sent[post(t, c.Nodes[n], map[string]any{"channel": "webhook", "to": m.URL + "/", "body": fmt.Sprint(len(sent))})] = n
		}
	}
	states := func() (text string) {
		for n := uint16(1); n <= 3; n++ {
			if c.Nodes[n] != nil {
				b := breakerIn(t, c.Nodes[n], m.service())
				text += fmt.Sprintf("%d:%s%v ", n, b.State, b.OpenOn)
			}
		}
		return text
	}
	await := func(what string, holds func() bool) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for !holds() {
			if time.Now().After(deadline) {
				t.Fatalf("not within a minute: %s; the breaker: %s", what, states())
			}
			<-time.After(50 * time.Millisecond)
		}
	}
	alert := func(n uint16) string {
		s, err := c.Nodes[n].Admin.Status(t.Context())
		must(t, "ask for the status", err)
		for _, a := range s.Alerts {
			if a.Name == "breaker_open" && a.Subject == m.service() {
				return a.Summary
			}
		}
		return ""
	}

	// One node fails, and the others succeed in the same time.
	m.fails(3)
	send(1, 2, 3)
	await("node 3's breaker is open for it alone, all know so, and the alert names it", func() bool {
		send(1, 2) // who succeeds must say so within the recovery time
		return strings.HasPrefix(states(), "1:closed[3] 2:closed[3] 3:") && !strings.Contains(states(), "3:closed") &&
			strings.Contains(alert(3), "this node (3) alone") && alert(1) == "" && alert(2) == ""
	})
	if b := breakerIn(t, c.Nodes[3], m.service()); !strings.Contains(b.Reason, "503") || !strings.Contains(alert(3), b.Reason) {
		t.Errorf("the reason is %q, and the alert says %q; want both to say 503", b.Reason, alert(3))
	}

	// All fail: one breaker, open for all.
	m.fails(1, 2, 3)
	await("the breaker is open for all", func() bool {
		send(1, 2)
		return openForAll(states())
	})
	m.watched()
	began := time.Now()
	moved := c.Followers()[0]
	generation := breakerIn(t, c.Nodes[moved], m.service()).Generation
	c.Stop(moved)
	c.Start(moved)
	if b := breakerIn(t, c.Nodes[moved], m.service()); b.State == "closed" || b.Generation < generation || b.Reason == "" && b.State == "open" {
		t.Errorf("node %d started anew has the breaker %+v, want it as the group has it", moved, b)
	}
	await("it was probed", func() bool { calls, _ := m.seen(); return calls >= 1 })
	calls, most := m.seen()
	t.Logf("%d probes in %v while it was open for all, at most %d at a time", calls, time.Since(began).Round(time.Millisecond), most)
	if most != 1 {
		t.Errorf("%d calls at a time while the breaker was open for all, want one probe for the whole group", most)
	}
	m.fails()
	await("it is closed for all", func() bool { return states() == "1:closed[] 2:closed[] 3:closed[] " })
	send(1, 2, 3)
	waiting := func() (list []string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for id, n := range sent {
			if m.taken[id] == 0 {
				list = append(list, fmt.Sprintf("%s of node %d", id, n))
			}
		}
		return list
	}
	closed := time.Now()
	await("what was sent before, meanwhile and now is delivered from all nodes", func() bool { return len(waiting()) == 0 })
	t.Logf("%d messages delivered %v after the breaker closed", len(sent), time.Since(closed).Round(time.Millisecond))
}

// openForAll: every node has it open, or half-open for a probe, and none alone.
func openForAll(states string) bool {
	for _, s := range strings.Fields(states) {
		if !strings.HasSuffix(s, ":open[]") && !strings.HasSuffix(s, ":half-open[]") {
			return false
		}
	}
	return true
}

// breakerIn is a breaker as a node lists it; one that it does not know is closed.
func breakerIn(t *testing.T, n *appliancetest.Node, name string) admin.BreakerStatus {
	t.Helper()
	list, err := n.Admin.Breakers(t.Context())
	must(t, "list the breakers", err)
	for _, b := range list {
		if b.Name == name {
			return b
		}
	}
	return admin.BreakerStatus{Name: name, State: "closed"}
}

// TestClusterForcedBreaker: an operator's word on one node is every node's, with
// who said it, and over a restart of all.
func TestClusterForcedBreaker(t *testing.T) {
	t.Parallel()
	c := appliancetest.StartCluster(t, 3)
	want := func(when, state, forced string) {
		t.Helper()
		for number, n := range c.Nodes {
			var b admin.BreakerStatus
			appliancetest.Eventually(t, time.Minute, fmt.Sprintf("%s: node %d has it %s", when, number, state), func() bool {
				b = breakerIn(t, n, "email")
				return b.State == state && b.Forced == forced
			})
			if !strings.HasPrefix(b.ForcedBy, "uid=") || b.ForcedAt.IsZero() {
				t.Errorf("%s: node %d says it was forced by %q at %v, want who did it and when", when, number, b.ForcedBy, b.ForcedAt)
			}
		}
	}
	for _, word := range []struct{ action, state, forced string }{{"open", "open", "open"}, {"close", "closed", "closed"}, {"auto", "closed", ""}, {"open", "open", "open"}} {
		_, err := c.Nodes[c.Followers()[0]].Admin.ForceBreaker(t.Context(), "email", word.action)
		must(t, "force it: "+word.action, err)
		want(word.action, word.state, word.forced)
	}
	for _, n := range []uint16{1, 2, 3} {
		c.Stop(n)
	}
	c.Start(2, 3, 1)
	want("after a restart", "open", "open")
}
