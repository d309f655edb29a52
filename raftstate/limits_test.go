package raftstate

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/raftstate/limiter"
)

// TestLeasesGatherUntilSomebodyWaits: requests for which no call waits share a
// command, and one for which a call does sends all of them off at once.
func TestLeasesGatherUntilSomebodyWaits(t *testing.T) {
	report := &limiter.Request{Node: 1, Session: 1, Seq: 1, Entries: []limiter.Entry{{Account: "a", Spent: 3}}}
	wish := &limiter.Request{Node: 2, Session: 1, Seq: 1, Entries: []limiter.Entry{{Account: "a", Want: 1}}}
	opening := &limiter.Request{Node: 3, Session: 1}
	const between = 5 * time.Millisecond
	for name, test := range map[string]struct {
		requests []*limiter.Request // one after the other
		together int
		after    time.Duration
	}{
		"reports alone":          {[]*limiter.Request{report, report, report}, 3, leaseGather},
		"then a call that waits": {[]*limiter.Request{report, report, wish}, 3, 2 * between},
		"then a node's start":    {[]*limiter.Request{report, opening, report}, 2, between},
		"a call that waits":      {[]*limiter.Request{wish, report}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &Group{leases: newLeases()}
				began := time.Now()
				var asking sync.WaitGroup
				defer asking.Wait()
				asking.Go(func() {
					for i, q := range test.requests[1:] {
						time.Sleep(time.Until(began.Add(time.Duration(i+1) * between))) // in a bubble
						g.leases.calls <- &leaseCall{request: q}
					}
				})
				calls := g.gather(context.Background(), &leaseCall{request: test.requests[0]})
				if took := time.Since(began); len(calls) != test.together || took != test.after {
					t.Errorf("%d together after %v, want %d after %v", len(calls), took, test.together, test.after)
				}
			})
		})
	}
}
