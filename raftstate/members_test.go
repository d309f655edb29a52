package raftstate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"forebay/raftstate/account"
)

func (c *cluster) roles(node uint16) map[uint16]string {
	roles := map[uint16]string{}
	for _, m := range c.nodes[node].Status().Members {
		roles[m.Node] = m.Role
	}
	return roles
}

// join starts a node that the others do not know yet.
func (c *cluster) join(node uint16, edits ...func(*Config)) *world {
	c.Helper()
	address := freeAddress(c)
	others := maps.Clone(c.peers)
	w := c.start(node, append(edits, func(cfg *Config) {
		cfg.Cluster.Listen, cfg.Cluster.Peers = address, others
	})...)
	w.address = address
	return w
}

func TestMembersComeAndGo(t *testing.T) {
	c := newCluster(t, 3).startAll(1, 2, 3)
	texts := c.nodes[1].populate(t, 2)

	// A fourth comes with a vote, a fifth without; both are asked for on a follower.
	follower := c.nodes[c.follower()]
	for node, nonvoter := range map[uint16]bool{4: false, 5: true} {
		w := c.join(node)
		if _, err := w.Authenticate(texts[0]); !errors.Is(err, ErrNotReady) {
			t.Errorf("node %d before it is added: got %v, want ErrNotReady", node, err)
		}
		if err := follower.AddMember(t.Context(), node, w.address, nonvoter); err != nil {
			t.Fatalf("add node %d: %v", node, err)
		}
		w.wait(t)
		if _, err := w.Authenticate(texts[0]); err != nil {
			t.Errorf("node %d: %v", node, err)
		}
	}
	eventually(t, "the fourth votes, the fifth does not", func() bool {
		roles := c.roles(c.leader())
		return roles[4] == "voter" && roles[5] == "nonvoter"
	})
	if err := follower.AddMember(t.Context(), 5, "nowhere", true); err == nil {
		t.Error("an address without a port was taken")
	}

	// The leader goes; another leads, and the one that went serves no more.
	gone := c.leader()
	if err := c.nodes[gone].RemoveMember(t.Context(), gone); err != nil {
		t.Fatalf("remove the leader: %v", err)
	}
	eventually(t, "another leads, and the removed node does not serve", func() bool {
		for n, w := range c.nodes {
			if l := w.Leader(); n != gone && (l == 0 || l == gone) {
				return false
			}
		}
		_, err := c.nodes[gone].Authenticate(texts[0])
		return errors.Is(err, ErrNotReady) && c.nodes[gone].Status().Expelled
	})
	c.stop(gone)
	for n, w := range c.nodes {
		create(t, w, fmt.Sprintf("after-%d", n))
		if _, there := c.roles(n)[gone]; there {
			t.Errorf("node %d still lists node %d", n, gone)
		}
	}
	if err := c.nodes[5].RemoveMember(t.Context(), gone); !hasCode(err, CodeNoMember) {
		t.Errorf("remove it again: got %v, want %s", err, CodeNoMember)
	}
	c.agree()
}

func hasCode(err error, code string) bool {
	e := (*CallError)(nil)
	return errors.As(err, &e) && e.Code == code
}

func TestTransfer(t *testing.T) {
	c := newCluster(t, 3, steadily).startAll(1, 2, 3)
	to := c.follower()
	for n := range c.nodes {
		if n == to {
			continue
		}
		if err := c.nodes[n].Transfer(t.Context(), to); err != nil {
			t.Fatalf("transfer to node %d: %v", to, err)
		}
		break
	}
	if got := c.leader(); got != to {
		t.Errorf("node %d leads, want %d", got, to)
	}
	if err := c.nodes[to].Transfer(t.Context(), 77); !hasCode(err, CodeNoMember) {
		t.Errorf("transfer to nobody: got %v, want %s", err, CodeNoMember)
	}
	create(t, c.nodes[to], "after")
}

// TestTransferToANodeThatIsAway is refused, however often it is asked for, and the
// group goes on; the lead goes to one that answers.
func TestTransferToANodeThatIsAway(t *testing.T) {
	c := newCluster(t, 3, steadily).startAll(1, 2, 3)
	away := c.follower()
	leads := c.leader()
	leader := c.nodes[leads]
	c.stop(away)
	eventually(t, "the leader notices", func() bool { return leader.peers.isAway(away) })
	for i := range 3 {
		create(t, leader, fmt.Sprintf("before-%d", i)) // which the other does not have
		if err := leader.Transfer(t.Context(), away); !hasCode(err, CodeUnavailable) {
			t.Errorf("transfer to node %d: got %v, want %s", away, err, CodeUnavailable)
		}
	}
	create(t, leader, "meanwhile")
	if err := leader.Transfer(t.Context(), 0); err != nil {
		t.Fatalf("transfer to whoever is there: %v", err)
	}
	if got := c.leader(); got == leads || got == away {
		t.Errorf("node %d leads", got)
	}
}

// TestRemoveKeepsAMajority: a node is not removed if those that are left could
// not go on.
func TestRemoveKeepsAMajority(t *testing.T) {
	c := newCluster(t, 3).startAll(1, 2, 3)
	away := c.follower()
	c.stop(away)
	leader := c.nodes[c.leader()] // which may have heard from it a moment ago
	other := c.follower()
	if err := leader.RemoveMember(t.Context(), other); !hasCode(err, CodeUnavailable) {
		t.Errorf("remove node %d: got %v, want %s", other, err, CodeUnavailable)
	}
	if err := leader.RemoveMember(t.Context(), away); err != nil {
		t.Errorf("remove the node that is away: %v", err)
	}
	create(t, leader, "after")
}

func TestRecover(t *testing.T) {
	c := newCluster(t, 3).startAll(1, 2, 3)
	texts := c.nodes[1].populate(t, 2)
	c.agree()
	c.stop(3)
	c.leader() // node 3 may have been it
	cfg := Config{NodeID: 3, Dir: c.dirs[3], Plans: plans("basic"), Fatal: func(error) {},
		Cluster: ClusterConfig{Listen: c.peers[3], Peers: c.peers}}
	if _, err := Recover(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "leads the group") {
		t.Fatalf("while a leader answers: got %v, want a refusal", err)
	}
	c.stop(2)
	// Node 2 may have handed the lead over to node 1, which has it for a moment.
	eventually(t, "node 1 knows no leader, and a majority could be had", func() bool {
		_, err := Recover(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Fatalf("while a majority could be had: got %v, want a refusal", err)
		}
		return strings.Contains(err.Error(), "2 of 3 voters answer")
	})
	busy := cfg
	busy.NodeID, busy.Dir = 1, c.dirs[1]
	if _, err := Recover(t.Context(), busy); !errors.Is(err, ErrInUse) {
		t.Fatalf("of a running node: got %v, want ErrInUse", err)
	}
	c.stop(1)
	got, err := Recover(t.Context(), cfg)
	if err != nil || !slices.Equal(got.Lost, []uint16{1, 2}) {
		t.Fatalf("got %+v, %v, want nodes 1 and 2 lost", got, err)
	}
	w := c.start(3).wait(t)
	for _, text := range texts {
		if _, err := w.Authenticate(text); err != nil {
			t.Errorf("after the recovery: %v", err)
		}
	}
	create(t, w, "after")
	// New nodes take the lost ones' places.
	c.dirs[1] = t.TempDir()
	peers := map[uint16]string{3: c.peers[3]}
	fresh := c.start(1, func(cfg *Config) { cfg.Cluster.Peers = peers })
	if err := w.AddMember(t.Context(), 1, c.peers[1], false); err != nil {
		t.Fatalf("add a new node 1: %v", err)
	}
	fresh.wait(t)
	c.agree()
}

// TestRecoverOfAYoungGroup: a group that lost its others before their addresses
// were written down. The one that is left starts all the same with the
// configuration that it has.
func TestRecoverOfAYoungGroup(t *testing.T) {
	c := newCluster(t, 3)
	cfg := Config{NodeID: 3, Dir: c.dirs[3], Plans: plans("basic"), Fatal: func(error) {}, Cluster: ClusterConfig{Listen: c.peers[3], Peers: c.peers}}
	g, err := Open(cfg) // founded, and without Run it writes nothing down
	if err != nil {
		t.Fatal(err)
	}
	if known := *g.machine.members.known.Load(); len(known) != 0 {
		t.Fatalf("got %v written down, want nothing: the test says nothing", known)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := Recover(t.Context(), cfg)
	if err != nil || !slices.Equal(got.Lost, []uint16{1, 2}) {
		t.Fatalf("got %+v, %v, want nodes 1 and 2 lost", got, err)
	}
	w := c.start(3).wait(t)
	create(t, w, "after")
	c.stop(3)
	create(t, c.start(3).wait(t), "after-a-restart")
}

func TestACandidateKnowsNoLeader(t *testing.T) {
	for state, want := range map[raft.RaftState]uint16{raft.Follower: 2, raft.Leader: 2, raft.Candidate: 0} {
		if got := leaderIn(state, serverID(2)); got != want {
			t.Errorf("%s: got %d, want %d", state, got, want)
		}
	}
}

// TestGroupOfOneDoesNotMeetFounders: a node with a state of its own and peers in
// its configuration would be one group of two.
func TestGroupOfOneDoesNotMeetFounders(t *testing.T) {
	dir := closedDir(t, false)
	peers := map[uint16]string{1: freeAddress(t), 2: "127.0.0.1:1", 3: "127.0.0.1:2"}
	cfg := Config{NodeID: 1, Dir: dir, Plans: plans("basic"), Fatal: func(error) {}, Cluster: ClusterConfig{Listen: peers[1], Peers: peers}}
	if g, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "cluster add") {
		t.Errorf("got %v, %v, want an error that says how a group grows", g, err)
	}
	// It grows by being added to.
	c := &cluster{TB: t, peers: map[uint16]string{1: peers[1]}, dirs: map[uint16]string{1: dir}, nodes: map[uint16]*world{}}
	first := c.startAll(1).nodes[1]
	second := c.join(2)
	if err := first.AddMember(t.Context(), 2, second.address, false); err != nil {
		t.Fatalf("add: %v", err)
	}
	second.wait(t)
	eventually(t, "node 2 votes", func() bool { return c.roles(1)[2] == "voter" })
	c.agree()
	if got := len(second.Accounts()); got != 20 {
		t.Errorf("node 2 has %d accounts, want 20", got)
	}
	// The state of a group cannot be opened without a port.
	c.stop(2)
	c.stop(1)
	if err := reopen(dir, 1); err == nil || !strings.Contains(err.Error(), "cluster.listen is empty") {
		t.Errorf("without a port: got %v, want a refusal", err)
	}
}

func tlsFor(dir string, node uint16) TLSFiles {
	cert, key := NodeFiles(node)
	return TLSFiles{Cert: filepath.Join(dir, cert), Key: filepath.Join(dir, key), CA: filepath.Join(dir, AuthorityFile)}
}

func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	if _, err := MakeCertificates(dir, []uint16{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, 3, func(cfg *Config) { cfg.Cluster.TLS = tlsFor(dir, cfg.NodeID) }).startAll(1, 2, 3)
	create(t, c.nodes[c.follower()], "over-tls")
	c.agree()

	// Certificates are replaced while all runs. The old one is not used again.
	serial := func() string {
		pair, _ := c.nodes[2].port.creds.current()
		return pair.Leaf.SerialNumber.String()
	}
	before := serial()
	if _, err := MakeCertificates(dir, []uint16{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if serial() == before {
		t.Error("the new certificate is not in use")
	}
	back := c.follower()
	c.stop(back)
	c.start(back).wait(t) // with new connections to all
	create(t, c.nodes[back], "renewed")

	for _, f := range []string{AuthorityKeyFile, "node-1-key.pem"} {
		if info, err := os.Stat(filepath.Join(dir, f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v, want 0600", f, info.Mode(), err)
		}
	}
	stranger := t.TempDir()
	if _, err := MakeCertificates(stranger, []uint16{1}); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]TLSFiles{
		"another authority's": {Cert: tlsFor(stranger, 1).Cert, Key: tlsFor(stranger, 1).Key, CA: tlsFor(dir, 1).CA},
		"another node's":      tlsFor(dir, 3),
		"none":                {},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, c, files) })
	}
}

// wantRefused dials node 2 as node 1 with these files.
func wantRefused(t *testing.T, c *cluster, files TLSFiles) {
	p := newDialer(1, func(uint16) []string { return []string{c.peers[2]} }, c.nodes[2].log)
	defer p.close()
	if files.set() {
		var err error
		if p.creds, err = loadCredentials(files, c.nodes[2].log); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if conn, err := p.dial(ctx, 2, purposeHTTP); err == nil {
		conn.Close()
		t.Error("was let in")
	}
	// As itself, and with its own certificate, it is.
	good := newDialer(1, p.lookup, p.log)
	defer good.close()
	good.creds, _ = loadCredentials(tlsFor(filepath.Dir(c.nodes[2].cfg.Cluster.TLS.CA), 1), p.log)
	conn, err := good.dial(ctx, 2, purposeHTTP)
	if err != nil {
		t.Fatalf("the control was not let in: %v", err)
	}
	conn.Close()
}

func TestPlainTextIsForLoopback(t *testing.T) {
	cfg := Config{NodeID: 1, Dir: "x", Plans: plans("basic"), Fatal: func(error) {}}
	for listen, want := range map[string]bool{"127.0.0.1:1": true, "localhost:1": true, "[::1]:1": true,
		"0.0.0.0:1": false, ":1": false, "10.0.0.1:1": false, "example.org:1": false} {
		cfg.Cluster = ClusterConfig{Listen: listen}
		if err := cfg.Validate(); (err == nil) != want {
			t.Errorf("%s: got %v, want allowed %v", listen, err, want)
		}
	}
}

// TestALeaderKeepsWhatWasAgreed: plans that were changed while the group runs
// outlive a change of leader, whatever the new one was started with.
func TestALeaderKeepsWhatWasAgreed(t *testing.T) {
	c := newCluster(t, 3).startAll(1, 2, 3)
	agreed := []account.Plan{{Name: "agreed", RequestsPerMinute: 7, Burst: 3, Concurrent: 2}}
	if _, err := c.nodes[c.follower()].SetPlans(t.Context(), agreed); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes[c.leader()].SetWindow(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	to := c.follower()
	if err := c.nodes[c.leader()].Transfer(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	create := account.CreateAccount{ID: "after", Tier: "agreed"}
	if _, err := c.nodes[to].CreateAccount(t.Context(), create); err != nil {
		t.Errorf("the plan is gone with the leader: %v", err)
	}
	if got := c.nodes[to].Window(); got != 30*time.Second {
		t.Errorf("the window is %v again", got)
	}
}
