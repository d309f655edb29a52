package message

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// allowed is the table of statuses in words of its own, so that the program's is
// held against something that was not derived from it.
var allowed = map[string]string{
	"accepted":  "queued rejected duplicate scheduled stored failed canceled expired",
	"scheduled": "queued canceled expired rejected duplicate",
	"queued":    "sending canceled expired failed rejected duplicate",
	"sending":   "sent queued failed expired",
	"sent":      "delivered read undelivered",
	"delivered": "read",
}

func allows(from, to Status) bool {
	return slices.Contains(strings.Fields(allowed[from.String()]), to.String())
}

// leads reports whether the table has a way from one status to another.
func leads(from, to Status, seen map[Status]bool) bool {
	for _, s := range Statuses {
		if allows(from, s) && !seen[s] {
			seen[s] = true
			if s == to || leads(s, to, seen) {
				return true
			}
		}
	}
	return false
}

func TestStatusTable(t *testing.T) {
	for _, from := range Statuses {
		for _, to := range Statuses {
			if got, want := from.CanBecome(to), allows(from, to); got != want {
				t.Errorf("%v can become %v = %v, want %v", from, to, got, want)
			}
			if got, want := from.CanReach(to), leads(from, to, map[Status]bool{}); got != want {
				t.Errorf("%v can reach %v = %v, want %v", from, to, got, want)
			}
		}
	}
	if Accepted.CanReach(0) || Status(99).CanReach(Sent) || Status(0).CanReach(Sent) {
		t.Error("what is no status reaches something or is reached")
	}
}

// drawEvent draws what a store may hear of a message: an update of ours, or a
// provider's report.
func drawEvent(t *rapid.T) State {
	if rapid.Bool().Draw(t, "report") {
		r := Report{Channel: ChannelWhatsApp, ProviderID: "p", At: drawTime(t, "at").Add(time.Millisecond),
			Status: rapid.SampledFrom([]Status{Sent, Delivered, Read, Undelivered}).Draw(t, "status")}
		if r.Status == Undelivered {
			r.Failure = &Failure{Code: "undeliverable", Category: "provider"}
		}
		return r.State()
	}
	return drawState(t)
}

// TestPropertyTransitions: no history of events, whatever their order
// and repetition, gives a transition that the table does not have.
func TestPropertyTransitions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(rapid.Custom(drawEvent), 1, 12).Draw(t, "events")
		order := rapid.SliceOfN(rapid.IntRange(0, len(events)-1), 1, 30).Draw(t, "order")
		s := State{Status: Accepted, StoredAt: time.UnixMilli(1).UTC()}
		for _, i := range order {
			m := s.Merge(events[i])
			if m.Status != s.Status && !leads(s.Status, m.Status, map[Status]bool{}) {
				t.Fatalf("%v and %v came to %v, which the table does not allow", s.Status, events[i].Status, m.Status)
			}
			if len(m.Attempts) < len(s.Attempts) || s.ProviderID != "" && m.ProviderID != s.ProviderID ||
				!s.SentAt.IsZero() && !m.SentAt.Equal(s.SentAt) || !m.StoredAt.Equal(s.StoredAt) {
				t.Fatalf("merge lost something:\n%s", cmp.Diff(s, m))
			}
			if again := m.Merge(events[i]); !again.Same(&m) {
				t.Fatalf("the same again changed something:\n%s", cmp.Diff(m, again))
			}
			if s.Final() && !m.Final() {
				t.Fatalf("final %v became %v", s.Status, m.Status)
			}
			s = m
		}
	})
}

// TestPropertyReportsInAnyOrder: a provider's reports of one fate come to the
// same, whatever their order and repetition, and wherever our own record of the
// sending comes among them.
func TestPropertyReportsInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := func(n int64) time.Time { return time.UnixMilli(n).UTC() }
		sent := State{Status: Sent, SentAt: at(10), ProviderID: "p", Attempts: []Attempt{{N: 1, At: at(9), Outcome: "sent"}}}
		fates := [][]Report{
			{{Status: Sent, At: at(11)}, {Status: Delivered, At: at(12)}, {Status: Read, At: at(13)}},
			{{Status: Sent, At: at(11)}, {Status: Delivered, At: at(12)}},
			{{Status: Sent, At: at(11)}, {Status: Undelivered, At: at(12), Failure: &Failure{Code: "undeliverable"}}},
		}
		fate := rapid.SampledFrom(fates).Draw(t, "fate")
		events := []State{sent}
		for _, r := range fate {
			r.ProviderID = "p"
			events = append(events, r.State())
		}
		all := append(rapid.Permutation(events).Draw(t, "order"), rapid.SliceOfN(rapid.SampledFrom(events), 0, 6).Draw(t, "repeats")...)
		got, want := State{Status: Sending}, State{Status: Sending}
		for _, e := range all {
			got = got.Merge(e)
		}
		for _, e := range events {
			want = want.Merge(e)
		}
		// Two speak of when it was sent; whoever came first is believed.
		got.SentAt, want.SentAt = time.Time{}, time.Time{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("another order came to something else (-want +got):\n%s", diff)
		}
	})
}

func TestMergeOpenStatuses(t *testing.T) {
	one := []Attempt{{N: 1, At: time.UnixMilli(5).UTC(), Outcome: "transient"}}
	later := time.UnixMilli(9000).UTC()
	queued := State{Status: Queued, Attempts: one, NextAttemptAt: later, HoldReason: "retry", Error: &Failure{Code: "busy"}}
	for _, c := range []struct {
		name     string
		s, in    State
		want     Status
		hold     string
		hasError bool
	}{
		{"a retry", State{Status: Sending}, queued, Queued, "retry", true},
		{"before the retry", queued, State{Status: Sending}, Queued, "retry", true},
		{"held without an attempt", State{Status: Sending}, State{Status: Queued, HoldReason: "breaker_open"}, Queued, "breaker_open", false},
		{"sent in the end", queued, State{Status: Sent, Attempts: append(one, one...)}, Sent, "", false},
		{"a queued one after it was sent", State{Status: Sent}, queued, Sent, "", false},
		{"due", State{Status: Scheduled, HoldReason: "scheduled"}, State{Status: Queued}, Queued, "", false},
		{"scheduled after that", State{Status: Queued}, State{Status: Scheduled, HoldReason: "scheduled"}, Queued, "", false},
		{"delivered after it was given up", State{Status: Sent, Error: &Failure{Code: CodeNoReport}}, State{Status: Delivered}, Delivered, "", false},
		{"given up after it was delivered", State{Status: Delivered}, State{Status: Sent, Error: &Failure{Code: CodeNoReport}}, Delivered, "", false},
		{"given up", State{Status: Sent}, State{Status: Sent, Error: &Failure{Code: CodeNoReport}}, Sent, "", true},
		{"nothing", queued, State{}, Queued, "retry", true},
	} {
		got := c.s.Merge(c.in)
		if got.Status != c.want || got.HoldReason != c.hold || (got.Error != nil) != c.hasError {
			t.Errorf("%s: %v %q %v, want %v %q and an error %v", c.name, got.Status, got.HoldReason, got.Error, c.want, c.hold, c.hasError)
		}
	}
}
