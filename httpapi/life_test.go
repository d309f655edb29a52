package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"forebay/wal/message"
)

// memoryLife cancels and requeues the messages of a world's log.
type memoryLife struct {
	w    *world
	late map[message.ID]bool // cannot be canceled
	err  error

	unsaved []message.Record // that Find finds
	away    error            // of Find

	mu       sync.Mutex
	canceled map[message.ID]bool
}

func (l *memoryLife) Cancel(ctx context.Context, account string, id message.ID) (message.Record, error) {
	r, err := l.w.messages.Get(ctx, account, id)
	if err = errors.Join(err, l.err); err != nil {
		return r, err
	}
	if l.late[id] {
		return r, ErrNotCancelable
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.canceled[id] = true
	r.Status = message.Canceled
	return r, nil
}

func (l *memoryLife) Find(_ context.Context, account, ref string, limit int) (ids []message.ID, err error) {
	for _, r := range l.unsaved {
		if r.Account == account && r.ClientRef == ref && len(ids) < limit {
			ids = append(ids, r.ID)
		}
	}
	return ids, l.away
}

func (l *memoryLife) Requeue(ctx context.Context, account string, id message.ID, p message.Priority) (Receipt, error) {
	r, err := l.w.messages.Get(ctx, account, id)
	if err != nil {
		return Receipt{}, err
	}
	if !l.late[id] {
		return Receipt{}, ErrNotFailed
	}
	m := r.Message
	m.Priority, m.RequeueOf, m.IdempotencyKey = p, id, "requeue "+id.String()
	return l.w.log.Append(ctx, &m)
}

func (l *memoryLife) Usage(_ context.Context, q message.UsageQuery) ([]message.UsageCount, error) {
	return []message.UsageCount{
		{Day: q.From, Channel: message.ChannelEmail, Status: message.Failed, Count: 2},
		{Day: q.To.AddDate(0, 0, -1), Channel: message.ChannelEmail, Status: message.Queued, Count: 40}}, l.err
}

func newLifeWorld(t fatalHelper, options ...func(*Config)) (*world, *memoryLife) {
	life := &memoryLife{late: map[message.ID]bool{}, canceled: map[message.ID]bool{}}
	w := newWorld(t, append(options, func(c *Config) { c.Life = life })...)
	life.w = w
	return w, life
}

func (w *world) submitted(t *testing.T, body string) message.ID {
	t.Helper()
	if rec := w.do("POST", "/v1/messages", body); rec.Code != http.StatusAccepted {
		t.Fatalf("submit: %d %s", rec.Code, rec.Body)
	}
	all := w.log.all()
	return all[len(all)-1].ID
}

func TestCancelAndRequeue(t *testing.T) {
	w, life := newLifeWorld(t)
	plain := w.submitted(t, `{"channel":"store","body":"x","client_ref":"r"}`)
	late := w.submitted(t, `{"channel":"store","body":"y","client_ref":"r"}`)
	alone := w.submitted(t, `{"channel":"store","body":"z","client_ref":"late"}`)
	life.late[late], life.late[alone] = true, true
	for _, c := range []struct {
		target string
		header []string
		status int
		code   string // of the problem, or a part of the answer
	}{
		{"/v1/messages/" + plain.String() + "/cancel", nil, 200, `"status":"canceled"`},
		{"/v1/messages/" + plain.String() + "/cancel", nil, 200, `"status":"canceled"`},
		{"/v1/messages/" + late.String() + "/cancel", nil, 409, "not_cancelable"},
		{"/v1/messages/" + plain.String()[:24] + "000000000000/cancel", nil, 404, "not_found"},
		{"/v1/messages/nonsense/cancel", nil, 404, "not_found"},
		{"/v1/messages/" + plain.String() + "/cancel", []string{"Authorization", ""}, 401, "unauthenticated"},
		{"/v1/messages/" + plain.String() + "/cancel", []string{"Authorization", "Bearer " + suspendedKey}, 403, "suspended"},
		{"/v1/messages/" + plain.String() + "/destroy", nil, 404, "not_found"},
		{"/v1/messages/" + plain.String(), nil, 405, "method_not_allowed"},
		{"/v1/messages/cancel?client_ref=r", nil, 200, `"canceled":1`},
		{"/v1/messages/cancel?client_ref=late", nil, 409, "not_cancelable"},
		{"/v1/messages/cancel?client_ref=unheard", nil, 404, "not_found"},
		{"/v1/messages/cancel", nil, 422, "invalid"},
		{"/v1/messages/cancel?client_ref=r&all=1", nil, 400, "malformed"},
		{"/v1/messages/" + plain.String() + "/requeue", nil, 422, "invalid"},
		{"/v1/messages/" + late.String() + "/requeue?priority=first", nil, 422, "invalid"},
		{"/v1/messages/" + late.String() + "/requeue", nil, 202, `"requeue_of":"` + late.String()},
	} {
		rec := w.do("POST", c.target, "", c.header...)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.code) {
			t.Errorf("POST %s: %d %s, want %d with %s", c.target, rec.Code, rec.Body, c.status, c.code)
		}
	}
	all := w.log.all()
	if r := all[len(all)-1]; r.Priority != message.Low || r.RequeueOf != late {
		t.Errorf("requeued as %v of %v, want low of %v", r.Priority, r.RequeueOf, late)
	}
	again := w.do("POST", "/v1/messages/"+late.String()+"/requeue", "")
	if again.Code != 202 || again.Header().Get("Idempotent-Replayed") != "true" || len(w.log.all()) != len(all) {
		t.Errorf("the same again: %d %v, %d messages, want the first answer", again.Code, again.Header(), len(w.log.all()))
	}
	life.err = errors.New("secret of the inside")
	rec := w.do("POST", "/v1/messages/"+plain.String()+"/cancel", "")
	if rec.Code != 503 || strings.Contains(rec.Body.String(), "secret") || rec.Header().Get("Retry-After") == "" {
		t.Errorf("an inner failure: %d %s, want 503 without its words", rec.Code, rec.Body)
	}
	w.Drain()
	if rec := w.do("POST", "/v1/messages/"+plain.String()+"/cancel", ""); rec.Code != 503 || !strings.Contains(rec.Body.String(), "draining") {
		t.Errorf("while draining: %d %s, want 503 draining", rec.Code, rec.Body)
	}
}

func TestRequeueByFilter(t *testing.T) {
	w, life := newLifeWorld(t)
	for i := range 5 {
		life.late[w.submitted(t, fmt.Sprintf(`{"channel":"store","body":"%d","client_ref":"r"}`, i))] = true
	}
	w.submitted(t, `{"channel":"store","body":"not failed","client_ref":"r"}`)
	const path = "/v1/messages/requeue"
	ask := func(query string) (r Requeued) {
		t.Helper()
		rec := w.do("POST", path+"?"+query, "")
		if err := json.Unmarshal(rec.Body.Bytes(), &r); err != nil || rec.Code != 200 {
			t.Fatalf("POST %s?%s: %d %s", path, query, rec.Code, rec.Body)
		}
		return r
	}
	if got := ask("dry_run=true&client_ref=r&limit=2"); got != (Requeued{DryRun: true, Matched: 6}) || len(w.log.all()) != 6 {
		t.Errorf("dry run: %+v with %d messages, want 6 counted and none new", got, len(w.log.all()))
	}
	before := time.Now().Add(time.Minute).UTC().Format(time.RFC3339)
	first := ask("client_ref=r&priority=high&limit=4&accepted_before=" + before)
	if first.Matched != 4 || first.Requeued != 3 || !first.HasMore || first.NextCursor == "" {
		t.Errorf("first step: %+v, want 3 of 4 accepted anew, and more", first)
	}
	second := ask("client_ref=r&priority=high&limit=4&accepted_before=" + before + "&cursor=" + first.NextCursor)
	if second != (Requeued{Matched: 2, Requeued: 2}) {
		t.Errorf("second step: %+v, want the other 2 and no more", second)
	}
	all := w.log.all()
	for _, r := range all[6:] {
		if r.Priority != message.High || !life.late[r.RequeueOf] {
			t.Errorf("requeued as %v of %v", r.Priority, r.RequeueOf)
		}
	}
	if got := ask("client_ref=r"); got.Requeued != 0 || got.Repeated != 5 || len(w.log.all()) != len(all) {
		t.Errorf("the same again: %+v, want 5 repeated and none new", got)
	}
	for query, want := range map[string]int{"status=sent": 422, "dry_run=1": 422, "dry_run=true&dry_run=true": 422, "priority=first": 422, "limit=101": 422,
		"channel=fax": 422, "all=1": 400, "client_ref=r&cursor=" + first.NextCursor: 422} {
		if rec := w.do("POST", path+"?"+query, ""); rec.Code != want {
			t.Errorf("POST %s?%s: %d %s, want %d", path, query, rec.Code, rec.Body, want)
		}
	}
	if rec := w.do("POST", path, "", "Authorization", ""); rec.Code != 401 {
		t.Errorf("without a key: %d, want 401", rec.Code)
	}
	if len(w.log.all()) != len(all) {
		t.Error("a refused request has accepted messages")
	}
}

func TestUsage(t *testing.T) {
	w, _ := newLifeWorld(t)
	rec := w.do("GET", "/v1/usage?month=2026-02", "")
	var got Usage
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatalf("answer %s: %v", rec.Body, err)
	}
	want := Usage{Account: account, Month: "2026-02", Total: 42, Data: []UsageDay{
		{"2026-02-01", "email", "failed", true, 2}, {"2026-02-28", "email", "queued", false, 40}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
	const table = "day,channel,status,count\n2026-02-01,email,failed,2\n2026-02-28,email,queued,40\n"
	for _, c := range []struct {
		target, accept string
		status         int
		body           string
	}{
		{"/v1/usage?month=2026-02&format=csv", "", 200, table},
		{"/v1/usage?month=2026-02", "text/csv", 200, table},
		{"/v1/usage?month=2026-02&format=json", "text/csv", 200, `"total":42`},
		{"/v1/usage?month=2026-02", "text/csv, application/json", 200, `"total":42`},
		{"/v1/usage?month=2026-02", "text/*", 200, table},
		{"/v1/usage?month=2026-02", "text/csv, */*", 200, table},
		{"/v1/usage?month=2026-02", "text/*, application/*", 200, `"total":42`},
		{"/v1/usage?month=2026-02", "text/csv;q=0, */*", 200, `"total":42`},
		{"/v1/usage", "", 200, `"month":"` + time.Now().UTC().Format("2006-01")},
		{"/v1/usage?month=2026-2", "", 422, "invalid"},
		{"/v1/usage?month=2026-13", "", 422, "invalid"},
		{"/v1/usage?format=xml", "", 422, "invalid"},
		{"/v1/usage?mont=2026-02", "", 400, "malformed"},
		{"/v1/usage", "image/png", 406, "not_acceptable"},
	} {
		rec := w.do("GET", c.target, "", "Accept", c.accept)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.body) {
			t.Errorf("GET %s as %q: %d %s, want %d with %s", c.target, c.accept, rec.Code, rec.Body, c.status, c.body)
		}
	}
}

// memoryHook takes bodies that are signed with their own length.
type memoryHook struct {
	taken []string
	err   error
}

func (h *memoryHook) Subscription(q url.Values) (string, bool) {
	return q.Get("hub.challenge"), q.Get("hub.verify_token") == "token"
}

func (h *memoryHook) Receive(_ context.Context, signature string, body []byte) error {
	if signature != fmt.Sprint("sha256=", len(body)) {
		return ErrForged
	}
	if h.err == nil {
		h.taken = append(h.taken, string(body))
	}
	return h.err
}

func TestHook(t *testing.T) {
	hook := &memoryHook{}
	w := newWorld(t, func(c *Config) { c.Hook = hook })
	const path = "/hooks/whatsapp"
	for _, c := range []struct {
		method, target, body, signature string
		err                             error
		status                          int
		answer                          string
	}{
		{"GET", path + "?hub.mode=subscribe&hub.verify_token=token&hub.challenge=1158201444", "", "", nil, 200, "1158201444"},
		{"GET", path + "?hub.mode=subscribe&hub.verify_token=other&hub.challenge=1158201444", "", "", nil, 403, "forbidden"},
		{"POST", path, "{}", "sha256=2", nil, 200, "ok"},
		{"POST", path, "{ }", "sha256=2", nil, 403, "forbidden"},
		{"POST", path, "{}", "", nil, 403, "forbidden"},
		{"POST", path, "no", "sha256=2", ErrMalformed, 400, "malformed"},
		{"POST", path, "{}", "sha256=2", ErrUnavailable, 503, "unavailable"}, // Meta comes again
		{"POST", path, strings.Repeat("x", maxHookBytes+1), "sha256=4194305", nil, 413, "too_large"},
		{"POST", path, strings.Repeat("x", 3<<20), "sha256=3145728", nil, 200, "ok"},
	} {
		hook.err = c.err
		header := []string{"Authorization", ""}
		if c.signature != "" {
			header = append(header, headerHubSignature, c.signature)
		}
		rec := w.do(c.method, c.target, c.body, header...)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.answer) {
			t.Errorf("%s %.60s %.10s: %d %.200s, want %d with %s", c.method, c.target, c.body, rec.Code, rec.Body, c.status, c.answer)
		}
	}
	if len(hook.taken) != 2 || hook.taken[0] != "{}" {
		t.Errorf("taken %d bodies, want the two that were answered with 200", len(hook.taken))
	}
	if rec := newWorld(t).do("GET", path, ""); rec.Code != 404 {
		t.Errorf("without a hook: %d, want 404", rec.Code)
	}
	if used := w.hooks.inUse.Load(); used != 0 {
		t.Errorf("%d bytes are still counted as buffered", used)
	}
}
