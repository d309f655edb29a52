package raftstate

import (
	"context"
	"errors"
	"io"
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
//
// Entries for a node that is away wait here until it answers again. Without that
// raft would try on and on, each time after twice as long: a node that comes back
// would be left alone for the rest of a pause of up to ten seconds, which nothing
// cuts short, and would not be ready until then.
type memberTransport struct {
	*raft.NetworkTransport
	hanging func() time.Duration
	mute    time.Duration
	// beat is told of each heartbeat whether it was answered.
	beat func(node uint16, answered bool)
	// deliver sends to a node when it is not away.
	deliver func(node uint16, term uint64, send func() error) error
}

// AppendEntries implements raft.Transport.
func (t *memberTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, q *raft.AppendEntriesRequest, r *raft.AppendEntriesResponse) error {
	if t.hanging() > t.mute {
		return errMuted
	}
	send := func() error { return t.NetworkTransport.AppendEntries(id, target, q, r) }
	if isHeartbeat(q) { // raft's heartbeats have a goroutine of their own, and short pauses
		err := send()
		t.beat(nodeOf(id), err == nil)
		return err
	}
	return t.deliver(nodeOf(id), q.Term, send)
}

// InstallSnapshot implements raft.Transport.
func (t *memberTransport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, q *raft.InstallSnapshotRequest, r *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.deliver(nodeOf(id), q.Term, func() error {
		return t.NetworkTransport.InstallSnapshot(id, target, q, r, data)
	})
}

// isHeartbeat is as raft's own transport tells them.
func isHeartbeat(q *raft.AppendEntriesRequest) bool {
	return q.PrevLogEntry == 0 && q.PrevLogTerm == 0 && len(q.Entries) == 0 && q.LeaderCommitIndex == 0
}

// awaitLook is how often a wait for a node looks whether it has come to its end.
const awaitLook = 25 * time.Millisecond

var errLeftAlone = errors.New("the node is away, and this one does not lead it any more")

// deliver sends to a node, which it waits for while that does not answer: for as long as this node leads in the term and the other is a member. Both are
// in raft's hands, and raft does not say when they end. What fails is a reason to
// ping at once: raft's pauses are short as long as its failures are few.
func (g *Group) deliver(node uint16, term uint64, send func() error) error {
	if g.peers.isAway(node) {
		// That somebody is away is known since Run has begun, so g.raft is set.
		if err := g.awaitPeer(node, term); err != nil {
			return err
		}
	}
	err := send()
	if err != nil {
		g.peers.pingNow()
	}
	return err
}

func (g *Group) awaitPeer(node uint16, term uint64) error {
	look := time.NewTicker(awaitLook)
	defer look.Stop()
	for g.peers.isAway(node) {
		_, member := g.server(node)
		if !member || g.isClosed() || !g.leads() || g.raft.CurrentTerm() != term {
			return errLeftAlone
		}
		<-look.C
	}
	return nil
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
	return &memberTransport{network, g.watch.hanging, max(muteHeartbeats*g.cfg.Cluster.Heartbeat, muteLeast), g.peers.beat, g.deliver}
}
