package email

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// outcomeOf names an outcome and returns what it carries.
func outcomeOf(t *testing.T, err error) (string, sink.Fault) {
	t.Helper()
	switch e := err.(type) {
	case nil:
		return "sent", sink.Fault{}
	case *sink.Permanent:
		return "permanent", e.Fault
	case *sink.RetryAfter:
		return "after", e.Fault
	case *sink.StopChannel:
		return "stop", e.Fault
	case *sink.Unknown:
		return "unknown", e.Fault
	case *sink.Transient:
		return "transient", e.Fault
	}
	t.Fatalf("%T: %v", err, err)
	return "", sink.Fault{}
}

// TestWhatRelaysSay has a row for each behaviour of a relay, what it means, and
// whether it took the mail.
func TestWhatRelaysSay(t *testing.T) {
	const to = "someone@example.org"
	for _, test := range []struct {
		connection, mail sinktest.Fault
		want, code       string
		neutral          bool
		taken            int
		again            int // connections after a second mail: 1 if the first was kept
	}{
		{"", "", "sent", "", false, 1, 1},
		{"", "rcpt 550 5.1.1", "permanent", "invalid_recipient", true, 0, 1},
		{"", "rcpt 550", "permanent", "invalid_recipient", true, 0, 1},
		{"", "rcpt 552 5.2.2", "permanent", "recipient_unreachable", true, 0, 1},
		{"", "rcpt 450 4.2.2", "transient", "recipient_unreachable", true, 0, 1},
		{"", "rcpt 450", "transient", "recipient_unreachable", true, 0, 1},
		{"", "rcpt 451 4.7.1", "after", "recipient_rate_limited", true, 0, 1},
		{"", "rcpt 451 4.3.0", "transient", "channel_unavailable", false, 0, 1},
		{"", "rcpt 452 4.3.1", "transient", "channel_unavailable", false, 0, 1},
		{"", "rcpt 552 5.5.3", "transient", "channel_unavailable", false, 0, 1},
		{"", "rcpt 530 5.7.0", "stop", "channel_auth", false, 0, 2},
		{"", "rcpt 421 4.3.2", "transient", "channel_unavailable", false, 0, 2},
		{"", "data 451 4.4.1", "transient", "channel_unavailable", false, 0, 1},
		{"", "data 554 5.7.1", "permanent", "refused_by_policy", true, 0, 1},
		{"", "data 552 5.3.4", "permanent", "too_large", true, 0, 1},
		{"", "data 554 5.6.0", "permanent", "invalid_content", true, 0, 1},
		{"", sinktest.FaultCutRcpt, "transient", "channel_unavailable", false, 0, 2},
		{"", sinktest.FaultCutBody, "transient", "channel_unavailable", false, 0, 2},
		{"", sinktest.FaultCutDot, "unknown", "channel_unavailable", false, 1, 2},
		{"", sinktest.FaultHangDot, "unknown", "channel_timeout", false, 1, 2},
		{"", sinktest.FaultBye, "sent", "", false, 1, 2},
		{"greet 421", "", "transient", "channel_unavailable", false, 0, 2},
		{"greet 554", "", "stop", "channel_auth", false, 0, 2},
		{"auth 535 5.7.8", "", "stop", "channel_auth", false, 0, 2},
		{"auth 454 4.7.0", "", "transient", "channel_unavailable", false, 0, 2},
		{"mail 550 5.7.1", "", "stop", "channel_auth", false, 0, 2},
		{"mail 452 4.3.1", "", "transient", "channel_unavailable", false, 0, 1},
		{sinktest.FaultHangHelo, "", "transient", "channel_timeout", false, 0, 2},
	} {
		t.Run(fmt.Sprint(test.connection, test.mail), func(t *testing.T) {
			t.Parallel()
			rules, connections := sinktest.NewRules(t, 1), sinktest.NewRules(t, 1)
			if test.mail != "" {
				rules.First(1, test.mail)
			}
			if test.connection != "" {
				connections.First(1, test.connection)
			}
			s := sinktest.NewSMTP(t, sinktest.SMTPOptions{}, rules, connections)
			c := newChannel(t, configOf(s))
			d := delivery(1, to)
			if test.mail == sinktest.FaultCutBody {
				d.Record.Body = strings.Repeat("much text ", 1_600_000) // more than sockets hold
			}
			limit := time.Minute
			if test.code == "channel_timeout" {
				limit = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := c.Send(ctx, d)
			got, fault := outcomeOf(t, err)
			if got != test.want || fault.Failure.Code != test.code || fault.Neutral != test.neutral {
				t.Fatalf("got %s, %s, neutral %v (%v); want %s, %s, neutral %v", got, fault.Failure.Code, fault.Neutral, err, test.want, test.code, test.neutral)
			}
			if got == "stop" && strings.Contains(err.Error(), to) {
				t.Errorf("what is logged of the stop names the recipient: %v", err)
			}
			if n := s.Times(d.Record.ID.String()); n != test.taken {
				t.Errorf("the relay took the mail %d times, want %d", n, test.taken)
			}
			if met := rules.Met(test.mail) + connections.Met(test.connection); test.mail+test.connection != "" && met != 1 {
				t.Errorf("the fault was met %d times", met)
			}
			if test.connection == "mail 452 4.3.1" {
				return // and so it goes on, on this connection
			}
			if _, err := c.Send(t.Context(), delivery(2, to)); err != nil {
				t.Errorf("the next mail: %v", err)
			}
			if s.Dialled() != test.again {
				t.Errorf("%d connections, want %d", s.Dialled(), test.again)
			}
			if wrong := s.Wrong(); len(wrong) > 0 {
				t.Errorf("a real relay would refuse: %q", wrong)
			}
		})
	}
}

func TestWaysToConnect(t *testing.T) {
	for name, test := range map[string]struct {
		relay  sinktest.SMTPOptions
		config func(*Config)
		want   string
	}{
		"starttls":             {sinktest.SMTPOptions{}, func(c *Config) {}, "sent"},
		"implicit":             {sinktest.SMTPOptions{Implicit: true}, func(c *Config) { c.TLS = TLSImplicit }, "sent"},
		"none on loopback":     {sinktest.SMTPOptions{Plain: true}, func(c *Config) { c.TLS = TLSNone }, "sent"},
		"no login":             {sinktest.SMTPOptions{NoAuth: true}, func(c *Config) { c.Username = "" }, "sent"},
		"starttls not offered": {sinktest.SMTPOptions{Plain: true}, func(c *Config) {}, "transient"},
		"unknown certificate":  {sinktest.SMTPOptions{}, func(c *Config) { c.TLSConfig = nil }, "transient"},
		"unknown, implicit":    {sinktest.SMTPOptions{Implicit: true}, func(c *Config) { c.TLS, c.TLSConfig = TLSImplicit, nil }, "transient"},
		"wrong password":       {sinktest.SMTPOptions{}, func(c *Config) { c.Password = "wrong" }, "stop"},
		"nobody there":         {sinktest.SMTPOptions{}, func(c *Config) { c.Port = 1 }, "transient"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sinktest.NewSMTP(t, test.relay, nil, nil)
			config := configOf(s)
			test.config(&config)
			_, err := newChannel(t, config).Send(t.Context(), delivery(1, "a@example.org"))
			if got, _ := outcomeOf(t, err); got != test.want {
				t.Errorf("got %s (%v), want %s", got, err, test.want)
			}
		})
	}
	if _, err := New(Config{Host: "mail.example.org", TLS: TLSNone, From: "a@example.org"}); err == nil {
		t.Error("in clear over a network is allowed")
	}
}

// TestConnectionsAreKept: many mails over as many connections as configured,
// and each exactly once.
func TestConnectionsAreKept(t *testing.T) {
	s := sinktest.NewSMTP(t, sinktest.SMTPOptions{}, nil, nil)
	c := newChannel(t, configOf(s))
	var group sync.WaitGroup
	for n := range 150 {
		group.Go(func() {
			sent, err := c.Send(t.Context(), delivery(n, "a@example.org"))
			if err != nil || !strings.HasPrefix(sent.ProviderID, "Q") {
				t.Errorf("mail %d: got %+v, %v", n, sent, err)
			}
		})
	}
	group.Wait()
	for id, times := range s.All() {
		if times != 1 {
			t.Errorf("%s was taken %d times", id, times)
		}
	}
	if s.Total() != 150 || s.Dialled() > 4 { // two, and two more after a hundred each
		t.Errorf("%d mails over %d connections", s.Total(), s.Dialled())
	}
}

// TestARelayThatClosesIdleConnections costs no attempt.
func TestARelayThatClosesIdleConnections(t *testing.T) {
	s := sinktest.NewSMTP(t, sinktest.SMTPOptions{}, nil, nil)
	s.MaxMails = 1
	config := configOf(s)
	config.Connections = 1
	c := newChannel(t, config)
	for n := range 5 {
		if _, err := c.Send(t.Context(), delivery(n, "a@example.org")); err != nil {
			t.Errorf("mail %d: %v", n, err)
		}
	}
	if s.Total() != 5 || s.Dialled() != 5 {
		t.Errorf("%d mails over %d connections", s.Total(), s.Dialled())
	}
}

func TestClosedChannelSendsNothing(t *testing.T) {
	s := sinktest.NewSMTP(t, sinktest.SMTPOptions{}, nil, nil)
	c := newChannel(t, configOf(s))
	if _, err := c.Send(t.Context(), delivery(1, "a@example.org")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := c.Send(t.Context(), delivery(2, "a@example.org"))
	if got, fault := outcomeOf(t, err); got != "transient" || !fault.Neutral || s.Total() != 1 {
		t.Errorf("got %s, %d mails", got, s.Total())
	}
}

func TestQueueID(t *testing.T) {
	for response, want := range map[string]string{
		"2.0.0 Ok: queued as 4F2A1B":            "4F2A1B",
		"OK id=1tF3ab-000A1b-2x":                "1tF3ab-000A1b-2x",
		"2.0.0 Ok: queued as <abc@d> (q=2)":     "abc@d",
		"2.0.0 OK  1795432800 a1 - gsmtp":       "",
		"queued as " + strings.Repeat("x", 200): "",
		"":                                      "",
	} {
		if got := queueID(response); got != want {
			t.Errorf("%q: got %q, want %q", response, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	s := sinktest.NewSMTP(t, sinktest.SMTPOptions{}, nil, nil)
	c := newChannel(t, configOf(s))
	for to, want := range map[string]bool{
		"a@example.org": true, "a.b+c@example.org": true, "ä@example.org": true, "a@müller.example": true, "a@EXAMPLE.org": true,
		strings.Repeat("a", 64) + "@example.org": true, "o'neil@example.org": true,
		strings.Repeat("a", 65) + "@example.org": false, "a@" + strings.Repeat("b.", 130) + "org": false,
		"a": false, "@example.org": false, "a@": false, "a@localhost": false, "a@1.2.3.4": false, "a@[1.2.3.4]": false, "a b@example.org": false,
		"a@example..org": false, ".a@example.org": false, "a.@example.org": false, "a..b@example.org": false, "a@-example.org": false,
		"a\r\nBcc: b@example.org": false, "a@example.org\r\nx": false, "\"a b\"@example.org": false, "a@b@example.org": false,
		"A <a@example.org>": false, "a,b@example.org": false, "a@exa_mple.org": false, "\xff@example.org": false, "a\u0085@example.org": false,
	} {
		if got := c.Check(&message.Message{To: to, Subject: "s", Body: "b"}) == nil; got != want {
			t.Errorf("%q: got %v", to, got)
		}
	}
	good := message.Message{To: "a@example.org", Subject: "s", Body: "b"}
	for name, edit := range map[string]func(*message.Message){
		"no subject": func(m *message.Message) { m.Subject = "" },
		"two lines":  func(m *message.Message) { m.Subject = "a\nBcc: x" },
		"no text":    func(m *message.Message) { m.Body = "" },
		"unsubscribe http": func(m *message.Message) {
			m.Metadata = []message.Pair{{Key: MetadataUnsubscribe, Value: "http://example.org/"}}
		},
		"unsubscribe line": func(m *message.Message) {
			m.Metadata = []message.Pair{{Key: MetadataUnsubscribe, Value: "mailto:a@b.c\r\nBcc: x"}}
		},
		"unsubscribe two": func(m *message.Message) {
			m.Metadata = []message.Pair{{Key: MetadataUnsubscribe, Value: "https://a.b/>,<mailto:x@y.z"}}
		},
	} {
		m := good
		edit(&m)
		if f := c.Check(&m); f == nil || f.Code != "invalid_content" {
			t.Errorf("%s: got %v", name, f)
		}
	}
}
