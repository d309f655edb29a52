package appliance_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/embedded"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// past puts messages into a stopped node's store: what became of them before.
func past(t *testing.T, dir string, batch ...message.Record) {
	t.Helper()
	store, err := embedded.Open(embedded.Config{Dir: filepath.Join(dir, "store"), MinFreeBytes: 64 << 20})
	must(t, "open the store", err)
	_, err = store.Insert(context.Background(), batch)
	must(t, "insert", err)
	must(t, "close the store", store.Close())
}

func ask(t *testing.T, n *appliancetest.Node, method, path, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, n.URL+path, strings.NewReader(body))
	must(t, "make a request", err)
	r.Header.Set("Authorization", "Bearer "+n.Key)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := n.Client.Do(r)
	must(t, "request", err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(t, "read the answer", err)
	return res.StatusCode, string(text)
}

// TestLifeOfMessages: failed messages are accepted anew, once; WhatsApp's reports
// move a message on, and are told to who follows; what came of all is counted.
// Everything also after a restart.
func TestLifeOfMessages(t *testing.T) {
	t.Parallel()
	secrets := t.TempDir()
	for name, text := range map[string]string{"app": "app secret\n", "verify": "verify token\n"} {
		must(t, "write a secret", os.WriteFile(filepath.Join(secrets, name), []byte(text), 0o600))
	}
	n := appliancetest.Start(t, func(c *config.Config) {
		c.Channels.WhatsApp.AppSecretFile, c.Channels.WhatsApp.VerifyTokenFile = filepath.Join(secrets, "app"), filepath.Join(secrets, "verify")
	})
	must(t, "stop", n.Stop())
	var batch []message.Record
	at := time.Now().Add(-time.Hour)
	for i := range 6 {
		r := message.Record{ID: message.NewID(uint64(at.UnixMilli()), uint16(i), 1, message.High, uint64(i)), Seq: uint64(1 + i),
			Message: message.Message{Account: "acme", Channel: message.ChannelStore, Priority: message.High, Body: fmt.Sprint("failed ", i), ClientRef: "again"},
			State:   message.State{Status: message.Failed, FailedAt: at.UTC().Truncate(time.Millisecond), Error: &message.Failure{Code: "store_refused", Category: "store"}}}
		if i == 4 {
			r.Channel, r.To, r.State = message.ChannelWhatsApp, "+4915112345678",
				message.State{Status: message.Sent, SentAt: at.UTC().Truncate(time.Millisecond), ProviderID: "wamid.4", Attempts: []message.Attempt{{N: 1, At: at, Outcome: "sent"}}}
		}
		if i == 5 { // of an account's messages, none is this
			r.Channel, r.To, r.Callback = message.ChannelWebhook, "https://told.invalid/", true
		}
		batch = append(batch, r)
	}
	past(t, n.Dir(), batch...)
	n = n.Restart()

	for _, dry := range []bool{true, false, false} {
		a, err := n.Admin.Requeue(context.Background(), admin.RequeueOrder{Status: "failed", DryRun: dry, Limit: 4})
		must(t, "requeue", err)
		next, err := n.Admin.Requeue(context.Background(), admin.RequeueOrder{Status: "failed", DryRun: dry, Cursor: a.NextCursor})
		must(t, "requeue the rest", err)
		if !a.HasMore || next.HasMore || a.Matched+next.Matched != 4 || dry && a.Requeued+next.Requeued > 0 || !dry && a.Requeued+a.Repeated != 3 {
			t.Errorf("requeue, dry run %v: %+v, %+v, want 3 and 1", dry, a, next)
		}
	}
	if a, err := n.Admin.Requeue(context.Background(), admin.RequeueOrder{Status: "failed", Callbacks: true, DryRun: true}); err != nil || a.Matched != 5 {
		t.Errorf("requeue callbacks, too: %+v, %v, want 5", a, err)
	}
	for _, dry := range []string{"true", "false"} {
		want := map[string]string{"true": `"matched":4,"requeued":0,"repeated":0`, "false": `"matched":4,"requeued":0,"repeated":4`}[dry]
		if status, text := ask(t, n, "POST", "/v1/messages/requeue?dry_run="+dry, ""); status != 200 || !strings.Contains(text, want) {
			t.Errorf("an account's requeue, dry run %s: %d %s, want %s", dry, status, text, want)
		}
	}
	status, text := ask(t, n, "POST", "/v1/messages/"+batch[0].ID.String()+"/requeue", "")
	var again struct {
		ID string `json:"id"`
	}
	must(t, "read the answer", json.Unmarshal([]byte(text), &again))
	if status != 202 {
		t.Fatalf("requeue what operators have requeued: %d %s", status, text)
	}
	if status, text := ask(t, n, "GET", "/v1/messages/"+again.ID, ""); status != 200 || !strings.Contains(text, `"requeue_of":"`+batch[0].ID.String()) ||
		!strings.Contains(text, `"priority":"low"`) || !strings.Contains(text, `"client_ref":"again"`) {
		t.Errorf("the new message: %d %s", status, text)
	}
	if status, text := ask(t, n, "GET", "/v1/messages/"+batch[0].ID.String(), ""); status != 200 || !strings.Contains(text, `"status":"failed"`) {
		t.Errorf("the failed message: %d %s, want it as it was", status, text)
	}
	awaitDrained(t, n.Admin) // those that were accepted anew have the same reference, and are stored by now
	for path, want := range map[string]int{batch[0].ID.String() + "/cancel": 409, batch[4].ID.String() + "/requeue": 422, "cancel?client_ref=again": 409} {
		if status, text := ask(t, n, "POST", "/v1/messages/"+path, ""); status != want {
			t.Errorf("POST %s: %d %s, want %d", path, status, text, want)
		}
	}

	body := sinktest.HookBody(map[string]any{"id": "wamid.4", "status": "read", "timestamp": fmt.Sprint(time.Now().Unix())},
		map[string]any{"id": "wamid.4", "status": "delivered", "timestamp": fmt.Sprint(time.Now().Unix() - 1)},
		map[string]any{"id": "wamid.unheard", "status": "delivered", "timestamp": fmt.Sprint(time.Now().Unix())})
	sum := hmac.New(sha256.New, []byte("app secret"))
	sum.Write(body)
	signature := "sha256=" + hex.EncodeToString(sum.Sum(nil))
	const hook = "/hooks/whatsapp"
	if status, _ := ask(t, n, "POST", hook, string(body), "X-Hub-Signature-256", strings.Replace(signature, "=", "=0", 1)); status != 403 {
		t.Errorf("forged reports: %d, want 403", status)
	}
	if status, text := ask(t, n, "GET", "/v1/messages/"+batch[4].ID.String(), ""); !strings.Contains(text, `"status":"sent"`) {
		t.Errorf("after forged reports: %d %s, want it sent", status, text)
	}
	for range 2 {
		if status, text := ask(t, n, "POST", hook, string(body), "X-Hub-Signature-256", signature); status != 200 {
			t.Errorf("reports: %d %s, want 200", status, text)
		}
	}
	if status, text := ask(t, n, "GET", hook+"?hub.mode=subscribe&hub.verify_token=verify+token&hub.challenge=17", ""); status != 200 || text != "17" {
		t.Errorf("subscription: %d %s, want the challenge", status, text)
	}
	awaitDrained(t, n.Admin)
	for range 2 {
		status, text := ask(t, n, "GET", "/v1/messages/"+batch[4].ID.String(), "")
		if status != 200 || !strings.Contains(text, `"status":"read"`) || !strings.Contains(text, `"delivered_at"`) {
			t.Errorf("after the reports: %d %s, want it read", status, text)
		}
		u, err := n.Admin.Usage(context.Background(), "acme", at.UTC().Format("2006-01"))
		must(t, "usage", err)
		counts := map[string]uint64{}
		for _, c := range u.Data {
			counts[c.Channel+" "+c.Status] += c.Count
		}
		if counts["store failed"] != 4 || counts["whatsapp read"] != 1 || counts["store stored"] != 4 && at.Day() == time.Now().Day() {
			t.Errorf("usage %v, want 4 failed, 4 stored and 1 read", counts)
		}
		must(t, "stop", n.Stop())
		n = n.Restart()
	}
}

// TestRepeatedReportIsTold: a report that was durable when the appliance crashed,
// and its callback not yet, has its callback when the provider repeats it: one,
// however often that is.
func TestRepeatedReportIsTold(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "app")
	must(t, "write a secret", os.WriteFile(secret, []byte("app secret"), 0o600))
	n := appliancetest.Start(t, func(c *config.Config) { c.Channels.WhatsApp.AppSecretFile = secret })
	must(t, "stop", n.Stop())
	at := time.Now().Add(-time.Minute)
	r := message.Record{ID: message.NewID(uint64(at.UnixMilli()), 0, 1, message.High, 1), Seq: 1,
		Message: message.Message{Account: "acme", Channel: message.ChannelWhatsApp, To: "+4915112345678", Body: "b", CallbackURL: "https://told.invalid/"},
		State:   message.State{Status: message.Delivered, SentAt: at.UTC(), DeliveredAt: at.UTC(), ProviderID: "wamid.1"}}
	past(t, n.Dir(), r)
	n = n.Restart()
	told := func() int {
		_, text := ask(t, n, "GET", "/v1/messages?channel=webhook", "")
		return strings.Count(text, `"channel":"webhook"`)
	}
	report := func(status string) {
		t.Helper()
		body := sinktest.HookBody(map[string]any{"id": "wamid.1", "status": status, "timestamp": fmt.Sprint(at.Unix()), "biz_opaque_callback_data": r.ID.String()})
		sum := hmac.New(sha256.New, []byte("app secret"))
		sum.Write(body)
		if code, text := ask(t, n, "POST", "/hooks/whatsapp", string(body), "X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum.Sum(nil))); code != 200 {
			t.Fatalf("report: %d %s", code, text)
		}
	}
	report("sent") // not how it stands: nothing to tell
	for range 3 {
		report("delivered")
	}
	appliancetest.Eventually(t, time.Minute, "the callback is in the store", func() bool { return told() > 0 })
	report("read")
	appliancetest.Eventually(t, time.Minute, "the next callback is in the store", func() bool { return told() > 1 })
	if got := told(); got != 2 {
		t.Errorf("%d callbacks, want one of delivered and one of read", got)
	}
}
