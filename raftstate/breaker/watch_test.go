package breaker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cluster is a group without raft: one State, and a Watch for each node that is
// up. Commands reach it in order, and while it is cut off not at all.
type cluster struct {
	mu      sync.Mutex
	state   *State
	began   time.Time
	cut     map[uint16]bool
	watches map[uint16]*Watch
	reports int
	stop    map[uint16]func()
}

var errCut = errors.New("cut off")

func newCluster(settings Settings) *cluster {
	c := &cluster{state: NewState(), began: time.Now(), cut: map[uint16]bool{}, watches: map[uint16]*Watch{}, stop: map[uint16]func(){}}
	c.apply(Configure{settings})
	return c
}

func (c *cluster) apply(cmd Command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := uint64(time.Since(c.began).Milliseconds()) + 1
	touched := c.state.Apply(cmd, at)
	for node, w := range c.watches {
		if !c.cut[node] {
			w.Follow(c.state, touched, at)
		}
	}
}

func (c *cluster) setCut(node uint16, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[node] = cut
	if w := c.watches[node]; w != nil && !cut {
		w.Follow(c.state, nil, uint64(time.Since(c.began).Milliseconds())+1)
	}
}

// start starts a node, which adopts the group's state.
func (c *cluster) start(t *testing.T, node uint16) *Watch {
	w, err := New(Config{Node: node, Propose: func(ctx context.Context, r Report) error {
		c.mu.Lock()
		cut := c.cut[node]
		c.reports++
		c.mu.Unlock()
		if cut {
			return errCut
		}
		c.apply(r)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watches[node] = w
	w.Follow(c.state, nil, uint64(time.Since(c.began).Milliseconds())+1)
	c.stop[node] = func() {
		cancel()
		running.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watches, node)
	}
	return w
}

func (c *cluster) close() {
	for _, stop := range c.stop {
		stop()
	}
}

func call(t *testing.T, w *Watch, service string, v Verdict) {
	t.Helper()
	p, ok := w.Acquire(service)
	if !ok {
		t.Fatalf("%s: no permit", service)
	}
	p.Done(v)
}

func settle(d time.Duration) {
	time.Sleep(d) // in a bubble: nothing waits for real
	synctest.Wait()
}

var short = Settings{Threshold: 5, Timeout: 4 * time.Second, Recovery: time.Minute}

// TestScenario23 is five failures on one node while others succeed: only that
// node's breaker opens, and all nodes know whose.
func TestScenario23FiveFailuresOnOneNodeWhileOthersSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(short)
		defer c.close()
		one, two := c.start(t, 1), c.start(t, 2)
		settle(time.Second)
		var mu sync.Mutex
		var named []uint16
		one.Subscribe(func(ch Change) {
			mu.Lock()
			defer mu.Unlock()
			named = ch.OpenOn
		})
		call(t, one, "email", Success)
		settle(time.Second)
		for i := range 5 {
			if p, _ := two.State("email"); p != Closed {
				t.Fatalf("node 2 after %d failures: got %v, want closed", i, p)
			}
			call(t, two, "email", Failure)
		}
		if _, ok := two.Acquire("email"); ok {
			t.Error("node 2 calls after the fifth failure, before the group knows")
		}
		settle(time.Second)
		call(t, one, "email", Success)
		if p, _ := two.State("email"); p != Open {
			t.Errorf("node 2: got %v, want open", p)
		}
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]uint16{2}, named); diff != "" {
			t.Errorf("node 1 is told (-want +got):\n%s", diff)
		}
	})
}

// TestOpensForAll is the control of scenario 23: where nobody succeeds, one
// node's failures open the breaker for all.
func TestOpensForAllWhereNobodySucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(short)
		defer c.close()
		one, two := c.start(t, 1), c.start(t, 2)
		for range 5 {
			call(t, two, "email", Failure)
		}
		settle(time.Second)
		if _, ok := one.Acquire("email"); ok {
			t.Error("node 1 calls although the breaker is open for all")
		}
		if got := one.Services(); len(got) != 1 || got[0].Phase != Open || len(got[0].OpenOn) != 0 {
			t.Errorf("node 1: got %+v, want open for all", got)
		}
	})
}

// TestScenario24 is a success that was on its way when the breaker opened.
func TestScenario24StaleSuccessAfterOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(short)
		defer c.close()
		one := c.start(t, 1)
		late, ok := one.Acquire("email")
		if !ok {
			t.Fatal("no permit")
		}
		for range 5 {
			call(t, one, "email", Failure)
		}
		settle(time.Second)
		late.Done(Success)
		settle(time.Second)
		if p, _ := one.State("email"); p != Open {
			t.Errorf("after the late success: got %v, want open", p)
		}
		// The same command again, after the probe has closed it.
		settle(short.Recovery)
		one.Acquire("email")
		settle(500 * time.Millisecond)
		call(t, one, "email", Success)
		settle(time.Second)
		c.apply(Report{Node: 1, Items: []Item{{Service: "email", Failures: 5}}})
		settle(time.Second)
		if p, _ := one.State("email"); p != Closed {
			t.Errorf("after a repeated report of the first failures: got %v, want closed", p)
		}
	})
}

// TestStateOfAProbe: the node that holds the probe is told that it may call at
// once, and the others when they may ask again; so is it, while its probe is out.
func TestStateOfAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(short)
		defer c.close()
		one, two := c.start(t, 1), c.start(t, 2)
		for range 5 {
			call(t, one, "email", Failure)
		}
		settle(time.Second)
		wait := func(w *Watch) time.Duration {
			phase, at := w.State("email")
			if phase == Closed {
				t.Fatal("it is closed")
			}
			return max(time.Until(at), 0)
		}
		if got := wait(one); got <= 0 || got > short.Recovery {
			t.Errorf("just opened: wait %v, want the rest of the recovery time", got)
		}
		settle(short.Recovery)
		one.Acquire("email") // it wants to
		settle(500 * time.Millisecond)
		if got := wait(one); got != 0 {
			t.Errorf("with the probe in hand: wait %v, want none", got)
		}
		if got := wait(two); got <= 0 {
			t.Errorf("with the probe on another node: wait %v, want the time of the probe", got)
		}
		probe, ok := one.Acquire("email")
		if !ok {
			t.Fatal("the probe is not given")
		}
		if got := wait(one); got <= 0 {
			t.Errorf("with the probe out: wait %v, want its time", got)
		}
		probe.Done(Success)
		settle(time.Second)
		if phase, at := one.State("email"); phase != Closed || !at.IsZero() {
			t.Errorf("after its success: %v, %v", phase, at)
		}
	})
}

// TestScenario25 is a probe whose node dies: after its time another node gets
// the next, and not two at once.
func TestScenario25ProbesNodeDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(short)
		defer c.close()
		one, two := c.start(t, 1), c.start(t, 2)
		for range 5 {
			call(t, one, "email", Failure)
		}
		settle(short.Recovery + 2*time.Second)
		for _, w := range []*Watch{one, two} {
			if _, ok := w.Acquire("email"); ok {
				t.Fatal("a call before the group gave a permit")
			}
		}
		settle(500 * time.Millisecond)
		_, first := one.Acquire("email")
		_, second := two.Acquire("email")
		if first == second {
			t.Fatalf("got permits %v and %v, want exactly one", first, second)
		}
		dead, other := uint16(1), two
		if second {
			dead, other = 2, one
		}
		c.stop[dead]()
		if _, ok := other.Acquire("email"); ok {
			t.Error("a second permit while the first is out")
		}
		settle(time.Duration(short.probeTime())*time.Millisecond + 2*time.Second)
		if p, _ := other.State("email"); p != Open {
			t.Errorf("after the probe's time: got %v, want open", p)
		}
		settle(2*short.Recovery - 5*time.Second)
		if _, ok := other.Acquire("email"); ok {
			t.Error("a probe before twice the recovery time")
		}
		settle(10 * time.Second)
		other.Acquire("email")
		settle(500 * time.Millisecond)
		call(t, other, "email", Success)
		settle(time.Second)
		call(t, other, "email", Success)
	})
}

// TestScenario26 is a breaker forced open over a restart of every node.
func TestScenario26ForcedOpenOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(short)
		defer c.close()
		c.start(t, 1)
		c.apply(Force{Service: "webhook", To: ForcedOpen, Who: "olga"})
		c.stop[1]()
		one := c.start(t, 1)
		if _, ok := one.Acquire("webhook:example.com:443"); ok {
			t.Error("a host is called although webhooks are forced open")
		}
		settle(24 * time.Hour)
		if _, ok := one.Acquire("webhook"); ok {
			t.Error("called a day later")
		}
		if i := slices.IndexFunc(one.Services(), func(s Status) bool { return s.Service == "webhook" }); i < 0 || one.Services()[i].Who != "olga" {
			t.Errorf("got %+v, want it forced by olga", one.Services())
		}
		c.apply(Force{Service: "webhook", To: Auto, Who: "olga"})
		call(t, one, "webhook:example.com:443", Success)
	})
}

// TestWithoutAGroup: a node that cannot reach the group opens, probes and closes
// by its own view, one call at a time, and tells the group when it is back.
func TestWithoutAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(short)
		defer c.close()
		one, two := c.start(t, 1), c.start(t, 2)
		c.setCut(1, true)
		for range 5 {
			call(t, one, "email", Failure)
		}
		settle(short.Recovery - time.Second)
		if _, ok := one.Acquire("email"); ok {
			t.Fatal("a call before the recovery time")
		}
		settle(2 * time.Second)
		p, ok := one.Acquire("email")
		if _, again := one.Acquire("email"); !ok || again {
			t.Fatalf("own trial: got %v and a second %v, want one", ok, again)
		}
		p.Done(Failure)
		settle(short.Recovery + 2*time.Second)
		if _, ok := one.Acquire("email"); ok {
			t.Fatal("a second trial before twice the recovery time")
		}
		if p, _ := two.State("email"); p != Closed {
			t.Errorf("node 2 knows: %v", p)
		}
		c.setCut(1, false)
		settle(10 * time.Second)
		if p, _ := two.State("email"); p != Open {
			t.Errorf("node 2 after the return of node 1: got %v, want open", p)
		}
	})
}

// TestReportsAreBounded: whatever the load, a node proposes at most ten commands
// a second.
func TestReportsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(Settings{Threshold: 1, Timeout: time.Second, Recovery: 10 * time.Millisecond})
		defer c.close()
		one := c.start(t, 1)
		settle(time.Second)
		before := c.reports
		for i := range 2000 {
			for _, service := range []string{"email", "whatsapp", "webhook:a:443"} {
				if p, ok := one.Acquire(service); ok {
					p.Done(Verdict(i%2) + Success)
				}
			}
			settle(5 * time.Millisecond)
		}
		if got := c.reports - before; got > 101 || got < 20 {
			t.Errorf("got %d reports in ten seconds, want 20 to 101", got)
		}
	})
}

func TestAcquireAllocatesNothing(t *testing.T) {
	w, err := New(Config{Node: 1, Propose: func(context.Context, Report) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	call(t, w, "email", Success)
	if got := testing.AllocsPerRun(1000, func() {
		p, _ := w.Acquire("email")
		p.Done(Success)
	}); got != 0 {
		t.Errorf("got %v allocations a call, want none", got)
	}
}
