package appliance_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"forebay/appliance/appliancetest"
	"forebay/raftstate"
	"forebay/raftstate/account"
	"forebay/raftstate/limiter"
)

// The benchmarks of this file drive a node's side of the limits by itself: HTTP
// and the log cost so much more that they would hide it.

// member is a node of a real group, with its side of the limits.
type member struct {
	*raftstate.Group
	spender  *limiter.Spender
	registry *prometheus.Registry
}

// startMembers starts a group of three that can reach each other on loopback.
func startMembers(b *testing.B) (members []*member) {
	peers := map[uint16]string{}
	for n := range uint16(3) {
		peers[n+1] = appliancetest.FreeAddress(b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	b.Cleanup(func() {
		cancel()
		running.Wait()
		for _, m := range members {
			must2(b, m.Close())
		}
	})
	for node, address := range peers {
		m := &member{registry: prometheus.NewRegistry()}
		var err error
		m.Group, err = raftstate.Open(raftstate.Config{NodeID: node, Dir: b.TempDir(), Registerer: m.registry,
			Plans:   []account.Plan{{Name: "premium", RequestsPerMinute: 1000, Burst: 200, Concurrent: 100}},
			Cluster: raftstate.ClusterConfig{Listen: address, Peers: peers},
			Fatal:   func(err error) { b.Errorf("node %d: %v", node, err) }})
		must2(b, err)
		m.spender, err = limiter.NewSpender(limiter.Config{Node: node, Group: m.Group}, rand.Uint64())
		must2(b, err)
		m.Follow(m.spender)
		running.Go(func() { _ = m.Run(ctx) })
		running.Go(func() { _ = m.spender.Run(ctx, time.Second) })
		members = append(members, m)
	}
	ready, end := context.WithTimeout(ctx, time.Minute)
	defer end()
	for _, m := range members {
		must2(b, m.WaitLeader(ready))
	}
	return members
}

// accountNames names n accounts.
func accountNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("account-%d", i)
	}
	return names
}

// forAll does the same to every account, so many at a time that what each waits
// for travels with others'.
func forAll(b *testing.B, names []string, f func(i int, name string) error) {
	b.Helper()
	todo := make(chan int)
	var working sync.WaitGroup
	for range 512 {
		working.Go(func() {
			for i := range todo {
				if err := f(i, names[i]); err != nil {
					b.Errorf("account %s: %v", names[i], err)
				}
			}
		})
	}
	for i := range names {
		todo <- i
	}
	close(todo)
	working.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// leases is how many commands for limits the node has applied.
func (m *member) leases(b *testing.B) (n float64) {
	b.Helper()
	families, err := m.registry.Gather()
	must2(b, err)
	for _, f := range families {
		if f.GetName() != "forebay_raft_commands_total" {
			continue
		}
		for _, c := range f.GetMetric() {
			if c.GetLabel()[0].GetValue() == "lease" {
				n += c.GetCounter().GetValue()
			}
		}
	}
	return n
}

// admit takes one message of an account through a node's side of the limits.
func admit(s *limiter.Spender, name string, l limiter.Limits) error {
	p, v := s.Enter(context.Background(), name, l)
	if v.Reason == limiter.Allowed {
		var got int64
		got, v = p.Take(context.Background(), 1)
		p.Settle(got, got)
		p.Leave()
	}
	if v.Reason != limiter.Allowed {
		return errors.New("refused: " + v.Reason.String())
	}
	return nil
}

// decisionLoad has the nodes decide on messages of accounts taken at random, so many
// a second, each node as often as the others. It returns how many a second that
// were, and how many were refused.
func decisionLoad(members []*member, names []string, l limiter.Limits, rate float64, span time.Duration) (reached float64, refused int64) {
	const workers = 256
	var decided, refusals atomic.Int64
	start, due := time.Now(), make(chan int, 1024)
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for i := range due {
				if admit(members[i%len(members)].spender, names[rand.IntN(len(names))], l) != nil {
					refusals.Add(1)
				}
				decided.Add(1)
			}
		})
	}
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for sent := 0; time.Since(start) < span; <-pace.C {
		for until := int(time.Since(start).Seconds() * rate); sent < until; sent++ {
			due <- sent
		}
	}
	close(due)
	working.Wait()
	return float64(decided.Load()) / time.Since(start).Seconds(), refusals.Load()
}

// BenchmarkLimitCommands measures how many commands the limits of ten thousand
// accounts put into the replicated log, when three nodes take twenty thousand
// messages a second: while the nodes meet the accounts for the first time, and when
// they know them. The nodes' groups are real, with their disks and their network;
// what stands before them is left out, for with it two processors that also make
// the load do not reach that rate at all times.
func BenchmarkLimitCommands(b *testing.B) {
	const rate = 20_000
	members := startMembers(b)
	names := accountNames(limitedAccounts)
	forAll(b, names, func(_ int, name string) error {
		_, err := members[0].CreateAccount(context.Background(), account.CreateAccount{ID: name, Tier: "premium"})
		return err
	})
	l, ok := members[0].Limits(names[0])
	if !ok {
		b.Fatal("the accounts have no limits")
	}
	for _, phase := range []struct {
		name string
		span time.Duration
	}{{"cold", 8 * time.Second}, {"warm", 20 * time.Second}} {
		before, used, start := members[0].leases(b), ownTime(b), time.Now()
		reached, refused := decisionLoad(members, names, l, rate, phase.span)
		commands := (members[0].leases(b) - before) / time.Since(start).Seconds()
		each := (ownTime(b) - used).Seconds() / reached / time.Since(start).Seconds()
		if reached < 0.98*rate || refused > 0 {
			b.Errorf("%s: %.0f decisions a second, %d of them refusals; want %d and none", phase.name, reached, refused, rate)
		}
		report(fmt.Sprintf("commands for limits of 10,000 %s accounts on three nodes, %.0f decisions/s, without HTTP", phase.name, reached),
			fmt.Sprintf("%.0f/s (%.1f µs of the processor a decision, all nodes and the load itself)", commands, 1e6*each), "< 200/s")
		b.ReportMetric(commands, "commands/s,"+phase.name)
	}
}

// stillGroup is a group in this process whose clock the benchmark moves.
type stillGroup struct {
	mu    sync.Mutex // guards all
	now   time.Duration
	state *limiter.State
}

var unlimited = limiter.Limits{Rate: 100_000_000, Burst: 1_000_000, Concurrent: 100_000}

func (g *stillGroup) Exchange(_ context.Context, q *limiter.Request) (*limiter.Answer, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	answers, _ := g.state.Apply(g.now.Milliseconds(), &limiter.Command{Nodes: 1, Requests: []limiter.Request{*q}},
		func(string) (limiter.Limits, bool) { return unlimited, true })
	return &answers[0], nil
}

func (g *stillGroup) clock() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

// pass moves the clock and has the group notice.
func (g *stillGroup) pass(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += d
	g.state.Apply(g.now.Milliseconds(), &limiter.Command{Nodes: 1}, nil)
}

func (g *stillGroup) known() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state.Known()
}

// startSpender starts a node's side before a group; now nil: by the process's clock.
func startSpender(b *testing.B, g *stillGroup, now func() time.Duration) *limiter.Spender {
	b.Helper()
	s, err := limiter.NewSpender(limiter.Config{Node: 1, Group: g, Now: now}, 1)
	must2(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, time.Second) }()
	b.Cleanup(func() {
		cancel()
		must2(b, <-done)
	})
	return s
}

// BenchmarkLimitDecision measures a whole decision on a warm account: enter, take,
// settle, leave. Its baseline is what no decision can do without: to find the
// account by its name, and to look at the clock.
func BenchmarkLimitDecision(b *testing.B) {
	const decisions = 500_000
	s := startSpender(b, &stillGroup{state: limiter.NewState()}, nil)
	names, known := accountNames(limitedAccounts), sync.Map{}
	forAll(b, names, func(i int, name string) error {
		known.Store(name, i)
		return admit(s, name, unlimited)
	})
	runtime.LockOSThread() // it is its time that is measured: others have the processor, too
	defer runtime.UnlockOSThread()
	each := func(f func(name string)) float64 {
		start := threadTime(b)
		for i := range decisions {
			f(names[i%len(names)])
		}
		return float64(threadTime(b)-start) / decisions
	}
	var ours, bare []float64
	for range 2*rounds + 1 {
		ours = append(ours, each(func(name string) {
			if err := admit(s, name, unlimited); err != nil {
				b.Fatalf("%s: %v", name, err)
			}
		}))
		bare = append(bare, each(func(name string) {
			_, _ = known.Load(name)
			_ = time.Now()
		}))
	}
	allocations := testing.AllocsPerRun(10_000, func() { _ = admit(s, names[0], unlimited) })
	report("a limiter's decision on one of 10,000 warm accounts", fmt.Sprintf("%.0f ns, %.0f allocations (%.1f × a look-up and the time)",
		median(ours), allocations, median(ours)/median(bare)), "< 300 ns, 0")
	b.ReportMetric(median(ours), "ns/decision")
}

// threadTime is what the calling thread has used of the processor, ownTime what
// this process has (getrusage(2)).
func threadTime(b *testing.B) time.Duration { return usage(b, unix.RUSAGE_THREAD) }

func ownTime(b *testing.B) time.Duration { return usage(b, unix.RUSAGE_SELF) }

func usage(b *testing.B, whose int) time.Duration {
	b.Helper()
	var used unix.Rusage
	must2(b, unix.Getrusage(whose, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkLimitMemory measures what an account costs that nobody uses, and that
// it is forgotten.
func BenchmarkLimitMemory(b *testing.B) {
	const accounts = 50_000
	heap := func() float64 {
		runtime.GC()
		runtime.GC() // what finalizers held
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	names := accountNames(accounts)
	empty := heap()
	g := &stillGroup{state: limiter.NewState()}
	s := startSpender(b, g, g.clock)
	forAll(b, names, func(_ int, name string) error { return admit(s, name, unlimited) })
	used := heap() - empty
	g.pass(limiter.LeaseTime / 2) // a minute without a request
	appliancetest.Eventually(b, time.Minute, "the node has given back and forgotten what nobody uses", func() bool { return s.Stats().Accounts == 0 })
	if g.known() != accounts {
		b.Fatalf("the group knows %d accounts, want all %d: their windows are not over", g.known(), accounts)
	}
	idle := heap() - empty
	g.pass(time.Hour)
	if n := g.known(); n != 0 {
		b.Errorf("the group still knows %d accounts of which nothing counts", n)
	}
	left := heap() - empty
	report("memory of an account that is known and idle, in the replicated state", fmt.Sprintf("%.0f bytes (%.0f more on a node for a minute after its last request; %.0f of each left when all are forgotten)",
		idle/accounts, (used-idle)/accounts, left/accounts), "< 400 bytes")
	b.ReportMetric(idle/accounts, "bytes")
	runtime.KeepAlive(names)
}
