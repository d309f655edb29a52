package sinktest

import (
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"forebay/wal/message"
)

// text generates what may stand in a message: any valid UTF-8 without NUL,
// which is refused where messages come in.
func text(maxRunes int) *rapid.Generator[string] {
	runes := rapid.OneOf(rapid.Rune(), rapid.RuneFrom([]rune{'a', '\'', '"', '\\', '{', ',', '\n', '\t', 'é', '世', '😀', '\u0301', '\u200b', '\ufffd', '\U0010ffff'}))
	return rapid.StringOfN(runes.Filter(func(r rune) bool { return r != 0 && utf8.ValidRune(r) }), 0, maxRunes, -1)
}

// instant generates a time in whole milliseconds, or none.
func instant() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "none") {
			return time.Time{}
		}
		return time.UnixMilli(rapid.Int64Range(1, 4_000_000_000_000).Draw(t, "ms")).UTC()
	})
}

// payload generates a message of the account, without an idempotency key.
func payload(account string) *rapid.Generator[message.Message] {
	return rapid.Custom(func(t *rapid.T) message.Message {
		m := message.Message{
			Account:     account,
			Channel:     rapid.SampledFrom(message.Channels).Draw(t, "channel"),
			Priority:    message.Priority(rapid.IntRange(0, message.Lanes-1).Draw(t, "priority")),
			Test:        rapid.Bool().Draw(t, "test"),
			To:          text(40).Draw(t, "to"),
			Subject:     text(40).Draw(t, "subject"),
			Body:        text(200).Draw(t, "body"),
			HTML:        text(40).Draw(t, "html"),
			SendAt:      instant().Draw(t, "send at"),
			TTL:         time.Duration(rapid.Int64Range(0, 2_592_000).Draw(t, "ttl")) * time.Second,
			ClientRef:   text(20).Draw(t, "client ref"),
			Metadata:    message.MetadataFrom(rapid.MapOfN(text(10), text(10), 0, 4).Draw(t, "metadata")),
			CallbackURL: text(40).Draw(t, "callback url"),
			TraceParent: text(20).Draw(t, "traceparent"),
			RequestID:   text(20).Draw(t, "request id"),
		}
		if rapid.Bool().Draw(t, "template") {
			m.Template = &message.Template{
				Name:       text(10).Draw(t, "template name"),
				Language:   text(5).Draw(t, "language"),
				Parameters: rapid.SliceOfN(text(10), 0, 4).Draw(t, "parameters"),
			}
		}
		return m
	})
}

// progress generates a state that a message may have before the store hears of
// it: its channel was faster than the database.
func progress() *rapid.Generator[message.State] {
	return rapid.Custom(func(t *rapid.T) message.State {
		s := message.State{
			Status: rapid.SampledFrom([]message.Status{message.Queued, message.Sending, message.Sent, message.Delivered,
				message.Read, message.Undelivered, message.Failed, message.Rejected, message.Canceled, message.Expired,
				message.Scheduled}).Draw(t, "status"),
			ScheduledAt:   instant().Draw(t, "scheduled"),
			SentAt:        instant().Draw(t, "sent"),
			DeliveredAt:   instant().Draw(t, "delivered"),
			ReadAt:        instant().Draw(t, "read"),
			FailedAt:      instant().Draw(t, "failed"),
			NextAttemptAt: instant().Draw(t, "next attempt"),
			HoldReason:    text(20).Draw(t, "hold reason"),
			ProviderID:    text(20).Draw(t, "provider id"),
		}
		if rapid.Bool().Draw(t, "error") {
			s.Error = &message.Failure{Code: text(10).Draw(t, "code"), Category: text(10).Draw(t, "category"),
				Retryable: rapid.Bool().Draw(t, "retryable"), ChannelCode: text(10).Draw(t, "channel code"), Message: text(40).Draw(t, "message")}
		}
		for n := range rapid.IntRange(0, 3).Draw(t, "attempts") {
			s.Attempts = append(s.Attempts, message.Attempt{N: n + 1,
				At:      time.UnixMilli(rapid.Int64Range(1, 4_000_000_000_000).Draw(t, "at")).UTC(),
				Outcome: text(10).Draw(t, "outcome"), ChannelCode: text(10).Draw(t, "channel code"),
				Duration: time.Duration(rapid.Int64Range(0, 100_000_000).Draw(t, "µs")) * time.Microsecond})
		}
		return s
	})
}

// plain is the smallest message of the account.
func plain(account string) message.Message {
	return message.Message{Account: account, Channel: message.ChannelStore, Priority: message.Normal, Body: "hello"}
}

// keyed is plain with an idempotency key.
func keyed(account, key string) message.Message {
	m := plain(account)
	m.IdempotencyKey = key
	m.Fingerprint = m.PayloadFingerprint()
	return m
}
