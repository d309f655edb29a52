package appliance_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink/sinktest"
)

// listed is what GET /v1/messages answers, by id, each as it was sent.
func listed(t *testing.T, n *appliancetest.Node, query url.Values) map[string]string {
	t.Helper()
	all := map[string]string{}
	for query = maps.Clone(query); ; {
		status, text := ask(t, n, http.MethodGet, "/v1/messages?"+query.Encode(), "")
		var page struct {
			Data []json.RawMessage
			More bool   `json:"has_more"`
			Next string `json:"next_cursor"`
		}
		if err := json.Unmarshal([]byte(text), &page); err != nil || status != http.StatusOK {
			t.Fatalf("list %v: %d %s", query, status, text)
		}
		for _, m := range page.Data {
			var v struct{ ID string }
			must(t, "read a message", json.Unmarshal(m, &v))
			all[v.ID] = string(m)
		}
		if !page.More {
			return all
		}
		query.Set("cursor", page.Next)
	}
}

// blocking is a receiver that answers nothing until it is let go.
func blocking(t *testing.T) (address string, letGo func()) {
	held := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-held }))
	released := false
	letGo = func() {
		if !released {
			released = true
			close(held)
		}
	}
	t.Cleanup(func() { letGo(); server.Close() })
	return server.URL, letGo
}

func withPatience(c *config.Config) {
	c.Channels.Webhook.Timeout, c.CircuitBreaker.Timeout = time.Minute, time.Minute
	c.Delivery.BaseDelay, c.Delivery.MaxDelay = time.Hour, time.Hour // a try that failed is the last of this test
}

// TestListTellsWhatIsTrueNow: what is listed, and under which status, is what is told
// of the one message, also where the store was told something else and nothing since:
// a message whose time has come, one that is being sent, and one that waits for
// another try.
func TestListTellsWhatIsTrueNow(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		options := []appliancetest.Option{withWebhooks, withPatience}
		if w.pg != nil {
			options = append(options, appliancetest.WithPostgres(w.pg.URL()))
		}
		n := appliancetest.Start(t, options...)
		r, failing := newHookReceiver(t), map[string]any{"channel": "webhook", "body": "b", "client_ref": "r"}
		slow, letGo := blocking(t)
		slowLater, letGoLater := blocking(t) // a host of which nothing is known gets one call at a time
		r.fail["/due"], r.fail["/retry"] = 1000, 1000
		accept := func(to string, in time.Duration) string {
			fields := maps.Clone(failing)
			fields["to"] = to
			if in > 0 {
				fields["send_at"] = time.Now().Add(in).UTC().Format(time.RFC3339Nano)
			}
			return post(t, n, fields)
		}
		want := map[string]string{
			accept(r.URL+"/due", 2*time.Second): "queued",
			accept(r.URL+"/later", time.Hour):   "scheduled",
			accept(r.URL+"/retry", 0):           "queued",
			accept(slow, 0):                     "sending",
			accept(slowLater, time.Second):      "sending",
			accept(r.URL+"/ok", 0):              "delivered",
		}
		for id, status := range want {
			appliancetest.Eventually(t, 30*time.Second, id+" is "+status, func() bool {
				v := show(t, n, id)
				return v.Status == status && (status != "queued" || v.Hold == "retry")
			})
		}
		for _, limit := range []string{"1", "100"} {
			byStatus := map[string]string{}
			for _, status := range []string{"accepted", "queued", "scheduled", "sending", "sent", "delivered", "failed"} {
				for id := range listed(t, n, url.Values{"status": {status}, "client_ref": {"r"}, "limit": {limit}}) {
					byStatus[id] += status
				}
			}
			if diff := cmp.Diff(want, byStatus); diff != "" {
				t.Errorf("limit %s: want (-), listed by status (+):\n%s", limit, diff)
			}
			for id, text := range listed(t, n, url.Values{"channel": {"webhook"}, "limit": {limit}}) {
				if _, one := ask(t, n, http.MethodGet, "/v1/messages/"+id, ""); one != text {
					t.Errorf("limit %s: listed as %s\nand told as %s", limit, text, one)
				}
			}
		}
		letGo()
		letGoLater()
		for id, status := range want {
			if status == "sending" {
				awaitStatus(t, n, id, "delivered")
			}
		}
		if left := listed(t, n, url.Values{"status": {"sending"}}); len(left) != 0 {
			t.Errorf("sending once all were sent: %v", left)
		}
	})
}

// TestClusterListTellsWhatIsTrueNow: on every node, of every node's messages in the
// database that they share.
func TestClusterListTellsWhatIsTrueNow(t *testing.T) {
	t.Parallel()
	c := appliancetest.StartCluster(t, 3, withWebhooks, withPatience, appliancetest.WithPostgres(sinktest.StartPostgres(t).URL()))
	slow, _ := blocking(t)
	r := newHookReceiver(t)
	r.fail["/x"] = 1000
	want := map[string]string{}
	for _, n := range c.Nodes {
		want[post(t, n, map[string]any{"channel": "webhook", "to": slow, "body": "b"})] = "sending"
		want[post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/x", "body": "b"})] = "queued"
	}
	for _, n := range c.Nodes {
		for id, status := range want {
			appliancetest.Eventually(t, 30*time.Second, id+" is "+status, func() bool {
				v := show(t, n, id)
				return v.Status == status && (status != "queued" || v.Hold == "retry")
			})
		}
		got := map[string]string{}
		for _, status := range []string{"queued", "sending"} {
			for id, text := range listed(t, n, url.Values{"status": {status}, "limit": {"2"}}) {
				got[id] += status
				if _, one := ask(t, n, http.MethodGet, "/v1/messages/"+id, ""); one != text {
					t.Errorf("%s: listed as %s\nand told as %s", n.URL, text, one)
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: want (-), listed by status (+):\n%s", n.URL, diff)
		}
	}

	// What they say does not travel: this would be more than a node may answer.
	large := strings.Repeat("x", 200<<10)
	for range 90 {
		post(t, c.Nodes[1], map[string]any{"channel": "webhook", "to": r.URL + "/x", "body": large, "client_ref": "large"})
	}
	appliancetest.Eventually(t, 30*time.Second, "another node knows what they wait for", func() bool {
		waiting := 0
		for _, text := range listed(t, c.Nodes[2], url.Values{"client_ref": {"large"}, "status": {"queued"}, "limit": {"100"}}) {
			if strings.Contains(text, `"hold_reason":`) {
				waiting++
			}
		}
		return waiting == 90
	})
}
