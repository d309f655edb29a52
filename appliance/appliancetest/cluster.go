package appliancetest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"forebay/appliance/config"
	"forebay/httpapi/admin"
)

// clusterHeartbeat is that of groups in tests: an election takes about a second,
// and a busy machine does not cause one.
const clusterHeartbeat = 500 * time.Millisecond

// Cluster is several appliances in this process that are one group. The account
// "acme" is there with one key for all of them.
type Cluster struct {
	Nodes map[uint16]*Node // those that run
	Key   string

	tb      testing.TB
	configs map[uint16]config.Config
}

// StartCluster starts n appliances, numbered from 1, and waits until all are
// ready. options change the configuration of each node.
func StartCluster(tb testing.TB, n int, options ...Option) *Cluster {
	tb.Helper()
	c := NewCluster(tb, n, options...)
	c.Start(slices.Sorted(maps.Keys(c.configs))...)
	c.Key = c.Nodes[1].account()
	for _, node := range c.Nodes {
		node.Key = c.Key
	}
	c.Await(c.Key)
	return c
}

// Await waits until every node that runs knows a key: one that was made on
// another node arrives a moment later.
func (c *Cluster) Await(key string) {
	c.tb.Helper()
	for number, n := range c.Nodes {
		t := n.Target()
		t.Key = key
		Eventually(c.tb, 30*time.Second, fmt.Sprintf("node %d knows the key", number), func() bool {
			var page any
			status, err := t.Get("/v1/messages?limit=1", &page)
			return err == nil && status == http.StatusOK
		})
	}
}

// NewCluster names n nodes and starts none.
func NewCluster(tb testing.TB, n int, options ...Option) *Cluster {
	tb.Helper()
	c := &Cluster{Nodes: map[uint16]*Node{}, tb: tb, configs: map[uint16]config.Config{}}
	peers := map[uint16]string{}
	for node := range uint16(n) {
		peers[node+1] = FreeAddress(tb)
	}
	for node, address := range peers {
		c.Add(node, address, peers, options...)
	}
	return c
}

// Add names one more node.
func (c *Cluster) Add(node uint16, address string, peers map[uint16]string, options ...Option) {
	c.tb.Helper()
	cfg := Config(c.tb.TempDir())
	cfg.Node = node
	cfg.Cluster.Listen, cfg.Cluster.Peers = address, maps.Clone(peers)
	for _, o := range options {
		o(&cfg)
	}
	c.configs[node] = cfg
}

// Configure changes a node's configuration for its next start.
func (c *Cluster) Configure(node uint16, options ...Option) {
	cfg := c.configs[node]
	cfg.Cluster.Peers = maps.Clone(cfg.Cluster.Peers)
	for _, o := range options {
		o(&cfg)
	}
	c.configs[node] = cfg
}

// Start starts nodes together and waits until all of them are ready.
func (c *Cluster) Start(nodes ...uint16) {
	c.tb.Helper()
	for _, n := range nodes {
		c.Launch(n)
	}
	for _, n := range nodes {
		c.Nodes[n].waitReady()
	}
}

// Launch starts a node and does not wait.
func (c *Cluster) Launch(node uint16) *Node {
	c.tb.Helper()
	n := launch(c.tb, c.configs[node], clusterHeartbeat)
	n.Key = c.Key
	c.Nodes[node] = n
	return n
}

// Stop stops a node gracefully.
func (c *Cluster) Stop(node uint16) {
	c.tb.Helper()
	n := c.Nodes[node]
	delete(c.Nodes, node)
	if err := n.Stop(); err != nil {
		c.tb.Fatalf("stop node %d: %v", node, err)
	}
}

// Leader waits until all nodes that run agree on a leader that runs.
func (c *Cluster) Leader() uint16 {
	c.tb.Helper()
	var leader uint16
	Eventually(c.tb, 30*time.Second, "the nodes agree on a leader", func() bool {
		leader = 0
		for _, n := range c.Nodes {
			s := n.raft()
			if s.Leader == 0 || c.Nodes[s.Leader] == nil || leader != 0 && s.Leader != leader {
				return false
			}
			leader = s.Leader
		}
		return c.Nodes[leader].raft().Role == "leader"
	})
	return leader
}

// Followers lists the nodes that run and do not lead, ascending.
func (c *Cluster) Followers() []uint16 {
	c.tb.Helper()
	leader := c.Leader()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.Nodes)), func(n uint16) bool { return n == leader })
}

func (n *Node) raft() admin.RaftStatus {
	s, err := n.Admin.Status(context.Background())
	if err != nil {
		return admin.RaftStatus{}
	}
	return s.Raft
}

// FreeAddress is a loopback address where nobody listens.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().String()
}
