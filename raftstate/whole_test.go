package raftstate

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"forebay/raftstate/account"
	"forebay/raftstate/breaker"
	"forebay/raftstate/limiter"
)

// wholeMachine is a machine with every part that an appliance's has.
func wholeMachine(t *rapid.T) *machine {
	m := bareMachine(func(err error) { t.Fatalf("fatal: %v", err) })
	watch, err := breaker.New(breaker.Config{Node: 1, Propose: func(context.Context, breaker.Report) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	m.breakers = &breakersPart{state: breaker.NewState(), watch: watch}
	m.add(m.breakers)
	return m
}

// sessions remembers what the leases of a log have come to, so that most of them
// are the next one of an open session.
type sessions map[uint16]*limiter.Request

// wholeEntry draws the kind and body of a command of any part.
func wholeEntry(t *rapid.T, open sessions) (kind uint8, body []byte) {
	var err error
	id := fmt.Sprintf("a%d", rapid.IntRange(0, 3).Draw(t, "account"))
	node := uint16(rapid.IntRange(1, 3).Draw(t, "node"))
	switch what := rapid.SampledFrom([]string{"account", "account", "lease", "lease", "lease", "lease", "window", "report", "report", "report",
		"force", "settings", "member"}).Draw(t, "part"); what {
	case "account":
		cmd := rapid.SampledFrom([]account.Command{
			account.SetPlans{Plans: normal(plans("basic", "premium"))},
			account.CreateAccount{ID: id, Tier: "basic"}, account.CreateAccount{ID: id, Tier: "premium"},
			account.DeleteAccount{ID: id},
			account.CreateKey{ID: "keyaaaaaaaaa", Account: id},
		}).Draw(t, "account command")
		kind = uint8(cmd.Kind())
		body, err = account.Encode(cmd)
	case "lease":
		kind, body = kindLease, leaseOf(t, node, id, open)
	case "window":
		kind, body = kindWindow, binary.BigEndian.AppendUint64(nil, rapid.SampledFrom([]uint64{1000, 60_000}).Draw(t, "window"))
	case "report":
		cmd := breaker.Report{Node: node, Items: []breaker.Item{{Service: "email",
			Generation: rapid.Uint64Range(0, 4).Draw(t, "generation"), Failures: rapid.IntRange(0, 6).Draw(t, "failures"),
			OK: rapid.Bool().Draw(t, "ok"), Ask: rapid.Bool().Draw(t, "ask"), Early: rapid.Bool().Draw(t, "early"),
			Probe: rapid.SampledFrom([]breaker.Probe{"", breaker.ProbeSuccess, breaker.ProbeFailure}).Draw(t, "probe")}}}
		kind = uint8(cmd.Kind())
		body, err = breaker.Encode(cmd)
	case "force":
		cmd := breaker.Force{Service: "email", Who: "olga", To: rapid.SampledFrom([]breaker.Position{breaker.ForcedOpen, breaker.Auto, breaker.Auto}).Draw(t, "to")}
		kind = uint8(cmd.Kind())
		body, err = breaker.Encode(cmd)
	case "settings":
		cmd := breaker.Configure{Settings: breaker.Settings{Threshold: rapid.IntRange(1, 5).Draw(t, "threshold"), Timeout: time.Second, Recovery: time.Second}}
		kind = uint8(cmd.Kind())
		body, err = breaker.Encode(cmd)
	default:
		kind = rapid.SampledFrom([]uint8{kindSetMember, kindSetMember, kindDropMember}).Draw(t, "member command")
		body, err = json.Marshal(member{Node: node, Address: rapid.SampledFrom([]string{"10.0.0.1:7000", "10.0.0.2:7000"}).Draw(t, "address"), NonVoter: rapid.Bool().Draw(t, "nonvoter")})
	}
	if err != nil {
		t.Fatal(err)
	}
	return kind, body
}

func leaseOf(t *rapid.T, node uint16, id string, open sessions) []byte {
	q := open[node]
	if q == nil || rapid.IntRange(0, 7).Draw(t, "new session") == 0 {
		next := &limiter.Request{Node: node, Session: 1, Nonce: rapid.Uint64().Draw(t, "nonce")}
		if q != nil {
			next.Session = q.Session + 1
		}
		q = next
	} else {
		q.Seq++
		n := func(what string) int64 { return rapid.Int64Range(0, 30).Draw(t, what) }
		q.Entries = []limiter.Entry{{Account: id, Spent: n("spent"), Held: n("held"), Want: n("want"), Ahead: n("ahead"), Slots: n("slots"), InFlight: n("in flight")}}
	}
	open[node] = q
	c := limiter.Command{Nodes: 3, Requests: []limiter.Request{*q}}
	return c.Append(nil)
}

// wholeLogs draws logs in which the commands of all parts meet, some repeated.
func wholeLogs() *rapid.Generator[[]*raft.Log] {
	return rapid.Custom(func(t *rapid.T) []*raft.Log {
		var logs []*raft.Log
		open, stamp := sessions{}, uint64(0)
		add := func(kind uint8, body []byte) {
			i := len(logs)
			c := command{kind: kind, request: requestID{byte(i), 2}, stamp: stamp, body: body}
			logs = append(logs, &raft.Log{Index: uint64(i + 1), Type: raft.LogCommand, Data: c.encode()})
		}
		first, err := account.Encode(account.SetPlans{Plans: normal(plans("basic", "premium"))})
		if err != nil {
			t.Fatal(err)
		}
		add(uint8(account.KindSetPlans), first)
		for range rapid.IntRange(1, 80).Draw(t, "length") {
			stamp += rapid.SampledFrom([]uint64{0, 1, 300, 1100, 61_000}).Draw(t, "wait")
			if rapid.IntRange(0, 6).Draw(t, "repeat") == 0 {
				again := *logs[rapid.IntRange(0, len(logs)-1).Draw(t, "which")]
				again.Index = uint64(len(logs) + 1)
				logs = append(logs, &again)
				continue
			}
			add(wholeEntry(t, open))
		}
		return logs
	})
}

// TestSameLogSameStateOfAllParts is what replicas rest on: a log alone, in
// batches, or from any snapshot on comes to the same bytes and the same answers,
// whichever parts its commands are of.
func TestSameLogSameStateOfAllParts(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		logs := wholeLogs().Draw(t, "log")
		cut := rapid.IntRange(0, len(logs)).Draw(t, "cut")
		single, batch := wholeMachine(t), wholeMachine(t)
		var one []any
		for _, l := range logs {
			one = append(one, single.Apply(l))
			count(seen, one[len(one)-1].(outcome).answer, single)
		}
		many := append(batch.ApplyBatch(logs[:cut]), batch.ApplyBatch(logs[cut:])...)

		before := wholeMachine(t)
		rest := before.ApplyBatch(logs[:cut])
		saved := stateOf(t, before)
		resumed := wholeMachine(t)
		resumed.ApplyBatch(logs) // of a life that the snapshot must wipe out
		if err := resumed.Restore(io.NopCloser(strings.NewReader(saved))); err != nil {
			t.Fatalf("restore: %v", err)
		}
		if got := stateOf(t, resumed); got != saved {
			t.Fatalf("restored state differs:\n%s\n%s", got, saved)
		}
		rest = append(rest, resumed.ApplyBatch(logs[cut:])...)

		opt := gocmp.AllowUnexported(outcome{}, breakersAnswer{})
		for name, answers := range map[string][]any{"batch": many, "resumed": rest} {
			if diff := gocmp.Diff(one, answers, opt); diff != "" {
				t.Fatalf("%s answers differently:\n%s", name, diff)
			}
		}
		want := stateOf(t, single)
		for name, m := range map[string]*machine{"batch": batch, "resumed": resumed} {
			if got := stateOf(t, m); got != want {
				t.Fatalf("%s came to another state:\n%s\n%s", name, got, want)
			}
		}
	})
	for _, what := range []string{"tokens", "refusals", "open breakers", "members", "accounts"} {
		if seen[what] == 0 {
			t.Errorf("no log came to %s: %v", what, seen)
		}
	}
	t.Logf("seen: %v", seen)
}

func count(seen map[string]int, answer any, m *machine) {
	if leases, ok := answer.([]limiter.Answer); ok {
		for _, a := range leases {
			for _, g := range a.Grants {
				seen["tokens"] += int(g.Tokens)
				if g.Reason != limiter.Allowed {
					seen["refusals"]++
				}
			}
		}
	}
	if m.breakers.state.View("email", 1).Phase != breaker.Closed {
		seen["open breakers"]++
	}
	seen["members"] += len(m.members.members)
	seen["accounts"] += len(m.accounts.Accounts())
}
