package sinktest

import (
	"context"
	"math"
	"slices"
	"testing"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// testCount: each node's messages are counted by their own numbers, and those
// that are final beside those that are not.
func (s *suite) testCount(t *testing.T) {
	n, silent := s.node(), s.node()
	account := s.account()
	var batch []message.Record
	for i := range 100 {
		m := plain(account)
		if i%4 == 0 {
			m.Channel = message.ChannelEmail // will be queued, which is not final
		}
		if r := n.accept(m); i%10 != 9 {
			batch = append(batch, r)
		}
	}
	s.insert(t, batch...)
	for _, c := range []struct {
		node     *node
		from, to uint64
	}{{n, 1, 100}, {n, 0, math.MaxUint64}, {n, 1, 1}, {n, 2, 2}, {n, 10, 10}, {n, 9, 11}, {n, 20, 63}, {n, 64, 65}, {n, 101, 5000},
		{n, 50, 40}, {silent, 1, 100}} {
		var want sink.Tally
		for _, r := range batch {
			if r.ID.Node() == c.node.number && r.Seq >= c.from && r.Seq <= c.to {
				want.Stored++
				if r.Channel == message.ChannelStore {
					want.Final++
				}
			}
		}
		got, err := s.store.Count(context.Background(), c.node.number, c.from, c.to)
		if err != nil {
			t.Fatalf("count %d to %d: %v", c.from, c.to, err)
		}
		if got != want {
			t.Errorf("count %d to %d = %+v, want %+v", c.from, c.to, got, want)
		}
	}
}

// testMissing: what is not there is named, in order, and no more than asked
// for, however long the range is.
func (s *suite) testMissing(t *testing.T) {
	n, silent := s.node(), s.node()
	account := s.account()
	gaps := []uint64{1, 2, 17, 64, 65, 66, 1000, 1024, 1025, 2500}
	gap := make(map[uint64]bool)
	for _, seq := range gaps {
		gap[seq] = true
	}
	var batch []message.Record
	for range 2500 {
		if r := n.accept(plain(account)); !gap[r.Seq] {
			batch = append(batch, r)
		}
	}
	s.insert(t, batch...)
	for _, c := range []struct {
		node     *node
		from, to uint64
		limit    int
		want     []uint64
	}{
		{n, 1, 2500, 100, gaps}, {n, 1, 2500, 4, gaps[:4]}, {n, 3, 999, 100, gaps[2:6]}, {n, 65, 65, 100, gaps[4:5]},
		{n, 18, 63, 100, nil}, {n, 2499, 2502, 100, []uint64{2500, 2501, 2502}}, {n, 30, 20, 100, nil}, {n, 1, 2500, 0, nil},
		{n, 2000, 1 << 40, 3, []uint64{2500, 2501, 2502}}, {silent, 7, 9, 100, []uint64{7, 8, 9}},
		{silent, 1, math.MaxInt64, 2, []uint64{1, 2}},
	} {
		got, err := s.store.Missing(context.Background(), c.node.number, c.from, c.to, c.limit)
		if err != nil {
			t.Fatalf("missing %d to %d: %v", c.from, c.to, err)
		}
		equal(t, "missing", got, c.want)
	}
}

// testFirstSince: where a node's numbers begin at a time, past what other nodes
// accepted.
func (s *suite) testFirstSince(t *testing.T) {
	store := s.store
	n, other, silent := s.node(), s.node(), s.node()
	account := s.account()
	other.ms = n.ms
	var batch []message.Record
	for i := range 20 {
		r := n.accept(plain(account))
		if i >= 5 {
			batch = append(batch, r)
		}
		batch = append(batch, other.accept(plain(account)))
		n.wait(time.Second)
		other.wait(time.Second)
	}
	s.insert(t, batch...)
	at := func(seq int) time.Time { return batch[0].AcceptedAt().Add(time.Duration(seq-1) * time.Second) }
	for _, c := range []struct {
		node *node
		t    time.Time
		want uint64
	}{{n, time.Time{}, 6}, {other, time.Time{}, 1}, {n, at(1), 6}, {n, at(6), 6}, {n, at(6).Add(1), 7}, {n, at(9).Add(-1), 9},
		{n, at(20), 20}, {n, at(20).Add(time.Millisecond), 0}, {silent, time.Time{}, 0}} {
		got, err := store.FirstSince(context.Background(), c.node.number, c.t)
		if err != nil {
			t.Fatalf("first since: %v", err)
		}
		if got != c.want {
			t.Errorf("first of node %d since %v = %d, want %d", c.node.number, c.t, got, c.want)
		}
	}
}

// testNumbered: numbers lead to the messages that were accepted with them, of that
// node alone.
func (s *suite) testNumbered(t *testing.T) {
	n, other := s.node(), s.node()
	account := s.account()
	var batch []message.Record
	byNumber := map[uint64]message.ID{}
	for i := range 50 {
		m := plain(account)
		if i == 7 {
			m.Channel = message.ChannelEmail
		}
		r := n.accept(m)
		byNumber[r.Seq] = r.ID
		if i%10 != 9 {
			batch = append(batch, r)
		}
		batch = append(batch, other.accept(plain(account)))
	}
	s.insert(t, batch...)
	got, err := s.store.Numbered(context.Background(), n.number, []uint64{41, 8, 10, 1, 5000})
	want := []sink.Found{{Seq: 1, ID: byNumber[1], Status: message.Stored}, {Seq: 8, ID: byNumber[8], Status: message.Queued}, {Seq: 41, ID: byNumber[41], Status: message.Stored}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if got, err := s.store.Numbered(context.Background(), n.number, nil); err != nil || len(got) != 0 {
		t.Errorf("of no numbers: %v, %v", got, err)
	}
}
