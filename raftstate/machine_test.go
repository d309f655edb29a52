package raftstate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"forebay/raftstate/account"
)

func bareMachine(fatal func(error)) *machine { return newMachine(fatal, newMetrics(nil)) }

func stateOf(t *rapid.T, m *machine) string {
	var b bytes.Buffer
	s, err := m.Snapshot()
	if err == nil {
		err = s.(*snapshot).encode(&b)
	}
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return b.String()
}

// entries draws a log: commands that meet each other, some of them repeated.
func entries() *rapid.Generator[[]*raft.Log] {
	return rapid.Custom(func(t *rapid.T) []*raft.Log {
		var logs []*raft.Log
		for i := range rapid.IntRange(1, 40).Draw(t, "length") {
			if i > 0 && rapid.IntRange(0, 5).Draw(t, "repeat") == 0 {
				again := *logs[rapid.IntRange(0, i-1).Draw(t, "which")]
				again.Index = uint64(i + 1)
				logs = append(logs, &again)
				continue
			}
			id := fmt.Sprintf("a%d", rapid.IntRange(0, 3).Draw(t, "account"))
			key := fmt.Sprintf("key%daaaaaaaa", rapid.IntRange(2, 7).Draw(t, "key"))
			cmd := rapid.SampledFrom([]account.Command{
				account.SetPlans{Plans: normal(plans("basic"))},
				account.SetPlans{Plans: normal(plans("basic", "premium"))},
				account.CreateAccount{ID: id, Tier: "basic"},
				account.CreateAccount{ID: id, Tier: "premium"},
				account.DeleteAccount{ID: id},
				account.CreateKey{ID: key, Account: id},
				account.RevokeKey{ID: key, At: time.UnixMilli(int64(i + 1)).UTC()},
			}).Draw(t, "command")
			body, err := account.Encode(cmd)
			if err != nil {
				t.Fatal(err)
			}
			c := command{kind: uint8(cmd.Kind()), request: requestID{byte(i), 1}, stamp: rapid.Uint64Range(0, 1000).Draw(t, "stamp"), body: body}
			logs = append(logs, &raft.Log{Index: uint64(i + 1), Type: raft.LogCommand, Data: c.encode()})
		}
		return logs
	})
}

// TestSameLogSameState: one machine applies a log entry by entry, one in
// batches, one goes on from a snapshot. All come to the same bytes and give the
// same answers, and each authenticates as the state says.
func TestSameLogSameState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fatal := func(err error) { t.Fatalf("fatal: %v", err) }
		logs := entries().Draw(t, "log")
		cut := rapid.IntRange(0, len(logs)).Draw(t, "cut")

		single, batch, resumed := bareMachine(fatal), bareMachine(fatal), bareMachine(fatal)
		var one []any
		for _, l := range logs {
			one = append(one, single.Apply(l))
		}
		many := append(batch.ApplyBatch(logs[:cut]), batch.ApplyBatch(logs[cut:])...)
		before := resumed.ApplyBatch(logs[:cut])
		saved := stateOf(t, resumed)
		resumed = bareMachine(fatal)
		if err := resumed.Restore(io.NopCloser(strings.NewReader(saved))); err != nil {
			t.Fatalf("restore: %v", err)
		}
		if got := stateOf(t, resumed); got != saved {
			t.Fatalf("restored state differs:\n%s\n%s", got, saved)
		}
		rest := append(before, resumed.ApplyBatch(logs[cut:])...)

		opt := gocmp.AllowUnexported(outcome{})
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
		for _, m := range []*machine{single, resumed} {
			wantDirectory(t, m)
		}
	})
}

// wantDirectory holds the view that authenticates against the state.
func wantDirectory(t *rapid.T, m *machine) {
	got, want := map[string]profile{}, map[string]profile{}
	for i := range m.accounts.directory.Load().shards {
		for id, c := range *m.accounts.directory.Load().shards[i].Load() {
			got[id] = *c.holder.profile.Load()
		}
	}
	for _, a := range m.accounts.Accounts() {
		plan, _ := m.accounts.Plan(a.Tier)
		for _, k := range m.accounts.Keys(a.ID) {
			if k.InForce() {
				want[k.ID] = profile{a.ID, &plan, a.Suspended, a.CallbackURL}
			}
		}
	}
	if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(profile{})); diff != "" {
		t.Fatalf("keys in force (-state +directory):\n%s", diff)
	}
}

func logOf(t *testing.T, index uint64, c command) *raft.Log {
	t.Helper()
	return &raft.Log{Index: index, Type: raft.LogCommand, Data: c.encode()}
}

func TestUnknownOrDamagedCommandStopsTheNode(t *testing.T) {
	flipped := command{kind: 1, body: []byte(`{"plans":[]}`)}.encode()
	flipped[len(flipped)/2] ^= 4
	newer := command{kind: 1, body: []byte(`{"plans":[]}`)}
	for name, data := range map[string][]byte{
		"unknown kind":  command{kind: 200, body: []byte("{}")}.encode(),
		"unknown field": command{kind: uint8(account.KindDeleteAccount), body: []byte(`{"id":"a","soft":true}`)}.encode(),
		"newer version": reversion(newer.encode(), 2),
		"flipped bit":   flipped,
		"short":         []byte("x"),
		"empty":         nil,
	} {
		t.Run(name, func(t *testing.T) {
			var fatal []error
			m := bareMachine(func(err error) { fatal = append(fatal, err) })
			good := logOf(t, 8, command{kind: 1, request: requestID{9}, body: []byte(`{"plans":[]}`)})
			out := m.ApplyBatch([]*raft.Log{{Index: 7, Type: raft.LogCommand, Data: data}, good})
			m.Apply(good)
			if len(fatal) != 1 || !strings.Contains(fatal[0].Error(), "entry 7") {
				t.Errorf("fatal was called with %v, want once, naming entry 7", fatal)
			}
			for i, o := range out {
				if o.(outcome).err == nil {
					t.Errorf("entry %d was applied", 7+i)
				}
			}
			if _, err := m.Snapshot(); err == nil {
				t.Error("a snapshot was taken that hides the entry")
			}
		})
	}
}

// reversion gives an encoded command another version and the right sum.
func reversion(b []byte, version byte) []byte {
	b[0] = version
	body := b[:len(b)-commandSum]
	s := sum(body)
	return append(body, byte(s>>24), byte(s>>16), byte(s>>8), byte(s))
}

func TestRepeatIsAnsweredFromMemory(t *testing.T) {
	m := bareMachine(func(err error) { t.Errorf("fatal: %v", err) })
	m.Apply(logOf(t, 1, command{kind: 1, request: requestID{1}, body: []byte(`{"plans":[{"name":"basic","requests_per_minute":1,"burst":1,"concurrent":1,"mode":"enforce","weight":1}]}`)}))
	create := command{kind: uint8(account.KindCreateAccount), request: requestID{2}, body: []byte(`{"id":"a","tier":"basic","at":"2026-01-01T00:00:00Z"}`)}
	first := m.Apply(logOf(t, 2, create)).(outcome)
	if first.answer.(account.Result).Err != nil {
		t.Fatalf("create: %v", first.answer.(account.Result).Err)
	}
	if again := m.Apply(logOf(t, 3, create)).(outcome); again.answer.(account.Result).Err != nil {
		t.Errorf("repeat: got %v, want the first answer", again.answer)
	}
	create.request = requestID{3}
	if other := m.Apply(logOf(t, 4, create)).(outcome); other.answer.(account.Result).Err == nil || other.answer.(account.Result).Err.Code != account.CodeExists {
		t.Errorf("another request: got %v, want %s", other.answer, account.CodeExists)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	a := newAnswers()
	id := func(n int) requestID { return requestID{byte(n >> 16), byte(n >> 8), byte(n)} }
	for n := range 3 * maxAnswers {
		a.put(id(n), remembered{1, account.Result{}})
	}
	if len(a.order) != maxAnswers || len(a.byID) != maxAnswers {
		t.Errorf("got %d and %d remembered, want %d", len(a.order), len(a.byID), maxAnswers)
	}
	if _, ok := a.get(id(2*maxAnswers - 1)); ok {
		t.Error("the oldest is remembered")
	}
	if _, ok := a.get(id(2 * maxAnswers)); !ok {
		t.Error("the last ones are not remembered")
	}
}

// stalledStore blocks in StoreLogs until it is released, as a hung disk does.
type stalledStore struct {
	raft.LogStore
	raft.StableStore
	release chan struct{}
}

func (s *stalledStore) StoreLogs([]*raft.Log) error {
	<-s.release
	return nil
}

func TestWatchdogFiresOnAStalledWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fatal := make(chan error, 9)
		store := &stalledStore{release: make(chan struct{})}
		w := newWatchdog(store, store, func() error { return nil }, 5*time.Second, func(err error) { fatal <- err })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go w.run(ctx)

		go w.StoreLogs(nil)
		time.Sleep(4 * time.Second)
		store.release <- struct{}{}
		time.Sleep(time.Hour) // idle
		go w.StoreLogs(nil)
		time.Sleep(4 * time.Second)
		if len(fatal) != 0 {
			t.Errorf("after writes of 4 s: got %v, want nothing", <-fatal)
		}
		time.Sleep(3 * time.Second)
		if len(fatal) != 1 {
			t.Errorf("after a write of 7 s: got %d errors, want one", len(fatal))
		}
		close(store.release)
	})
}

func TestDeadlineLeavesTheOutcomeUnknown(t *testing.T) {
	w := open(t, t.TempDir()).wait(t)
	// The machine stands still, as it does while the disk hangs.
	w.machine.mu.Lock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := w.proposeAccountNow(ctx, account.CreateAccount{ID: "a", Tier: "basic"})
	w.machine.mu.Unlock()
	if !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("got %v, want ErrUnknownOutcome", err)
	}
}

func TestClockIsGoodForOneTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		want := func(term, stamp uint64, ok bool) {
			t.Helper()
			got, good := c.now(term)
			if good != ok || ok && got != stamp {
				t.Errorf("term %d: got %d, %v, want %d, %v", term, got, good, stamp, ok)
			}
		}
		want(0, 0, false) // never led
		c.reset(5000, 3)
		time.Sleep(1500 * time.Millisecond)
		want(3, 6500, true)
		want(4, 0, false) // elected again, and not set anew
		c.reset(6000, 4)  // another led meanwhile, and its last stamp was 6000
		want(4, 6000, true)
		want(3, 0, false)
	})
}
