package sink

import (
	"testing"
	"time"

	"forebay/wal/message"
)

// TestRecipientsForgive: each throttle in a row makes a recipient wait longer, until
// a message reaches it after the wait; one that was under way meanwhile says nothing.
func TestRecipientsForgive(t *testing.T) {
	var r recipients
	now := time.Unix(1_800_000_000, 0)
	who := recipient{message.ChannelWebhook, "https://a.example/"}
	throttled := func(want time.Duration) {
		t.Helper()
		until := r.throttle(who, now, 0)
		if got := until.Sub(now); got != want || !r.until(who, now).Equal(until) {
			t.Errorf("throttled for %v, want %v", got, want)
		}
	}
	throttled(time.Second)
	r.well(who, now)
	throttled(4 * time.Second)
	if r.until(who, now.Add(4*time.Second)) != (time.Time{}) {
		t.Error("it rests for longer than it said")
	}
	now = now.Add(4 * time.Second)
	throttled(16 * time.Second)
	now = now.Add(16 * time.Second)
	r.well(who, now)
	throttled(time.Second)
	if len(r) != 1 {
		t.Errorf("%d recipients are remembered, want the one", len(r))
	}
}

// TestProviderID: what cannot be a service's name for a message is none.
func TestProviderID(t *testing.T) {
	long := string(make([]byte, maxProviderID+1))
	for name, want := range map[string]string{"wamid.HBgM=": "wamid.HBgM=", "é": "é", "a\x00b": "", "a\nb": "", "\xff": "", long: ""} {
		if got := providerID(name); got != want {
			t.Errorf("%q is %q, want %q", name[:min(len(name), 20)], got, want)
		}
	}
}
