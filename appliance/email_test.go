package appliance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/sink/sinktest"
)

// TestMailToARealServer sends the whole way to exim4, over STARTTLS and with a
// login: mails lie on its disk, each once, over a few connections, with the same
// Message-ID however often they were tried; a recipient that it does not know fails
// at once; a password that it does not take stops the channel, and costs no attempt.
func TestMailToARealServer(t *testing.T) {
	t.Parallel()
	server := sinktest.StartExim(t)
	password := filepath.Join(t.TempDir(), "password")
	write := func(text string) { must(t, "write the password", os.WriteFile(password, []byte(text+"\n"), 0o600)) }
	write("wrong")
	p := appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"), "SSL_CERT_FILE="+server.Certificate, "FOREBAY_RATE_LIMITING_ENABLED=false",
		"FOREBAY_CHANNELS_EMAIL_ENABLED=true", "FOREBAY_CHANNELS_EMAIL_HOST=127.0.0.1", fmt.Sprint("FOREBAY_CHANNELS_EMAIL_PORT=", server.Port),
		"FOREBAY_CHANNELS_EMAIL_USERNAME="+sinktest.SMTPUser, "FOREBAY_CHANNELS_EMAIL_PASSWORD_FILE="+password, "FOREBAY_CHANNELS_EMAIL_FROM=Forebay <noreply@mail.example.org>",
		"FOREBAY_CHANNELS_EMAIL_CONNECTIONS=2", "FOREBAY_DELIVERY_BASE_DELAY=50ms", "FOREBAY_DELIVERY_MAX_DELAY=200ms", "FOREBAY_DELIVERY_MAX_ATTEMPTS=100")
	n := &appliancetest.Node{URL: p.URL, Key: p.Key, Client: p.Client}
	mail := func(to string, more map[string]any) string {
		order := map[string]any{"channel": "email", "to": to, "subject": "Größe", "body": "Grüße\n.\nFrom x"}
		for key, value := range more {
			order[key] = value
		}
		return post(t, n, order)
	}
	first := mail("first@example.org", nil)
	appliancetest.Eventually(t, 30*time.Second, "a refused password stops the channel", func() bool { return show(t, n, first).Hold == "channel_stopped" })
	if v := show(t, n, first); len(v.Attempts) != 0 {
		t.Errorf("a refused password cost an attempt: %+v", v)
	}
	write(sinktest.SMTPPassword)
	p.Kill() // a reload would be on probation, and taken back where the machine is slow
	p.Spawn()
	p.AwaitReady(time.Minute)
	awaitStatus(t, n, first, "sent")

	later := mail("later@example.org", nil) // 450 4.2.1 until the server is open
	ids := []string{first, later}
	for i := range 18 {
		more := map[string]any{"html": "<p>Grüße</p>"}
		if i == 0 {
			more["metadata"] = map[string]string{"list_unsubscribe": "https://example.org/off?u=1"}
		}
		ids = append(ids, mail(fmt.Sprintf("a%d@example.org", i), more))
	}
	nobody := mail("nobody@example.org", nil)
	if v := awaitStatus(t, n, nobody, "failed"); v.Error.Code != "invalid_recipient" || !strings.HasPrefix(v.Error.ChannelCode, "550") || len(v.Attempts) != 1 {
		t.Errorf("a recipient that is not there: %+v", v)
	}
	appliancetest.Eventually(t, 30*time.Second, "a deferred mail is tried again", func() bool { return len(show(t, n, later).Attempts) > 2 })
	server.Open(t)
	for _, id := range ids {
		v := awaitStatus(t, n, id, "sent")
		if v.ProviderID == "" {
			t.Errorf("%s: the server's own id is not kept: %+v", id, v)
		}
	}
	texts := server.Mails(t, len(ids))
	for i, id := range ids {
		found := 0
		for _, text := range texts {
			if !strings.Contains(text, "Message-ID: <"+id+"@mail.example.org>") {
				continue
			}
			found++
			if has := strings.Contains(text, "List-Unsubscribe-Post: List-Unsubscribe=One-Click"); has != (i == 2) {
				t.Errorf("%s: one-click unsubscribe %v", id, has)
			}
			if !strings.Contains(text, "with esmtpsa") || strings.Contains(text, "multipart/alternative") != (i > 1) {
				t.Errorf("%s: not over TLS with a login, or of other parts:\n%s", id, text)
			}
		}
		if found != 1 {
			t.Errorf("%s lies there %d times", id, found)
		}
	}
	// One that was refused, and two of the pool; a mail that is deferred does not cost
	// its connection.
	if got := server.Connections(t); got < 2 || got > 8 {
		t.Errorf("%d mails took %d connections", len(ids), got)
	}
}
