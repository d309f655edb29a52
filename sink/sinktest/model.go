package sinktest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/wal/message"
)

// testModel drives the store and an obvious model of it with the same calls, in
// any order, and wants the same answers.
func (s *suite) testModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{suite: s, claims: make(map[string]message.ID), stored: make(map[message.ID]int)}
		for range 2 {
			m.nodes = append(m.nodes, s.node())
			m.accounts = append(m.accounts, s.account())
		}
		t.Repeat(map[string]func(*rapid.T){
			"insert":  m.insertBatch,
			"get":     m.getOne,
			"list":    m.listSome,
			"count":   m.count,
			"missing": m.missing,
		})
	})
}

// model is what the store should hold of one run's accounts and nodes.
type model struct {
	*suite
	nodes    []*node
	accounts []string
	accepted []message.Record      // everything that was ever accepted
	stored   map[message.ID]int    // index into records
	records  []message.Record      // as they should be in the store
	claims   map[string]message.ID // account and key → who has it
}

// insertBatch inserts new records, some of them with keys that others have too,
// mixed with repeats.
func (m *model) insertBatch(t *rapid.T) {
	var batch []message.Record
	for range rapid.IntRange(1, 8).Draw(t, "size") {
		if len(m.accepted) > 0 && rapid.IntRange(0, 3).Draw(t, "repeat") == 0 {
			batch = append(batch, rapid.SampledFrom(m.accepted).Draw(t, "of"))
			continue
		}
		n := rapid.SampledFrom(m.nodes).Draw(t, "node")
		if rapid.Bool().Draw(t, "tick") {
			n.wait(time.Millisecond)
		}
		msg := plain(rapid.SampledFrom(m.accounts).Draw(t, "account"))
		msg.Channel = rapid.SampledFrom(message.Channels).Draw(t, "channel")
		msg.Priority = message.Priority(rapid.IntRange(0, message.Lanes-1).Draw(t, "priority"))
		msg.To = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "to")
		msg.ClientRef = rapid.SampledFrom([]string{"", "r", "s"}).Draw(t, "client ref")
		msg.IdempotencyKey = rapid.SampledFrom([]string{"", "", "k", "l", "m"}).Draw(t, "key")
		r := n.accept(msg)
		m.accepted = append(m.accepted, r)
		if rapid.IntRange(0, 9).Draw(t, "held back") > 0 {
			batch = append(batch, r)
		}
	}
	for i, res := range m.insert(t, batch...) {
		m.apply(t, batch[i], res)
	}
}

func (m *model) apply(t *rapid.T, in message.Record, res sink.Result) {
	if at, ok := m.stored[in.ID]; ok {
		equal(t, "repeat", res, sink.Result{Outcome: sink.Known, State: m.records[at].State})
		return
	}
	outcome, claim := sink.New, in.Account+"\x00"+in.IdempotencyKey
	if in.IdempotencyKey != "" {
		if _, ok := m.claims[claim]; ok {
			outcome = sink.Duplicate
		} else {
			m.claims[claim] = in.ID
		}
	}
	checkStored(t, in, res, outcome, m.claims[claim])
	in.State = res.State
	m.stored[in.ID] = len(m.records)
	m.records = append(m.records, in)
}

func (m *model) getOne(t *rapid.T) {
	if len(m.accepted) == 0 {
		t.Skip("nothing to get")
	}
	r := rapid.SampledFrom(m.accepted).Draw(t, "record")
	account := rapid.SampledFrom([]string{"", m.accounts[0], m.accounts[1]}).Draw(t, "account")
	got, err := m.store.Get(context.Background(), account, r.ID)
	if at, ok := m.stored[r.ID]; ok && (account == "" || account == r.Account) {
		if err != nil {
			t.Fatalf("get: %v", err)
		}
		equal(t, "record", got, m.records[at])
	} else if !errors.Is(err, sink.ErrNotFound) {
		t.Fatalf("get: error %v, want not found", err)
	}
}

func (m *model) listSome(t *rapid.T) {
	q := message.Query{Account: rapid.SampledFrom(m.accounts).Draw(t, "account"), Limit: rapid.IntRange(1, 12).Draw(t, "limit")}
	if rapid.Bool().Draw(t, "by status") {
		q.Status = rapid.SampledFrom([]message.Status{message.Stored, message.Queued, message.Duplicate, message.Failed}).Draw(t, "status")
	}
	if rapid.Bool().Draw(t, "by channel") {
		q.Channel = rapid.SampledFrom(message.Channels).Draw(t, "channel")
	}
	q.To = rapid.SampledFrom([]string{"", "", "a", "b", "c"}).Draw(t, "to")
	q.ClientRef = rapid.SampledFrom([]string{"", "", "r", "s", "t"}).Draw(t, "client ref")
	if len(m.accepted) > 0 {
		some := rapid.SampledFrom(m.accepted)
		if rapid.IntRange(0, 2).Draw(t, "after") == 0 {
			r := some.Draw(t, "after which")
			q.AcceptedAfter = r.AcceptedAt()
		}
		if rapid.IntRange(0, 2).Draw(t, "before") == 0 {
			r := some.Draw(t, "before which")
			q.AcceptedBefore = r.AcceptedAt()
		}
		if rapid.IntRange(0, 2).Draw(t, "cursor") == 0 {
			q.Before = some.Draw(t, "cursor at").ID
		}
	}
	got, err := m.store.List(context.Background(), q)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	equal(t, fmt.Sprintf("page of %+v", q), got, selectFrom(m.records, q))
}

// seqRange draws a range of sequence numbers around those that exist.
func (m *model) seqRange(t *rapid.T) (n *node, from, to uint64) {
	n = rapid.SampledFrom(m.nodes).Draw(t, "node")
	from = rapid.Uint64Range(1, n.seq+1).Draw(t, "from")
	return n, from, rapid.Uint64Range(from, n.seq+3).Draw(t, "to")
}

func (m *model) count(t *rapid.T) {
	n, from, to := m.seqRange(t)
	var want sink.Tally
	for _, r := range m.records {
		if r.ID.Node() == n.number && from <= r.Seq && r.Seq <= to {
			want.Stored++
			if r.Status.Final() {
				want.Final++
			}
		}
	}
	got, err := m.store.Count(context.Background(), n.number, from, to)
	if err != nil {
		t.Fatalf("count: %v", err)
	}
	equal(t, fmt.Sprintf("count of %d to %d", from, to), got, want)
}

func (m *model) missing(t *rapid.T) {
	n, from, to := m.seqRange(t)
	limit := rapid.IntRange(1, 5).Draw(t, "limit")
	have := make(map[uint64]bool)
	for _, r := range m.records {
		if r.ID.Node() == n.number {
			have[r.Seq] = true
		}
	}
	var want []uint64
	for seq := from; seq <= to && len(want) < limit; seq++ {
		if !have[seq] {
			want = append(want, seq)
		}
	}
	got, err := m.store.Missing(context.Background(), n.number, from, to, limit)
	if err != nil {
		t.Fatalf("missing: %v", err)
	}
	equal(t, fmt.Sprintf("missing of %d to %d", from, to), got, want)
}
