package raftstate

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// tries is how often a node's raft has failed to send entries, and heartbeats, as
// its log says.
func (w *world) tries() (entries, heartbeats int) {
	text := w.logged()
	return strings.Count(text, "failed to appendEntries to"), strings.Count(text, "failed to heartbeat to")
}

// shortPauses is how many failures raft may count and still pause for no longer
// than 640 ms: 10 ms · 2^(n-2).
const shortPauses = 8

// TestANodeThatIsAwayIsWaitedFor: raft pauses for twice as long after each failure
// to send entries, up to ten seconds, in which a node that is back is left alone.
// So it must not try on while the node is away.
func TestANodeThatIsAwayIsWaitedFor(t *testing.T) {
	const beat = 500 * time.Millisecond
	c := newCluster(t, 3, func(cfg *Config) { cfg.Cluster.Heartbeat = beat }).startAll(1, 2, 3)
	away := c.follower()
	leader := c.nodes[c.leader()]
	c.stop(away)
	create(t, leader, "while-it-is-away")
	// A pause in which this many heartbeats fail is over two seconds long: raft's own
	// between two of them come to half of one.
	const quiet = 10
	entries, beats := 0, 0
	eventually(t, "heartbeats fail for long, and entries are not sent meanwhile", func() bool {
		now, beatsNow := leader.tries()
		if now > entries {
			entries, beats = now, beatsNow
		}
		return beatsNow >= beats+quiet
	})
	if entries > shortPauses {
		t.Errorf("%d tries to send entries before that: raft itself pauses for that long after so many", entries)
	}
	if !leader.peers.isAway(away) {
		t.Error("the leader does not know that the node is away")
	}
	began := time.Now()
	c.start(away).wait(t)
	t.Logf("%d tries while it was away; ready %v after its start", entries, time.Since(began).Round(time.Millisecond))
	c.agree()
}

// steadily has elections come of a death alone, and not of a busy machine.
func steadily(c *Config) { c.Cluster.Heartbeat = 2 * time.Second }

// TestWaitingForANodeEnds where there is no sense in it any more.
func TestWaitingForANodeEnds(t *testing.T) {
	c := newCluster(t, 3, steadily).startAll(1, 2, 3)
	away := c.follower()
	leader := c.nodes[c.leader()]
	eventually(t, "raft's heartbeats are noticed", func() bool { return leader.peers.get(away).beats })
	sent := 0
	deliver := func(term uint64) error {
		return leader.deliver(away, term, func() error { sent++; return nil })
	}
	term := leader.raft.CurrentTerm()
	if err := deliver(term); err != nil || sent != 1 {
		t.Fatalf("to a node that is there: sent %d, %v", sent, err)
	}
	c.stop(away)
	eventually(t, "the leader knows that the node is away", func() bool { return leader.peers.isAway(away) })
	if err := deliver(term - 1); !errors.Is(err, errLeftAlone) {
		t.Errorf("in a term that is over: got %v, want errLeftAlone", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- deliver(term) }()
	c.start(away).wait(t)
	if err := <-ended; err != nil || sent != 2 {
		t.Errorf("when the node is back: sent %d, %v", sent, err)
	}
	c.stop(away)
	eventually(t, "the leader knows that the node is away again", func() bool { return leader.peers.isAway(away) })
	go func() { ended <- deliver(term) }()
	if err := leader.RemoveMember(t.Context(), away); err != nil {
		t.Fatalf("remove: %v", err)
	}
	if err := <-ended; !errors.Is(err, errLeftAlone) || sent != 2 {
		t.Errorf("to a node that was removed: sent %d, %v, want errLeftAlone", sent, err)
	}
}

// TestANodeTooBusyForPingsIsNotAway: as long as raft's heartbeats reach it, entries
// do, too, however slowly.
func TestANodeTooBusyForPingsIsNotAway(t *testing.T) {
	p := newPeers()
	p.seen[2] = peer{away: true}
	for _, answered := range []bool{false, true, false} {
		p.beat(2, answered)
		if away := p.isAway(2); away == answered {
			t.Errorf("pings fail, heartbeats answered: %v; away: %v", answered, away)
		}
	}
}
