package email

import (
	"testing"

	"go.uber.org/goleak"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sender = "Größe & Co <noreply@mail.example.org>"

func configOf(s *sinktest.SMTP) Config {
	return Config{Host: s.Host(), Port: s.Port(), Username: sinktest.SMTPUser, Password: sinktest.SMTPPassword, From: sender, Connections: 2, TLSConfig: s.TLS()}
}

func newChannel(t *testing.T, c Config) *Channel {
	t.Helper()
	ch, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ch.Close(); err != nil {
			t.Error(err)
		}
	})
	return ch
}

func delivery(n int, to string) *sink.Delivery {
	return &sink.Delivery{Attempt: 1, Record: message.Record{ID: message.NewID(uint64(1_800_000_000_000+n), 1, 1, message.Normal, 7), Seq: 1,
		Message: message.Message{Account: "acme", Channel: message.ChannelEmail, To: to, Subject: "Hello", Body: "text"}}}
}
