package appliance_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink/sinktest"
)

// TestCancelByReferenceWithoutAStore: what has a reference is canceled while the
// database is down and only the log knows it, and is canceled for good.
func TestCancelByReferenceWithoutAStore(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, withWebhooks, appliancetest.WithPostgres(pg.URL()), func(c *config.Config) {
		c.Database.ConnectionTimeout = 2 * time.Second
	})
	hooks := newHookReceiver(t)
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	scheduled := post(t, n, map[string]any{"channel": "webhook", "to": hooks.URL + "/x", "body": "b", "client_ref": "r", "send_at": later})
	awaitStatus(t, n, scheduled, "scheduled")
	pg.Stop(sinktest.Fast)
	ids := []string{scheduled, post(t, n, map[string]any{"channel": "store", "body": "b", "client_ref": "r"}),
		post(t, n, map[string]any{"channel": "webhook", "to": hooks.URL + "/x", "body": "b", "client_ref": "r", "send_at": later})}
	other := post(t, n, map[string]any{"channel": "store", "body": "client_ref r", "client_ref": "rr"})
	cancel := func(ref string) (int, string) {
		return ask(t, n, http.MethodPost, "/v1/messages/cancel?client_ref="+ref, "")
	}
	for range 2 {
		status, text := cancel("r")
		if status != http.StatusOK || !strings.Contains(text, `"canceled":3`) || !strings.Contains(text, `"incomplete":true`) {
			t.Fatalf("cancel without a store: %d %s, want all 3, and that the store was not asked", status, text)
		}
	}
	if status, text := cancel("unheard"); status != http.StatusServiceUnavailable {
		t.Errorf("cancel what may be in the store: %d %s, want 503", status, text)
	}
	pg.Start()
	awaitDrained(t, n.Admin)
	for _, id := range ids {
		awaitStatus(t, n, id, "canceled")
	}
	awaitStatus(t, n, other, "stored")
	if status, text := cancel("r"); status != http.StatusOK || !strings.Contains(text, `"canceled":3`) || strings.Contains(text, "incomplete") {
		t.Errorf("cancel again with the store: %d %s, want 3 and all asked", status, text)
	}
	if len(hooks.got("/x")) != 0 {
		t.Error("what was canceled was sent")
	}
}

// TestClusterCancelByReference: on any node, of all nodes, each with a store of its
// own; and with a node gone that is said.
func TestClusterCancelByReference(t *testing.T) {
	t.Parallel()
	c := appliancetest.StartCluster(t, 3, withWebhooks)
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	accept := func(ref string) (ids []string) {
		for number, n := range c.Nodes {
			ids = append(ids, post(t, n, map[string]any{"channel": "webhook", "to": fmt.Sprintf("http://127.0.0.1:1/%d", number), "body": "b", "client_ref": ref, "send_at": later}))
		}
		return ids
	}
	ids := accept("r")
	on := c.Nodes[c.Followers()[0]]
	status, text := ask(t, on, http.MethodPost, "/v1/messages/cancel?client_ref=r", "")
	if status != http.StatusOK || !strings.Contains(text, `"canceled":3`) || strings.Contains(text, "incomplete") {
		t.Fatalf("cancel on one node: %d %s, want the messages of all 3", status, text)
	}
	for number, n := range c.Nodes {
		for _, id := range ids {
			if v := show(t, n, id); v.Status != "canceled" {
				t.Errorf("on node %d %s is %s", number, id, v.Status)
			}
		}
	}
	accept("again")
	c.Stop(c.Followers()[1])
	status, text = ask(t, on, http.MethodPost, "/v1/messages/cancel?client_ref=again", "")
	if status != http.StatusOK || !strings.Contains(text, `"canceled":2`) || !strings.Contains(text, `"incomplete":true`) {
		t.Errorf("with a node gone: %d %s, want 2, and that there may be more", status, text)
	}
	if status, text = ask(t, on, http.MethodPost, "/v1/messages/cancel?client_ref=unheard", ""); status != http.StatusServiceUnavailable {
		t.Errorf("with a node gone, of what it may have: %d %s, want 503", status, text)
	}
}
