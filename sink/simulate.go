package sink

import (
	"context"
	"net/url"
	"strings"
	"time"

	"forebay/wal/message"
)

// simulate is what a test message meets instead of a service: its recipient
// chooses the outcome. The last digit of a number, the local part of an address,
// the last part of a path: 1 or delivered, 2 or failed, 3 or slow, 4 or
// throttled. Everything else is delivered.
func simulate(ctx context.Context, r *message.Record, attempt int) (Sent, error) {
	ok := Sent{ProviderID: "test-" + r.ID.String(), ChannelCode: "test", Delivered: true}
	switch wishOf(r) {
	case "failed":
		return Sent{}, &Permanent{Fault{Neutral: true, Failure: message.Failure{Code: "recipient_unreachable", Category: "recipient",
			ChannelCode: "test", Message: "the recipient of this test message chose that it fails"}}}
	case "slow":
		timer := time.NewTimer(3 * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return Sent{}, &Transient{Fault{Neutral: true, Cause: context.Cause(ctx), Failure: message.Failure{Code: "channel_timeout",
				Category: "channel", ChannelCode: "test", Message: "the attempt took too long"}}}
		}
	case "throttled":
		if len(r.Attempts) == 0 {
			return Sent{}, &Throttled{Scope: ScopeRecipient, After: time.Second, Fault: Fault{Neutral: true,
				Failure: message.Failure{Code: "recipient_rate_limited", Category: "throttle", ChannelCode: "test",
					Message: "the recipient of this test message chose that its first attempt is throttled"}}}
		}
	}
	return ok, nil
}

var wishes = map[string]string{"1": "delivered", "2": "failed", "3": "slow", "4": "throttled"}

func wishOf(r *message.Record) string {
	switch r.Channel {
	case message.ChannelWhatsApp:
		if n := len(r.To); n > 0 {
			return wishes[r.To[n-1:]]
		}
	case message.ChannelEmail:
		local, _, _ := strings.Cut(r.To, "@")
		return strings.ToLower(local)
	case message.ChannelWebhook:
		if u, err := url.Parse(r.To); err == nil {
			return u.Path[strings.LastIndexByte(u.Path, '/')+1:]
		}
	}
	return ""
}
