package breaker

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestTrialsWithoutAGroupGoOn: a node that does not reach the group for long tries
// the service again and again, whatever came of its earlier trials: no breaker is
// open for ever.
func TestTrialsWithoutAGroupGoOn(t *testing.T) {
	for name, verdicts := range map[string][]Verdict{
		"the service stays away, and comes back":        {Failure, Failure, Failure, Success},
		"comes back, and is gone again, and comes back": {Success, Success},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(short)
				defer c.close()
				one := c.start(t, 1)
				c.setCut(1, true)
				for i, v := range verdicts {
					if phase, _ := one.State("email"); phase == Closed {
						for range short.Threshold {
							call(t, one, "email", Failure)
						}
					}
					settle(maxFactor*short.Recovery + time.Second)
					p, ok := one.Acquire("email")
					if !ok {
						t.Fatalf("trial %d: no permit after the longest recovery time", i+1)
					}
					p.Done(v)
					settle(time.Second)
				}
				if phase, _ := one.State("email"); phase != Closed {
					t.Errorf("after a trial that succeeded: %v, want closed", phase)
				}
				c.setCut(1, false)
				settle(10 * time.Second)
				reports := c.reports
				settle(time.Hour)
				if n := c.reports - reports; n > 10 {
					t.Errorf("%d reports in an hour in which nothing happens, after the group is back", n)
				}
				call(t, one, "email", Success)
			})
		})
	}
}

// TestTheGroupDoesNotGoAlong: a node opens its breaker, and the group, which has
// been given a higher threshold meanwhile, does not. The node tries by itself after
// the recovery time, tells who waits for it, and closes.
func TestTheGroupDoesNotGoAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(short)
		defer c.close()
		one := c.start(t, 1)
		callable := 0
		defer one.Subscribe(func(change Change) {
			if change.To != Closed && change.Callable {
				callable++
			}
		})()
		c.setCut(1, true)
		for range short.Threshold {
			call(t, one, "email", Failure)
		}
		higher := short
		higher.Threshold *= 2
		c.apply(Configure{higher})
		c.setCut(1, false)
		settle(10 * time.Second)
		if phase, _ := one.State("email"); phase != Open || c.state.View("email", 1).Phase != Closed {
			t.Fatalf("the node has it %v, the group %v; want open and closed", phase, c.state.View("email", 1).Phase)
		}
		if _, ok := one.Acquire("email"); ok {
			t.Fatal("a call before the recovery time")
		}
		settle(short.Recovery)
		if callable == 0 {
			t.Error("who was held back has not been told that it may call")
		}
		call(t, one, "email", Success)
		settle(10 * time.Second)
		reports := c.reports
		settle(time.Hour)
		if phase, _ := one.State("email"); phase != Closed || c.reports > reports {
			t.Errorf("after the trial: %v, and %d reports in an hour in which nothing happens", phase, c.reports-reports)
		}
	})
}
