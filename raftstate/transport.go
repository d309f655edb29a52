package raftstate

import (
	"context"
	"errors"
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

// muteHeartbeats is for how many heartbeats, and at least how long, a leader may
// hang in a write to its log before it falls silent: as long as an election takes.
const (
	muteHeartbeats = 2
	muteLeast      = 2 * time.Second
)

var errMuted = errors.New("a write to the raft log hangs: this node does not lead on")

// memberTransport is raft's transport between nodes. While a write to this node's
// log hangs it sends nothing as a leader, which is as if it were lost on the way:
// the followers elect another, and this node steps down when its disk is back.
type memberTransport struct {
	*raft.NetworkTransport
	hanging func() time.Duration
	mute    time.Duration
}

// AppendEntries implements raft.Transport; a heartbeat is one without entries.
func (t *memberTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, q *raft.AppendEntriesRequest, r *raft.AppendEntriesResponse) error {
	if t.hanging() > t.mute {
		return errMuted
	}
	return t.NetworkTransport.AppendEntries(id, target, q, r)
}

// openTransport is the one place that decides how members reach each other. A
// group of one has nobody to reach.
func (g *Group) openTransport() raft.Transport {
	if g.port == nil {
		_, transport := raft.NewInmemTransport(raft.ServerAddress("node-" + strconv.Itoa(int(g.cfg.NodeID))))
		return transport
	}
	network := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: nodeAddresses{},
		Stream:                raftStream{g.port.raft, g.port},
		MaxPool:               3,
		// Pipelining can wedge a follower until the leader restarts
		// (hashicorp/raft issue 612).
		MaxRPCsInFlight: 1,
		Timeout:         max(silence*g.cfg.Cluster.Heartbeat, time.Second),
		Logger:          &raftLogger{Logger: g.log},
	})
	return &memberTransport{network, g.watch.hanging, max(muteHeartbeats*g.cfg.Cluster.Heartbeat, muteLeast)}
}
