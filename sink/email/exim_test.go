package email

import (
	"strings"
	"sync"
	"testing"

	"forebay/sink/sinktest"
)

// TestRealServer sends to exim4 with STARTTLS and a login: what it takes lies on
// its disk, each mail once.
func TestRealServer(t *testing.T) {
	server := sinktest.StartExim(t)
	config := Config{Host: "127.0.0.1", Port: server.Port, Username: sinktest.SMTPUser, Password: sinktest.SMTPPassword, From: sender, Connections: 3, TLSConfig: server.TLS()}
	c := newChannel(t, config)
	const mails = 30
	var group sync.WaitGroup
	for n := range mails {
		group.Go(func() {
			d := delivery(n, "müller@example.org")
			if n%2 == 0 {
				d.Record.To = "a@example.org"
			}
			d.Record.Body, d.Record.HTML = "Grüße\n.\n..\nFrom x", "<p>Grüße</p>"
			sent, err := c.Send(t.Context(), d)
			if err != nil || sent.ProviderID == "" {
				t.Errorf("mail %d: got %+v, %v", n, sent, err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	texts := server.Mails(t, mails)
	for n := range mails {
		id := "<" + delivery(n, "").Record.ID.String() + "@mail.example.org>"
		found := 0
		for _, text := range texts {
			if strings.Contains(text, "Message-ID: "+id) && strings.Contains(text, "multipart/alternative") {
				found++
			}
		}
		if found != 1 {
			t.Errorf("mail %d lies there %d times", n, found)
		}
	}
	_, err := c.Send(t.Context(), delivery(mails, "nobody@example.org"))
	if got, fault := outcomeOf(t, err); got != "permanent" || fault.Failure.Code != "invalid_recipient" {
		t.Errorf("an unknown user: got %s, %v", got, err)
	}
	config.Password = "wrong"
	_, err = newChannel(t, config).Send(t.Context(), delivery(mails+1, "a@example.org"))
	if got, fault := outcomeOf(t, err); got != "stop" || !strings.HasPrefix(fault.Failure.ChannelCode, "535") {
		t.Errorf("a wrong password: got %s, %v", got, err)
	}
}
