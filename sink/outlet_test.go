package sink

import (
	"fmt"
	"hash/fnv"
	"testing"
	"time"

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
		if len(o.hosts.named) > maxHosts {
			t.Fatalf("%d hosts are remembered, want %d at most", len(o.hosts.named), maxHosts)
		}
	}
	if o.hostLocked(waiting.name) != waiting {
		t.Error("a host with a message in the queue was forgotten")
	}
}

// TestRoomIsAnAccountsOwn: what others have waiting at a host that an account writes
// to, too, takes none of that account's room.
func TestRoomIsAnAccountsOwn(t *testing.T) {
	d := &Dispatcher{cfg: DispatcherConfig{QueueLimit: 400}, delivery: DeliveryConfig{PerAccount: 1000, PerHost: 1, QueueBytes: 1 << 20}}
	o := newOutlet(d, message.ChannelWebhook)
	o.workers, o.sender = 1000, nobody{}
	push := func(account string, n int) {
		for i := range n {
			j := &job{service: "webhook:a.example:443"}
			j.rec.Account, j.rec.ID = account, message.NewID(1, uint16(i), 1, message.Normal, 1)
			o.pushLocked(j)
		}
	}
	push("busy", 90)
	push("modest", 10)
	taken := 0
	for j, _ := o.nextLocked(time.Now()); j != nil; j, _ = o.nextLocked(time.Now()) {
		taken++
	}
	if taken != 1 || len(o.accounts.named["modest"].aside) != 1 {
		t.Fatalf("%d were taken, and %d hosts have something of the modest account aside, want 1 and 1", taken, len(o.accounts.named["modest"].aside))
	}
	for account, want := range map[string]int{"busy": 100 - 90, "modest": 100 - 10} {
		if got := o.roomLocked(o.accounts.named[account], message.Normal); got != want && got != want+1 { // one is in flight
			t.Errorf("%s has room for %d, want %d", account, got, want)
		}
	}
	o.emptyLocked()
	for name, a := range o.accounts.named {
		if got := o.roomLocked(a, message.Normal); got != 100 {
			t.Errorf("%s has room for %d in an empty queue, want 100", name, got)
		}
	}
}

// nobody is a channel that is never called.
type nobody struct{ Channel }

// TestIndex: what is removed is found by neither name nor hash, and never somebody
// else who has the same hash.
func TestIndex(t *testing.T) {
	x := newIndex[*host]()
	a, b := &host{name: "a", hash: 7}, &host{name: "b", hash: 7}
	x.add(a.name, a.hash, a)
	x.add(b.name, b.hash, b)
	x.remove(a.name, a.hash)
	if x.hashed[7] != b || x.named["a"] != nil || x.named["b"] != b {
		t.Errorf("after a is gone: %+v", x)
	}
	x.remove(b.name, b.hash)
	if len(x.named)+len(x.hashed) != 0 {
		t.Errorf("after both are gone: %+v", x)
	}
}

// TestShelvesOfHostsAreApart: names that share 48 bits of an FNV hash, which are found
// in seconds, share no shelf.
func TestShelvesOfHostsAreApart(t *testing.T) {
	for a, b := range map[string]string{
		"webhook:9af1b34571dffa1f.example:443": "webhook:8fccd3277c8ee60e.example:443",
		"webhook:2ff51b25e5ce5c0b.example:443": "webhook:27cb392a963a6f89.example:443",
	} {
		weak := func(name string) uint64 {
			h := fnv.New64a()
			h.Write([]byte(name))
			return h.Sum64() << 16
		}
		if weak(a) != weak(b) {
			t.Errorf("%s and %s share no hash: nothing is proved", a, b)
		}
		for _, p := range []message.Priority{message.Critical, message.Low} {
			if shelfID(message.ChannelWebhook, kindHost, p, hashOf(a)) == shelfID(message.ChannelWebhook, kindHost, p, hashOf(b)) {
				t.Errorf("%s and %s share a shelf", a, b)
			}
		}
	}
}
