package sink

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/wal/message"
)

// TestNothingIsLeftInAQueue: whatever the accounts, hosts, limits, cancels and ends
// of calls, every message that is not canceled is taken once, none beyond its limits,
// and at the end nothing is counted that is not there.
func TestNothingIsLeftInAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &Dispatcher{cfg: DispatcherConfig{QueueLimit: 1000}, delivery: DeliveryConfig{
			PerAccount: rapid.IntRange(1, 6).Draw(t, "per account"), PerHost: rapid.IntRange(1, 4).Draw(t, "per host")}}
		o := newOutlet(d, message.ChannelWebhook)
		o.sender, o.workers = nobody{}, rapid.IntRange(1, 8).Draw(t, "workers")
		var all, calls []*job
		taken := map[*job]int{}
		take := func() bool {
			j, _ := o.nextLocked(time.Now())
			if j == nil {
				return false
			}
			taken[j]++
			calls = append(calls, j)
			if a := j.account; a.inflight > d.delivery.PerAccount || j.host.inflight > d.delivery.PerHost || o.inflight > o.workers {
				t.Fatalf("account %d, host %d, outlet %d in flight", a.inflight, j.host.inflight, o.inflight)
			}
			return true
		}
		end := func(i int, v Verdict) {
			j := calls[i]
			calls = append(calls[:i], calls[i+1:]...)
			j.host.learnLocked(v)
			o.overLocked(j)
			o.recording--
		}
		verdicts := []Verdict{Success, Success, Failure, Neutral}
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				j := &job{service: fmt.Sprintf("webhook:h%d:443", rapid.IntRange(0, 5).Draw(t, "host")), entry: message.Entry{Payload: []byte("x")}}
				j.rec.Account = fmt.Sprint("account", rapid.IntRange(0, 3).Draw(t, "account"))
				j.rec.ID = message.NewID(1, uint16(len(all)), 1, message.Priority(rapid.IntRange(0, 3).Draw(t, "priority")), 1)
				all = append(all, j)
				o.pushLocked(j)
			case 2:
				take()
			case 3:
				if len(calls) > 0 {
					end(rapid.IntRange(0, len(calls)-1).Draw(t, "which"), rapid.SampledFrom(verdicts).Draw(t, "verdict"))
				}
			case 4:
				if len(all) > 0 {
					if j := all[rapid.IntRange(0, len(all)-1).Draw(t, "canceled")]; j.phase == waiting {
						j.phase = canceled
					}
				}
			}
		}
		for take() || len(calls) > 0 {
			if len(calls) > 0 {
				end(0, rapid.SampledFrom(verdicts).Draw(t, "verdict at the end"))
			}
		}
		for i, j := range all {
			if want := map[bool]int{true: 0, false: 1}[j.phase == canceled]; taken[j] != want {
				t.Fatalf("message %d of %s to %s was taken %d times, want %d", i, j.rec.Account, j.service, taken[j], want)
			}
		}
		left := o.strangers.calls + o.inflight + o.bytes
		for p := range o.queued {
			left += o.queued[p] + o.express[p].len()
		}
		for _, a := range o.accounts.named {
			left += a.inflight + a.strangers + len(a.aside)
		}
		for _, h := range o.hosts.named {
			left += h.inflight + h.queued + h.setAside()
		}
		if left != 0 {
			t.Fatalf("the queue is empty, and %+v is counted", o)
		}
	})
}
