package appliance_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/loadtest"
	"forebay/httpapi/admin"
)

// limitedAccounts is how many accounts the limits are measured with.
const limitedAccounts = 10_000

// limitedCluster is three appliances, each a process, that are one group.
type limitedCluster struct {
	*testing.B
	file  string // of the configuration of all of them
	nodes []*appliancetest.Process
	keys  []string // one for each of the accounts
}

func startLimitedCluster(b *testing.B) *limitedCluster {
	c := &limitedCluster{B: b, file: filepath.Join(b.TempDir(), "forebay.yaml")}
	c.write(true)
	addresses, peers := []string{}, "{"
	for n := range 3 {
		addresses = append(addresses, appliancetest.FreeAddress(b))
		peers += fmt.Sprintf("%d: '%s', ", n+1, addresses[n])
	}
	for n, address := range addresses {
		p := appliancetest.NewProcess(b, filepath.Join(b.TempDir(), "data"), nowhere, "FOREBAY_CONFIG="+c.file, fmt.Sprint("FOREBAY_NODE=", n+1),
			"FOREBAY_CLUSTER_LISTEN="+address, "FOREBAY_CLUSTER_PEERS="+peers+"}",
			"FOREBAY_RATE_LIMITING_TIERS={premium: {requests_per_minute: 1000, burst: 200, concurrent: 100}}")
		p.Spawn()
		c.nodes = append(c.nodes, p)
	}
	for _, p := range c.nodes {
		p.AwaitReady(time.Minute)
	}
	c.populate()
	return c
}

// write writes the configuration: whether there are limits.
func (c *limitedCluster) write(on bool) {
	must2(c.B, os.WriteFile(c.file, fmt.Appendf(nil, "rate_limiting: {enabled: %v}\n", on), 0o600))
}

// populate makes the accounts, with a key each.
func (c *limitedCluster) populate() {
	c.Helper()
	operator := c.nodes[0].Admin()
	defer operator.Close()
	c.keys = make([]string, limitedAccounts)
	forAll(c.B, accountNames(limitedAccounts), func(i int, name string) error {
		if _, err := operator.CreateAccount(context.Background(), admin.CreateAccount{ID: name, Tier: "premium"}); err != nil {
			return err
		}
		key, err := operator.CreateKey(context.Background(), name, admin.CreateKey{Label: "bench"})
		c.keys[i] = key.Secret
		return err
	})
}

// limit switches the limits of all nodes on or off, while they run.
func (c *limitedCluster) limit(on bool) {
	c.Helper()
	c.write(on)
	for _, p := range c.nodes {
		if out, err := p.Command("config", "reload").CombinedOutput(); err != nil {
			c.Fatalf("reload: %v\n%s", err, out)
		}
		operator := p.Admin()
		s, err := operator.Status(context.Background())
		operator.Close()
		must2(c.B, err)
		if (s.Limiter.Mode == "off") == on {
			c.Fatalf("the limiter is %q, want limits: %v", s.Limiter.Mode, on)
		}
	}
}

// settling is for how long after the load a node may still report what it has
// spent. It is part of what the limits cost, and must not fall upon what is
// measured next. Accounts are cold again when it is their limits' turn, so the
// load must last for that to be a small part.
const settling = 32 * time.Second

// load has every node accept from all accounts, as fast as it goes, and returns
// how many messages a second that were and what time of the processor each took,
// with what comes after.
func (c *limitedCluster) load(span time.Duration) (throughput float64, each time.Duration) {
	c.Helper()
	var used time.Duration
	for _, p := range c.nodes {
		used -= processorTime(c.B, p.PID())
	}
	results := make([]loadtest.Result, len(c.nodes))
	var clients sync.WaitGroup
	for n, p := range c.nodes {
		clients.Go(func() {
			var err error
			if results[n], err = mixedLoad(loadtest.Config{URL: p.URL, Keys: c.keys, Connections: 128, Duration: span}); err != nil {
				c.Errorf("load node %d: %v", n+1, err)
			}
		})
	}
	clients.Wait()
	<-time.After(settling)
	for _, p := range c.nodes {
		used += processorTime(c.B, p.PID())
	}
	var taken uint64
	for _, r := range results {
		if r.OK != r.Sent {
			c.Errorf("%d of %d taken: %v", r.OK, r.Sent, r.Codes)
		}
		taken += r.OK
		throughput += r.Throughput
	}
	return throughput, used / time.Duration(max(taken, 1))
}

// BenchmarkLimits measures what the limits cost three nodes that accept from ten
// thousand accounts. The same processes go with limits and without in turn, so
// that what is compared differs in nothing else; each pair is compared by itself,
// for the machine may change from one to the next.
func BenchmarkLimits(b *testing.B) {
	const span, pairs = 20 * time.Second, 5
	c := startLimitedCluster(b)
	for _, on := range []bool{false, true} { // warm
		c.limit(on)
		c.load(span)
	}
	var rates, costs, with, without []float64
	for i := range pairs {
		var rate [2]float64
		var cost [2]time.Duration
		for j := range 2 { // every other pair the other way round
			on := (i + j) % 2
			c.limit(on == 1)
			rate[on], cost[on] = c.load(span)
		}
		b.Logf("with limits %.0f/s, %v each; without %.0f/s, %v each", rate[1], cost[1], rate[0], cost[0])
		rates, costs = append(rates, rate[1]/rate[0]), append(costs, float64(cost[1])/float64(cost[0]))
		with, without = append(with, rate[1]), append(without, rate[0])
	}
	report("accept on three nodes, 10,000 accounts: throughput with limits ÷ without",
		fmt.Sprintf("%.3f (%.0f/s ÷ %.0f/s; median of %d pairs)", median(rates), median(with), median(without), pairs), "≥ 0.95")
	report("accept on three nodes, 10,000 accounts: processor time a message with limits ÷ without", fmt.Sprintf("%.3f", median(costs)), "")
	b.ReportMetric(median(rates), "ratio")
}
