package appliance_test

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"forebay/appliance"
	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
	"forebay/raftstate"
	"forebay/wal/message"
)

// TestClusterOneKeyForAllNodes makes accounts and keys on whichever node, and
// shows them on all, with the leader gone and back, and after all have gone.
func TestClusterOneKeyForAllNodes(t *testing.T) {
	t.Parallel()
	c := appliancetest.StartCluster(t, 3)
	for _, n := range c.Nodes {
		wantAccepted(t, n)
	}
	killed := c.Leader()
	c.Stop(killed)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	follower := c.Nodes[c.Followers()[0]]
	if _, err := follower.Admin.CreateAccount(ctx, admin.CreateAccount{ID: "later", Tier: "basic"}); err != nil {
		t.Fatalf("make an account on a follower: %v", err)
	}
	key, err := follower.Admin.CreateKey(ctx, "later", admin.CreateKey{})
	must(t, "make a key on a follower", err)
	follower.Key = key.Secret
	wantAccepted(t, follower) // at once, on the node where it was made
	c.Start(killed)
	c.Await(key.Secret)
	c.Nodes[killed].Key = key.Secret
	wantAccepted(t, c.Nodes[killed])

	for _, n := range []uint16{1, 2, 3} {
		c.Stop(n)
	}
	c.Start(3, 1, 2)
	c.Await(key.Secret)
	for _, n := range c.Nodes {
		n.Key = key.Secret
		wantAccepted(t, n)
	}
}

func wantAccepted(t *testing.T, n *appliancetest.Node) {
	t.Helper()
	if status, a := submit(t, n, `{"channel":"store","body":"from anywhere"}`); status != 202 {
		t.Errorf("%s: got %d %+v, want 202", n.URL, status, a)
	}
}

// TestClusterAnyMessageOnAnyNode reads messages on the nodes that have not
// accepted them: while they are in the log, once they are in a store that is
// one node's alone, and with that node gone.
func TestClusterAnyMessageOnAnyNode(t *testing.T) {
	t.Parallel()
	c := appliancetest.StartCluster(t, 3)
	ids := map[uint16]string{}
	for number, n := range c.Nodes {
		status, a := submit(t, n, `{"channel":"store","body":"from anywhere"}`)
		if status != http.StatusAccepted {
			t.Fatalf("node %d: got %d", number, status)
		}
		ids[number] = a.ID
	}
	wantEverywhere := func(when string) {
		t.Helper()
		for number, n := range c.Nodes {
			for owner, id := range ids {
				want := http.StatusOK
				if c.Nodes[owner] == nil {
					want = http.StatusServiceUnavailable
				}
				if status, a := get(t, n, "/v1/messages/"+id); status != want || want == http.StatusOK && a.ID != id {
					t.Errorf("%s, on node %d, of node %d: got %d %+v, want %d", when, number, owner, status, a, want)
				}
				if _, err := n.Admin.Message(t.Context(), id); (err == nil) != (want == http.StatusOK) {
					t.Errorf("%s, an operator on node %d, of node %d: %v", when, number, owner, err)
				}
			}
		}
	}
	wantEverywhere("at once")
	for _, n := range c.Nodes {
		awaitDrained(t, n.Admin)
	}
	wantEverywhere("stored")

	// Another account does not see it on any node; nobody sees what is not there.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Nodes[1].Admin.CreateAccount(ctx, admin.CreateAccount{ID: "other", Tier: "basic"})
	must(t, "make an account", err)
	key, err := c.Nodes[1].Admin.CreateKey(ctx, "other", admin.CreateKey{})
	must(t, "make a key", err)
	c.Await(key.Secret)
	for number, n := range c.Nodes {
		stranger := *n
		stranger.Key = key.Secret
		for _, id := range ids {
			if status, _ := get(t, &stranger, "/v1/messages/"+id); status != http.StatusNotFound {
				t.Errorf("another account on node %d: got %d, want 404", number, status)
			}
		}
		nowhere := message.NewID(uint64(time.Now().UnixMilli()), 0, 999, message.Normal, 1).String()
		if status, _ := get(t, n, "/v1/messages/"+nowhere); status != http.StatusNotFound {
			t.Errorf("a message of no node, on node %d: got %d, want 404", number, status)
		}
	}

	c.Stop(c.Followers()[0])
	wantEverywhere("one node gone")
}

// TestClusterStatus: readiness, members and how they are, by the routes and the
// metrics of each node.
func TestClusterStatus(t *testing.T) {
	t.Parallel()
	c := appliancetest.StartCluster(t, 3)
	leader := c.Leader()
	for number, n := range c.Nodes {
		appliancetest.Eventually(t, time.Minute, "every node is seen to be reachable and caught up", func() bool {
			s, err := n.Admin.Cluster(t.Context())
			if err != nil || s.Leader != leader || len(s.Members) != 3 {
				return false
			}
			for _, m := range s.Members {
				if !*m.Reachable || m.Lag == nil || *m.Lag != 0 || (m.Role == "leader") != (m.Node == leader) {
					return false
				}
			}
			return true
		})
		if _, ok := c.Nodes[leader]; !ok {
			t.Fatalf("node %d says node %d leads, which does not run", number, leader)
		}
	}
	gone := c.Followers()[0]
	c.Stop(gone)
	left := c.Nodes[c.Leader()]
	appliancetest.Eventually(t, time.Minute, "the one that is gone is seen to be", func() bool {
		s, err := left.Admin.Cluster(t.Context())
		must(t, "ask for the members", err)
		for _, m := range s.Members {
			if m.Node == gone {
				return !*m.Reachable && m.Lag == nil
			}
		}
		return false
	})
	wantAccepted(t, left)
	if _, err := left.Admin.RemoveMember(t.Context(), strconv.Itoa(int(gone))); err != nil {
		t.Errorf("remove it: %v", err)
	}
	if s, err := left.Admin.Cluster(t.Context()); err != nil || len(s.Members) != 2 {
		t.Errorf("got %+v, %v, want two members", s, err)
	}
	if _, err := left.Admin.RemoveMember(t.Context(), "9"); err == nil {
		t.Error("a node that is no member was removed")
	}
}

// TestClusterCancelOnAnyNode: the node that has a message decides, whichever is
// asked, and all say the same from then on.
func TestClusterCancelOnAnyNode(t *testing.T) {
	t.Parallel()
	c := appliancetest.StartCluster(t, 3)
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	status, waiting := submit(t, c.Nodes[1], `{"channel":"webhook","to":"https://later.invalid/","body":"b","send_at":"`+later+`"}`)
	if status != http.StatusAccepted {
		t.Fatalf("submit: %d", status)
	}
	status, stored := submit(t, c.Nodes[1], `{"channel":"store","body":"b"}`, "Prefer", "wait=30")
	if status != http.StatusCreated {
		t.Fatalf("submit and wait: %d", status)
	}
	for _, number := range []uint16{2, 3, 1, 2} {
		if status, text := ask(t, c.Nodes[number], "POST", "/v1/messages/"+waiting.ID+"/cancel", ""); status != 200 || !strings.Contains(text, `"status":"canceled"`) {
			t.Errorf("cancel on node %d: %d %s, want 200 and canceled", number, status, text)
		}
		if status, text := ask(t, c.Nodes[number], "POST", "/v1/messages/"+stored.ID+"/cancel", ""); status != 409 || !strings.Contains(text, `"not_cancelable"`) {
			t.Errorf("cancel what is stored on node %d: %d %s, want 409", number, status, text)
		}
	}
	for number, n := range c.Nodes {
		if status, text := ask(t, n, "GET", "/v1/messages/"+waiting.ID, ""); status != 200 || !strings.Contains(text, `"status":"canceled"`) {
			t.Errorf("the message on node %d: %d %s, want it canceled", number, status, text)
		}
	}
	c.Stop(1)
	if status, text := ask(t, c.Nodes[2], "POST", "/v1/messages/"+waiting.ID+"/cancel", ""); status != http.StatusServiceUnavailable {
		t.Errorf("cancel with its node gone: %d %s, want 503", status, text)
	}
}

// TestClusterNobodyIsAnsweredTooSoon: nodes ask as soon as the group is open, which is
// before there is anything to answer with.
func TestClusterNobodyIsAnsweredTooSoon(t *testing.T) {
	t.Parallel()
	codes, err := appliance.CallsAtStart(t.Context(), appliancetest.Config(t.TempDir()))
	must(t, "open the group", err)
	for path, code := range codes {
		if code != raftstate.CodeUnknownCall {
			t.Errorf("%s: got %s, want %s", path, code, raftstate.CodeUnknownCall)
		}
	}
}
