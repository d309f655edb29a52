package whatsapp

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/sink/sinktest"
	"forebay/wal/message"
)

func TestVerifySignature(t *testing.T) {
	body := []byte(`{"object":"whatsapp_business_account","entry":[]}`)
	const good = "sha256=d3e4f9da0ce6c71ab3dba55929b8eeeee2455349e534924ead19f98d143e904f"
	for name, test := range map[string]struct {
		secret, header, body string
		want                 bool
	}{
		"vector":       {"app-secret", good, string(body), true},
		"upper case":   {"app-secret", "sha256=" + strings.ToUpper(good[7:]), string(body), true},
		"other secret": {"app-secre7", good, string(body), false},
		"other body":   {"app-secret", good, string(body) + " ", false},
		"cut":          {"app-secret", good[:len(good)-2], string(body), false},
		"no prefix":    {"app-secret", good[7:], string(body), false},
		"none":         {"app-secret", "", string(body), false},
		"no secret":    {"", sinktest.HookSignature("", body), string(body), false},
	} {
		if got := VerifySignature(test.secret, test.header, []byte(test.body)); got != test.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestVerifySubscription(t *testing.T) {
	for name, test := range map[string]struct {
		token, query, want string
		ok                 bool
	}{
		"good":        {"t0ken", "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=t0ken", "1158201444", true},
		"wrong token": {"t0ken", "hub.mode=subscribe&hub.challenge=1&hub.verify_token=t0ke", "", false},
		"other mode":  {"t0ken", "hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=t0ken", "", false},
		"no token":    {"", "hub.mode=subscribe&hub.challenge=1&hub.verify_token=", "", false},
		"markup":      {"t0ken", "hub.mode=subscribe&hub.challenge=%3Cscript%3E&hub.verify_token=t0ken", "", false},
		"nothing":     {"t0ken", "", "", false},
	} {
		query, err := url.ParseQuery(test.query)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := VerifySubscription(test.token, query); got != test.want || ok != test.ok {
			t.Errorf("%s: got %q, %v", name, got, ok)
		}
	}
}

func TestParseReports(t *testing.T) {
	id := message.NewID(1_800_000_000_000, 1, 1, message.Normal, 7)
	status := func(more ...any) map[string]any {
		m := map[string]any{"id": "wamid.1", "status": "delivered", "timestamp": "1795432800", "recipient_id": "967771234567",
			"biz_opaque_callback_data": id.String(), "pricing": map[string]any{"billable": true}}
		for i := 0; i < len(more); i += 2 {
			m[more[i].(string)] = more[i+1]
		}
		return m
	}
	at := time.Unix(1795432800, 0).UTC()
	want := message.Report{Channel: message.ChannelWhatsApp, ProviderID: "wamid.1", ID: id, Status: message.Delivered, At: at}
	edit := func(f func(*message.Report)) []message.Report {
		r := want
		f(&r)
		return []message.Report{r}
	}
	failed := func(code int) map[string]any {
		return status("status", "failed", "errors", []any{map[string]any{"code": code, "title": "Ünzustellbar"}})
	}
	for name, test := range map[string]struct {
		status any
		want   []message.Report
	}{
		"delivered":     {status(), []message.Report{want}},
		"read":          {status("status", "read"), edit(func(r *message.Report) { r.Status = message.Read })},
		"played":        {status("status", "played"), edit(func(r *message.Report) { r.Status = message.Read })},
		"sent":          {status("status", "sent"), edit(func(r *message.Report) { r.Status = message.Sent })},
		"number time":   {status("timestamp", 1795432800), []message.Report{want}},
		"foreign id":    {status("biz_opaque_callback_data", "another's"), edit(func(r *message.Report) { r.ID = message.ID{} })},
		"no wamid":      {status("id", ""), edit(func(r *message.Report) { r.ProviderID = "" })},
		"nothing at it": {status("id", "", "biz_opaque_callback_data", ""), nil},
		"deleted":       {status("status", "deleted"), nil},
		"bad time":      {status("timestamp", "yesterday"), nil},
		"failed": {failed(131026), edit(func(r *message.Report) {
			r.Status = message.Undelivered
			r.Failure = &message.Failure{Code: "recipient_unreachable", Category: "recipient", ChannelCode: "131026", Message: byCode[131026].text}
		})},
		"failed for a reason of tomorrow": {failed(131999), edit(func(r *message.Report) {
			r.Status = message.Undelivered
			r.Failure = &message.Failure{Code: "invalid_content", Category: "content", ChannelCode: "131999", Message: "WhatsApp refused the message."}
		})},
		"failed without a reason": {status("status", "failed"), edit(func(r *message.Report) {
			r.Status = message.Undelivered
			r.Failure = &message.Failure{Code: "recipient_unreachable", Category: "recipient", Message: "WhatsApp could not deliver the message and did not say why."}
		})},
	} {
		got, err := ParseReports(sinktest.HookBody(test.status))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestParseReportsSkipsWhatIsNoUpdate(t *testing.T) {
	for name, body := range map[string]string{
		"incoming":       `{"object":"whatsapp_business_account","entry":[{"changes":[{"field":"messages","value":{"messages":[{"from":"1","text":{"body":"\ud83d"}}]}}]}]}`,
		"template":       `{"object":"whatsapp_business_account","entry":[{"changes":[{"field":"message_template_status_update","value":{"statuses":7}}]}]}`,
		"odd statuses":   `{"object":"whatsapp_business_account","entry":[{"changes":[{"field":"messages","value":{"statuses":"none"}}]}]}`,
		"repeated names": `{"object":"x","object":"whatsapp_business_account","entry":[]}`,
	} {
		if got, err := ParseReports([]byte(body)); err != nil || len(got) > 0 {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	for name, body := range map[string]string{"no JSON": "x", "page": `{"object":"page"}`, "list": "[]", "empty": ""} {
		if _, err := ParseReports([]byte(body)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzParseReports: no body makes the parser panic, and what it returns is valid.
func FuzzParseReports(f *testing.F) {
	f.Add(sinktest.HookBody(map[string]any{"id": "wamid.1", "status": "failed", "timestamp": "1795432800", "errors": []any{map[string]any{"code": 1}}}))
	f.Fuzz(func(t *testing.T, body []byte) {
		reports, err := ParseReports(body)
		for _, r := range reports {
			if err != nil || !r.Valid() {
				t.Errorf("got %+v, %v", r, err)
			}
		}
	})
}
