package appliance_test

import (
	"bytes"
	"encoding/json"
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
)

// hookReceiver takes webhooks and keeps account of them. Its answers are scripted
// by path.
type hookReceiver struct {
	*httptest.Server
	mu    sync.Mutex // guards what follows
	calls map[string][]string
	byID  map[string]int // accepted, by webhook-id
	fail  map[string]int // path: so many times 503 first
}

func newHookReceiver(t *testing.T) *hookReceiver {
	r := &hookReceiver{calls: map[string][]string{}, byID: map[string]int{}, fail: map[string]int{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *hookReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail[req.URL.Path] > 0 {
		r.fail[req.URL.Path]--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if req.Header.Get("webhook-signature") == "" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.calls[req.URL.Path] = append(r.calls[req.URL.Path], string(body))
	r.byID[req.Header.Get("webhook-id")]++
}

func (r *hookReceiver) got(path string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.calls[path]...)
}

func withWebhooks(c *config.Config) {
	c.Channels.Webhook.AllowCIDRs, c.Channels.Webhook.AllowHTTP = []string{"127.0.0.0/8"}, true
	c.Delivery.BaseDelay, c.Delivery.MaxDelay = 20*time.Millisecond, 200*time.Millisecond
}

// post submits a message and returns its id.
func post(t *testing.T, n *appliancetest.Node, fields map[string]any) string {
	t.Helper()
	body, err := json.Marshal(fields)
	must(t, "encode", err)
	req, err := http.NewRequest("POST", n.URL+"/v1/messages", bytes.NewReader(body))
	must(t, "make request", err)
	req.Header.Set("Authorization", "Bearer "+n.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := n.Client.Do(req)
	must(t, "submit", err)
	defer resp.Body.Close()
	var answer struct{ ID string }
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusAccepted || json.Unmarshal(text, &answer) != nil {
		t.Fatalf("submit: %s %s", resp.Status, text)
	}
	return answer.ID
}

type view struct {
	Status     string
	Final      bool
	Hold       string    `json:"hold_reason"`
	Next       time.Time `json:"next_attempt_at"`
	ProviderID string    `json:"provider_id"`
	Attempts   []struct {
		N       int
		Outcome string
	}
	Error struct {
		Code        string
		ChannelCode string `json:"channel_code"`
	}
}

func show(t *testing.T, n *appliancetest.Node, id string) (v view) {
	t.Helper()
	req, _ := http.NewRequest("GET", n.URL+"/v1/messages/"+id, nil)
	req.Header.Set("Authorization", "Bearer "+n.Key)
	resp, err := n.Client.Do(req)
	must(t, "get", err)
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		t.Fatalf("get %s: %s, %v", id, resp.Status, err)
	}
	return v
}

func awaitStatus(t *testing.T, n *appliancetest.Node, id, want string) (v view) {
	t.Helper()
	appliancetest.Eventually(t, 30*time.Second, id+" is "+want, func() bool {
		v = show(t, n, id)
		return v.Status == want
	})
	return v
}

// TestDelivery: messages reach a real HTTP server through a real appliance, with
// retries, rejections, send_at, and over a restart.
func TestDelivery(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		options := []appliancetest.Option{withWebhooks}
		if w.pg != nil {
			options = append(options, appliancetest.WithPostgres(w.pg.URL()))
		}
		n := appliancetest.Start(t, options...)
		r := newHookReceiver(t)

		t.Run("sent, after two faults, and told of", func(t *testing.T) {
			r.fail["/a"] = 2
			id := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/a", "body": `{"x":1}`, "callback_url": "https://127.0.0.1:1/never"})
			v := awaitStatus(t, n, id, "delivered")
			if got := r.got("/a"); len(got) != 1 || got[0] != `{"x":1}` || len(v.Attempts) != 3 || !v.Final {
				t.Errorf("%d calls, %+v", len(got), v)
			}
		})
		t.Run("an address of a private network is refused after acceptance", func(t *testing.T) {
			id := post(t, n, map[string]any{"channel": "webhook", "to": "https://10.1.2.3/x", "body": "x"})
			if v := awaitStatus(t, n, id, "rejected"); v.Error.Code == "" || !v.Final {
				t.Errorf("rejected without a reason: %+v", v)
			}
		})
		t.Run("not before its time", func(t *testing.T) {
			id := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/b", "body": "x", "send_at": time.Now().Add(time.Hour).Format(time.RFC3339)})
			if v := awaitStatus(t, n, id, "scheduled"); v.Hold != "scheduled" {
				t.Errorf("hold reason %q", v.Hold)
			}
			id2 := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/c", "body": "x", "send_at": time.Now().Add(2 * time.Second).Format(time.RFC3339)})
			awaitStatus(t, n, id2, "delivered")
			if len(r.got("/b")) != 0 {
				t.Error("sent before its time")
			}
		})
		t.Run("many, once each, over a restart", func(t *testing.T) {
			const total = 500
			var ids []string
			for i := range total {
				ids = append(ids, post(t, n, map[string]any{"channel": "webhook", "to": fmt.Sprint(r.URL, "/many", i%7), "body": fmt.Sprint(i)}))
				if i == total/2 {
					key := n.Key
					n = n.Restart()
					n.Key = key
				}
			}
			for _, id := range ids {
				awaitStatus(t, n, id, "delivered")
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, id := range ids {
				if r.byID[id] != 1 {
					t.Fatalf("%s was sent %d times", id, r.byID[id])
				}
			}
		})
	})
}

// TestCallbacks: each change is told, in a message of its own.
func TestCallbacks(t *testing.T) {
	n := appliancetest.Start(t, withWebhooks)
	r := newHookReceiver(t)
	id := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/x", "body": "hello", "callback_url": r.URL + "/callback"})
	awaitStatus(t, n, id, "delivered")
	appliancetest.Eventually(t, 20*time.Second, "both changes are told", func() bool {
		all := strings.Join(r.got("/callback"), "\n")
		return strings.Contains(all, `"message.queued"`) && strings.Contains(all, `"message.delivered"`) && strings.Count(all, id) == len(r.got("/callback"))
	})
}
