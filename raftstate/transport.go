package raftstate

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// raftStream is raft's share of the cluster port (raft.StreamLayer). Addresses
// that it dials are numbers of nodes: where they are now is the port's to know.
type raftStream struct {
	*intake
	port *port
}

// Dial implements raft.StreamLayer.
func (s raftStream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.port.dial(ctx, nodeOf(raft.ServerID(address)), purposeRaft)
}

// nodeAddresses makes raft dial nodes and not the addresses in its log, so that
// a node that has moved needs no change of members (raft.ServerAddressProvider).
type nodeAddresses struct{}

// ServerAddr implements raft.ServerAddressProvider.
func (nodeAddresses) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	return raft.ServerAddress(id), nil
}

// silence is how long a raft call to another node may take, in heartbeats, and
// at least a second. A call into a partition holds up the next one for so long.
const silence = 3

// openTransport is the one place that decides how members reach each other. A
// group of one has nobody to reach.
func (g *Group) openTransport() raft.Transport {
	if g.port == nil {
		_, transport := raft.NewInmemTransport(raft.ServerAddress("node-" + strconv.Itoa(int(g.cfg.NodeID))))
		return transport
	}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: nodeAddresses{},
		Stream:                raftStream{g.port.raft, g.port},
		MaxPool:               3,
		// Pipelining can wedge a follower until the leader restarts
		// (hashicorp/raft issue 612).
		MaxRPCsInFlight: 1,
		Timeout:         max(silence*g.cfg.Cluster.Heartbeat, time.Second),
		Logger:          &raftLogger{Logger: g.log},
	})
}
