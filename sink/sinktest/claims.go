package sinktest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// testClaims: the first message with a key keeps it; a later one of the same
// account becomes its duplicate, from whichever node; other accounts are not
// concerned.
func (s *suite) testClaims(t *testing.T) {
	n1, n2 := s.node(), s.node()
	mine, other := s.account(), s.account()
	first := n1.accept(keyed(mine, "key"))
	checkStored(t, first, s.insert(t, first)[0], sink.New, message.ID{})

	again := n2.accept(keyed(mine, "key"))
	theirs := n2.accept(keyed(other, "key"))
	longer := n2.accept(keyed(mine, "key2"))
	batch := []message.Record{again, theirs, longer}
	results := s.insert(t, batch...)
	checkStored(t, again, results[0], sink.Duplicate, first.ID)
	checkStored(t, theirs, results[1], sink.New, message.ID{})
	checkStored(t, longer, results[2], sink.New, message.ID{})
	for i, r := range batch {
		r.State = results[i].State
		equal(t, "record", s.get(t, r.Account, r.ID), r)
	}
	// A repeat of either is known and changes nothing; a third one is the
	// duplicate of the first, not of the second.
	third := n1.accept(keyed(mine, "key"))
	repeats := s.insert(t, again, first, third)
	equal(t, "repeat of the duplicate", repeats[0], sink.Result{Outcome: sink.Known, State: results[0].State})
	if repeats[1].Outcome != sink.Known || repeats[1].State.Status != message.Stored {
		t.Errorf("repeat of the first: %v %v, want known and stored", repeats[1].Outcome, repeats[1].State.Status)
	}
	checkStored(t, third, repeats[2], sink.Duplicate, first.ID)
}

// testClaimsInOneBatch: within a batch the first in order keeps the key.
func (s *suite) testClaimsInOneBatch(t *testing.T) {
	n1, n2 := s.node(), s.node()
	account := s.account()
	older := n1.accept(keyed(account, "key"))
	n2.wait(time.Second)
	newer := n2.accept(keyed(account, "key"))
	between := n2.accept(keyed(account, "another"))
	results := s.insert(t, newer, between, older, newer)
	checkStored(t, newer, results[0], sink.New, message.ID{})
	checkStored(t, between, results[1], sink.New, message.ID{})
	checkStored(t, older, results[2], sink.Duplicate, newer.ID)
	equal(t, "repeat", results[3], sink.Result{Outcome: sink.Known, State: results[0].State})
}

// testClaimsRace: of many nodes that bring the same keys at once, each key has
// one winner, and all losers name it.
func (s *suite) testClaimsRace(t *testing.T) {
	const nodes, keys = 6, 12
	account := s.account()
	type outcome struct {
		record message.Record
		result sink.Result
	}
	var mu sync.Mutex
	byKey := make(map[string][]outcome)
	var wg sync.WaitGroup
	for range nodes {
		n := s.node()
		wg.Go(func() {
			var batch []message.Record
			for k := range keys {
				batch = append(batch, n.accept(keyed(account, fmt.Sprint("key ", (k*int(n.number))%keys))))
			}
			results, err := s.insertRetrying(batch)
			if err != nil {
				t.Errorf("insert: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i, r := range batch {
				byKey[r.IdempotencyKey] = append(byKey[r.IdempotencyKey], outcome{r, results[i]})
			}
		})
	}
	wg.Wait()
	for key, all := range byKey {
		var winner message.ID
		for _, o := range all {
			if o.result.State.Status == message.Stored {
				if !winner.IsZero() {
					t.Errorf("%s has two winners", key)
				}
				winner = o.record.ID
			}
		}
		for _, o := range all {
			if o.record.ID != winner && (o.result.State.Status != message.Duplicate || o.result.State.DuplicateOf != winner) {
				t.Errorf("%s: %s is %v of %s, want a duplicate of %s", key, o.record.ID, o.result.State.Status, o.result.State.DuplicateOf, winner)
			}
		}
	}
}

// testClaimEnds: two messages share a key's fate only if they were accepted
// less than the claim's time apart. Not the clock of the store decides, but
// the ids: a backlog that drains late gets the same answers, and a message that
// comes late does not take a key back from one accepted long after it.
func (s *suite) testClaimEnds(t *testing.T) {
	if s.claimTTL == 0 {
		return // the store was not told of a time short enough to test
	}
	n, account := s.node(), s.account()
	late := n.accept(keyed(account, "key"))
	n.wait(s.claimTTL)
	first := n.accept(keyed(account, "key"))
	n.wait(s.claimTTL - time.Millisecond)
	within := n.accept(keyed(account, "key"))
	n.wait(time.Millisecond)
	after := n.accept(keyed(account, "key"))
	n.wait(time.Millisecond)
	later := n.accept(keyed(account, "key"))
	results := s.insert(t, first, late, within, after, later)
	checkStored(t, first, results[0], sink.New, message.ID{})
	checkStored(t, late, results[1], sink.New, message.ID{})
	checkStored(t, within, results[2], sink.Duplicate, first.ID)
	checkStored(t, after, results[3], sink.New, message.ID{})
	checkStored(t, later, results[4], sink.Duplicate, after.ID)
}
