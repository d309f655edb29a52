package appliance_test

import (
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
)

// TestTestKeys: messages of a test key go the whole way but for the call to the
// provider, and their recipients choose what becomes of them, on every channel. With
// another key these recipients are none.
func TestTestKeys(t *testing.T) {
	t.Parallel()
	mails := sinktest.NewSMTP(t, sinktest.SMTPOptions{Plain: true, NoAuth: true}, nil, nil)
	meta := freeWhatsApp(t, 1, nil)
	hooks := newHookReceiver(t)
	n := appliancetest.Start(t, withWebhooks, withWhatsApp(t, meta), func(c *config.Config) {
		e := &c.Channels.Email
		e.Enabled, e.Host, e.Port, e.TLS, e.From = true, mails.Host(), mails.Port(), "none", "noreply@example.org"
	})
	live := n.Key
	key, err := n.Admin.CreateKey(t.Context(), "acme", admin.CreateKey{Test: true})
	must(t, "make a test key", err)
	n.Key = key.Secret
	outcomes := []struct{ digit, name, status, code string }{{"1", "delivered", "delivered", ""}, {"2", "failed", "failed", "recipient_unreachable"},
		{"3", "slow", "delivered", ""}, {"4", "throttled", "delivered", ""}}
	type sent struct{ id, status, code, name string }
	var all []sent
	send := func(channel, to, status, code, name string) {
		order := map[string]any{"channel": channel, "to": to, "body": "b", "callback_url": hooks.URL + "/told"}
		if channel == "email" {
			order["subject"] = "s"
		}
		all = append(all, sent{post(t, n, order), status, code, name})
	}
	for _, o := range outcomes {
		send("whatsapp", "+0001234567"+o.digit, o.status, o.code, o.name)
		send("email", o.name+"@test.invalid", o.status, o.code, o.name)
		send("webhook", "https://test.invalid/"+o.name, o.status, o.code, o.name)
	}
	send("whatsapp", number(1), "delivered", "", "")
	send("email", "somebody@example.org", "delivered", "", "")
	send("webhook", hooks.URL+"/real", "delivered", "", "")
	for _, s := range all {
		v := awaitStatus(t, n, s.id, s.status)
		if v.Error.Code != s.code || !v.Final || len(v.Attempts) == 0 {
			t.Errorf("%+v: got %+v", s, v)
		}
		if first := v.Attempts[0].Outcome; s.name == "throttled" && (len(v.Attempts) != 2 || first != "throttled" || v.Attempts[1].N != 2) || s.name != "throttled" && len(v.Attempts) != 1 {
			t.Errorf("%+v: attempts %+v", s, v.Attempts)
		}
		appliancetest.Eventually(t, 30*time.Second, "the end of "+s.id+" is told", func() bool {
			return strings.Contains(strings.Join(hooks.got("/told"), "\n"), `"type":"message.`+s.status+`"`) && strings.Contains(strings.Join(hooks.got("/told"), "\n"), s.id)
		})
	}
	if mails.Total()+meta.Total()+len(hooks.got("/real")) != 0 {
		t.Errorf("test messages left: %d mails, %d to WhatsApp, %d webhooks", mails.Total(), meta.Total(), len(hooks.got("/real")))
	}
	if u, err := n.Admin.Usage(t.Context(), "acme", ""); err != nil || u.Total != 0 {
		t.Errorf("test messages are counted: %+v, %v", u, err)
	}
	n.Key = live // the same recipients, and a control that others are sent to
	for channel, to := range map[string]string{"whatsapp": "+00012345671", "email": "delivered@test.invalid", "webhook": hooks.URL + "/real"} {
		order := map[string]any{"channel": channel, "to": to, "body": "b"}
		if channel == "email" {
			order["subject"] = "s"
		}
		want := map[string]string{"whatsapp": "rejected", "email": "sent", "webhook": "delivered"}[channel]
		awaitStatus(t, n, post(t, n, order), want)
	}
	if mails.Total() != 1 || meta.Total() != 0 || len(hooks.got("/real")) != 1 {
		t.Errorf("of a live key: %d mails, %d to WhatsApp, %d webhooks, want 1, 0 and 1", mails.Total(), meta.Total(), len(hooks.got("/real")))
	}
}
