package webhook

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"forebay/sink"
	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	oldSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	newSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs="
)

type secrets []string

func (s secrets) WebhookSecrets(context.Context, string) ([]string, error) { return s, nil }

func newChannel(t *testing.T, s Settings, p *Patience, keys ...string) *Channel {
	t.Helper()
	c, err := New(Config{Settings: s, Secrets: secrets(keys), Patience: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func delivery(to, body string) *sink.Delivery {
	return &sink.Delivery{Attempt: 1, Record: message.Record{ID: message.NewID(1_800_000_000_000, 1, 1, message.Normal, 7), Seq: 1,
		Message: message.Message{Account: "acme", Channel: message.ChannelWebhook, To: to, Body: body}}}
}
