package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"forebay/wal/message"
)

// TestRequeueStepEndsAtALimit: a step that meets a limit says what it has done and
// when to go on. The callbacks of an account are not its messages.
func TestRequeueStepEndsAtALimit(t *testing.T) {
	purse := &tokens{left: 100}
	w, life := newLifeWorld(t, func(c *Config) { c.Limiter = limiterOf{purse} })
	var failed []message.ID
	for i := range 6 {
		id := w.submitted(t, fmt.Sprintf(`{"channel":"store","body":"%d","client_ref":"r"}`, i))
		failed, life.late[id] = append(failed, id), true
		r, err := w.log.Append(t.Context(), &message.Message{Account: account, Channel: message.ChannelWebhook, Callback: true, ClientRef: "r"})
		if err != nil {
			t.Fatal(err)
		}
		life.late[r.ID] = true
	}
	fresh := w.submitted(t, `{"channel":"store","body":"not failed"}`)
	purse.left = 4
	step := func(query string) (r Requeued) {
		t.Helper()
		rec := w.do("POST", "/v1/messages/requeue?client_ref=r"+query, "")
		if err := json.Unmarshal(rec.Body.Bytes(), &r); err != nil || rec.Code != http.StatusOK {
			t.Fatalf("requeue %s: %d %s", query, rec.Code, rec.Body)
		}
		return r
	}
	if got := step("&dry_run=true"); got.Matched != 6 || purse.left != 4 {
		t.Errorf("dry run: %+v with %d left, want 6 counted for nothing", got, purse.left)
	}
	first := step("")
	if first.Matched != 4 || first.Requeued != 4 || !first.HasMore || first.NextCursor == "" || first.RetryAfterSeconds != 1 || purse.left != 0 {
		t.Errorf("first step: %+v with %d left, want 4 and when to go on", first, purse.left)
	}
	for _, target := range []string{"/v1/messages/requeue?client_ref=r&cursor=" + first.NextCursor, "/v1/messages/" + failed[0].String() + "/requeue"} {
		rec := w.do("POST", target, "")
		if rec.Code != http.StatusTooManyRequests || rec.Header().Get("Retry-After") != "1" || !strings.Contains(rec.Body.String(), "burst_limited") {
			t.Errorf("POST %s over the limit: %d %v %s", target, rec.Code, rec.Header(), rec.Body)
		}
	}
	purse.left = 5
	if got := step("&cursor=" + first.NextCursor); got.Matched != 2 || got.Requeued != 2 || got.HasMore || purse.left != 3 {
		t.Errorf("second step: %+v with %d left, want the other 2", got, purse.left)
	}
	for id, want := range map[message.ID]int{failed[5]: http.StatusAccepted, fresh: http.StatusUnprocessableEntity} { // again, and none that failed
		if rec := w.do("POST", "/v1/messages/"+id.String()+"/requeue", ""); rec.Code != want || purse.left != 3 {
			t.Errorf("requeue %s: %d with %d left, want %d for nothing", id, rec.Code, purse.left, want)
		}
	}
	for _, r := range w.log.all() {
		if r.Callback && !r.RequeueOf.IsZero() {
			t.Errorf("callback %s was requeued", r.RequeueOf)
		}
	}
	if purse.inFlight != 0 {
		t.Errorf("%d requests did not leave the limiter", purse.inFlight)
	}
}

// TestCancelByReferenceWithoutAll: where not all could be asked, the answer says so,
// and none does not mean that there is none.
func TestCancelByReferenceWithoutAll(t *testing.T) {
	w, life := newLifeWorld(t)
	w.submitted(t, `{"channel":"store","body":"x","client_ref":"r"}`)
	late := w.submitted(t, `{"channel":"store","body":"y","client_ref":"late"}`)
	life.late[late] = true
	for _, test := range []struct {
		away   error
		ref    string
		status int
		says   string
	}{
		{nil, "r", 200, `"canceled":1`},
		{ErrAway, "r", 200, `"incomplete":true`},
		{nil, "late", 409, "not_cancelable"},
		{ErrAway, "late", 503, "unavailable"},
		{nil, "unheard", 404, "not_found"},
		{ErrAway, "unheard", 503, "unavailable"},
	} {
		life.away = test.away
		rec := w.do("POST", "/v1/messages/cancel?client_ref="+test.ref, "")
		if rec.Code != test.status || !strings.Contains(rec.Body.String(), test.says) {
			t.Errorf("%s, away %v: %d %s, want %d with %s", test.ref, test.away, rec.Code, rec.Body, test.status, test.says)
		}
		if test.away == nil && strings.Contains(rec.Body.String(), "incomplete") {
			t.Errorf("%s: %s, and all were asked", test.ref, rec.Body)
		}
	}
}
