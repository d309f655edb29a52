package appliance_test

import (
	"context"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
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
