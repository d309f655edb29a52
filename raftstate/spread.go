package raftstate

import (
	"context"
	"encoding/binary"
	"sync"
	"time"
)

const (
	callReach = "raft/reach"
	// spreadLimit bounds the wait for the other nodes: one that has just died
	// must not hold up who changes an account.
	spreadLimit = 500 * time.Millisecond
)

// spread waits until the other nodes that answer have what this one has, so that
// a key that was made here is known there when its owner is told of it. It gives
// up: the change is made all the same.
func (g *Group) spread(ctx context.Context) {
	index := binary.BigEndian.AppendUint64(nil, g.machine.index.Load())
	ctx, cancel := context.WithTimeout(ctx, spreadLimit)
	defer cancel()
	var all sync.WaitGroup
	for _, node := range g.others() {
		if g.peers.get(node).away || !g.reaches(node) {
			continue
		}
		all.Go(func() { _, _ = g.calls.call(ctx, node, callReach, index) })
	}
	all.Wait()
}

// answerReach is the other side: it answers when this node has come so far.
func (g *Group) answerReach(ctx context.Context, _ uint16, body []byte) ([]byte, error) {
	if len(body) != 8 {
		return nil, &CallError{CodeInternal, "an index has 8 bytes"}
	}
	g.follow(ctx, binary.BigEndian.Uint64(body))
	return nil, nil
}
