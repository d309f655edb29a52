package sink

import (
	"fmt"
	"testing"

	"forebay/wal/message"
)

// TestFailedHostsAreForgotten: hosts that clients name and that fail take no more
// and more memory, and none that has messages waiting is forgotten.
func TestFailedHostsAreForgotten(t *testing.T) {
	o := newOutlet(&Dispatcher{}, message.ChannelWebhook)
	waiting := o.hostLocked("webhook:waiting.example:443")
	waiting.queued = 1
	for i := range 3 * maxHosts {
		h := o.hostLocked(fmt.Sprint("webhook:", i, ".example:443"))
		h.credit, h.ill = 1, true
		if len(o.hosts) > maxHosts {
			t.Fatalf("%d hosts are remembered, want %d at most", len(o.hosts), maxHosts)
		}
	}
	if o.hostLocked(waiting.name) != waiting {
		t.Error("a host with a message in the queue was forgotten")
	}
}
