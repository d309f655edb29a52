package appliance_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
)

// threeMachines are three appliances as processes, each on a machine of its own.
type threeMachines struct {
	*testing.T
	net   *appliancetest.Network
	nodes [4]*appliancetest.Process // from 1
	made  []string                  // accounts that were acknowledged
	force string                    // what an operator last made of the breaker of e-mail, acknowledged
}

func startThreeMachines(t *testing.T, settings ...string) *threeMachines {
	w := &threeMachines{T: t, net: appliancetest.NewNetwork(t, 3)}
	certs := t.TempDir()
	out, err := exec.Command(appliancetest.Binary(t), "cluster", "certs", "--dir", certs, "1", "2", "3").CombinedOutput()
	if err != nil {
		t.Fatalf("make certificates: %v\n%s", err, out)
	}
	peers := "{"
	for n := 1; n <= 3; n++ {
		peers += fmt.Sprintf("%d: '%s:7000', ", n, w.net.Address(n))
	}
	for n := 3; n >= 1; n-- {
		file := func(name string) string { return filepath.Join(certs, name) }
		p := appliancetest.NewProcess(t, t.TempDir(), fmt.Sprintf("FOREBAY_NODE=%d", n),
			fmt.Sprintf("FOREBAY_CLUSTER_LISTEN=%s:7000", w.net.Address(n)), "FOREBAY_CLUSTER_PEERS="+peers+"}",
			"FOREBAY_CLUSTER_TLS_CERT_FILE="+file(fmt.Sprintf("node-%d.pem", n)),
			"FOREBAY_CLUSTER_TLS_KEY_FILE="+file(fmt.Sprintf("node-%d-key.pem", n)), "FOREBAY_CLUSTER_TLS_CA_FILE="+file("ca.pem"))
		p.Set(settings...)
		p.InNamespace(w.net.Namespace(n))
		p.Spawn()
		w.nodes[n] = p
	}
	for n := 1; n <= 3; n++ {
		w.nodes[n].AwaitReady(time.Minute)
	}
	return w
}

func (w *threeMachines) status(n int) admin.RaftStatus {
	c := w.nodes[n].Admin()
	defer c.Close()
	ctx, cancel := context.WithTimeout(w.Context(), time.Second)
	defer cancel()
	s, err := c.Cluster(ctx)
	if err != nil {
		return admin.RaftStatus{}
	}
	return s
}

// leader waits for a leader that a majority of the nodes agree on.
func (w *threeMachines) leader() int {
	w.Helper()
	var leader int
	appliancetest.Eventually(w, time.Minute, "a majority agree on a leader", func() bool {
		votes := map[int]int{}
		for n := 1; n <= 3; n++ {
			s := w.status(n)
			if votes[int(s.Leader)]++; s.Leader != 0 && votes[int(s.Leader)] == 2 {
				leader = int(s.Leader)
				return true
			}
		}
		return false
	})
	return leader
}

// create makes an account on a node.
func (w *threeMachines) create(n int) error {
	id := fmt.Sprintf("account-%d", len(w.made))
	c := w.nodes[n].Admin()
	defer c.Close()
	ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
	defer cancel()
	_, err := c.CreateAccount(ctx, admin.CreateAccount{ID: id, Tier: "test"})
	if err == nil {
		w.made = append(w.made, id)
	}
	return err
}

// flip forces the breaker of e-mail open, or closed where it is that.
func (w *threeMachines) flip(n int) error {
	c := w.nodes[n].Admin()
	defer c.Close()
	ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
	defer cancel()
	action, force := "open", "open"
	if w.force == force {
		action, force = "close", "closed"
	}
	_, err := c.ForceBreaker(ctx, "email", action)
	if err == nil {
		w.force = force
	}
	return err
}

// forcedOn is what a node says an operator made of it.
func (w *threeMachines) forcedOn(n int) string {
	c := w.nodes[n].Admin()
	defer c.Close()
	ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
	defer cancel()
	list, err := c.Breakers(ctx)
	if err != nil {
		return err.Error()
	}
	for _, b := range list {
		if b.Name == "email" {
			return b.Forced
		}
	}
	return ""
}

// goesOn wants one of these nodes to take changes within a minute.
func (w *threeMachines) goesOn(nodes ...int) {
	w.Helper()
	began := time.Now()
	defer func() { w.Logf("changes are taken after %v", time.Since(began).Round(time.Millisecond)) }()
	appliancetest.Eventually(w, time.Minute, "changes are taken", func() bool {
		for _, n := range nodes {
			if w.create(n) == nil && w.flip(n) == nil {
				return true
			}
		}
		return false
	})
}

// healthy wants, with all undone, one leader, everybody caught up, all that was
// acknowledged on every node, and the breakers the same on all.
func (w *threeMachines) healthy() {
	w.Helper()
	began := time.Now()
	defer func() { w.Logf("healthy after %v", time.Since(began).Round(time.Millisecond)) }()
	w.net.Heal()
	w.goesOn(1, 2, 3)
	appliancetest.Eventually(w, time.Minute, "all nodes have every acknowledged account, and agree on the breaker", func() bool {
		leader := w.status(1).Leader
		for n := 1; n <= 3; n++ {
			c := w.nodes[n].Admin()
			accounts, err := c.Accounts(w.Context())
			c.Close()
			if s := w.status(n); err != nil || s.Leader == 0 || s.Leader != leader || w.forcedOn(n) != w.force {
				return false
			}
			have := map[string]bool{}
			for _, a := range accounts {
				have[a.ID] = true
			}
			for _, id := range w.made {
				if !have[id] {
					return false
				}
			}
		}
		return true
	})
}

func others(n int) []int {
	return [][]int{nil, {2, 3}, {1, 3}, {1, 2}}[n]
}

// overload has clients ask all nodes for more than the tight plan of a key. What it
// returns ends that, and wants the plan to have been kept at all times.
func (w *threeMachines) overload(key string) (check func()) {
	takings := appliancetest.NewTakings()
	ctx, stop := context.WithCancel(w.Context())
	var load sync.WaitGroup
	for n := 1; n <= 3; n++ {
		load.Go(func() { takings.Load(ctx, w.target(n, key), n, 2, 10*time.Millisecond) })
	}
	w.Cleanup(load.Wait)
	w.Cleanup(stop)
	return func() {
		w.Helper()
		stop()
		load.Wait()
		w.Logf("account at its limit: %s", takings.Summary())
		must(w.T, "the limit", takings.Check(failoverWindow, tightRate, tightBurst))
		if takings.Check(failoverWindow, tightRate/2, tightBurst) == nil || takings.Count("429 rate_limited") == 0 {
			w.Error("the account never had half of its plan in a window: the check says nothing")
		}
	}
}

// TestClusterNetworkFaults does to three machines what networks and kernels do,
// while an account asks all of them for more than its plan. It needs root. After
// each fault the group is healthy again, the nodes agree, nothing that was
// acknowledged is lost, and the account never got more than its plan.
func TestClusterNetworkFaults(t *testing.T) {
	t.Parallel()
	w := startThreeMachines(t, "FOREBAY_RATE_LIMITING_WINDOW="+failoverWindow.String(), failoverTiers)
	w.healthy()
	limited := w.overload(w.key("hot", "tight"))

	// A leader that stands still is replaced; awake again, it follows.
	stopped := w.leader()
	w.nodes[stopped].Signal(syscall.SIGSTOP)
	w.goesOn(others(stopped)...)
	w.nodes[stopped].Signal(syscall.SIGCONT)
	w.healthy()

	// A leader whose packets get nowhere, while it hears all the others.
	mute := w.leader()
	for _, o := range others(mute) {
		w.net.Cut(mute, o)
	}
	if w.net.Ping(mute, others(mute)[0]) {
		t.Error("the cut was no cut")
	}
	w.goesOn(others(mute)...)
	w.healthy()

	// A leader that is alone takes nothing, and the others go on.
	alone := w.leader()
	w.net.Isolate(alone)
	w.goesOn(others(alone)...)
	if err := w.create(alone); err == nil {
		t.Error("a node without a majority took a change")
	}
	w.healthy()

	// One follower never hears the other: for good, and all three make progress.
	leader := w.leader()
	w.net.Cut(others(leader)[0], others(leader)[1])
	for range 3 {
		for n := 1; n <= 3; n++ {
			w.goesOn(n)
		}
	}
	if got := w.leader(); got != leader {
		t.Errorf("node %d leads, want %d still: two followers that do not hear each other are no reason", got, leader)
	}
	w.healthy()

	// Three of ten packets are lost, in bursts.
	seed := seedOf(t)
	if cuts := w.net.Lose(rand.New(rand.NewPCG(seed, 0)), 0.3, 40); cuts < 40 {
		t.Errorf("%d cuts in 40 slices: hardly anything was lost", cuts)
	}
	w.goesOn(1, 2, 3)
	w.healthy()
	t.Logf("%d changes acknowledged, all of them on all nodes", len(w.made))
	limited()
}
