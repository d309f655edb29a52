// Package raftstate is the state that all nodes of a cluster share: accounts,
// plans and API keys, replicated by Raft (hashicorp/raft). A single appliance is
// a group of one and takes the same path.
//
// # Promise
//
// A change is on the disk of a majority before its method returns without an
// error, and every node comes to the same state. ErrUnknownOutcome means that
// the change may or may not have happened; every other error means that it did
// not. Commands carry a request id, and the state remembers the answers to the
// last ones, so a command that is tried again after a lost answer happens once.
//
// Authenticate reads a view in memory that is at most one applied command old,
// takes no lock and allocates nothing. Until the log has been applied after a
// start it answers ErrNotReady and not "unknown key": a client must not be told
// that its key is bad because the appliance has only just started.
//
// # Disk
//
//	DIR/raft.db     log and vote, bbolt (raft-boltdb); two fsyncs a commit
//	DIR/snapshots/  the newest snapshots, each with a sum
//
// A crash at any moment leaves either the old or the new root page of raft.db,
// so a command whose answer was given is there. A snapshot is written under
// another name and renamed. bbolt keeps no sums: so each command carries its
// own (see command.go), and Open reads the whole log once and names what it
// cannot read instead of starting without it. Nothing is ever repaired by
// deleting it.
//
// # What ends the process
//
// Config.Fatal is called, once, when going on would be worse than stopping: a
// write to the log that does not return (a leader whose disk hangs would
// otherwise keep leading, and nothing would ever be answered), a command that
// this program does not know (a newer one wrote it; to skip it would part this
// node's state from the group's), or one whose sum is wrong.
//
// # Several nodes
//
// One port takes raft and HTTP between nodes (port.go), under mutual TLS in which
// a certificate names its node. Raft dials nodes and not addresses: where they
// are is part of the state, each says where it is with the pings that it sends
// to the others, and the leader writes it down. So one that has moved is found
// again, as long as a majority has not moved with it unheard.
//
// Any node takes changes: a follower hands them to the leader, which alone
// stamps them with cluster time. The stamp goes on from the last one that was
// applied and is good for one term (clock). A try whose answer was lost is made
// again under the same request id, and counts once.
//
// A node serves once it has caught up with what the leader had committed when it
// was asked, and no more when the leader says that it is not a member. New
// members have no vote until they have caught up: two voters of which one has
// never been there would be no majority.
//
// # Versions
//
// hashicorp/raft stays at 1.7.3: 1.8.0 needs go-metrics 0.7, which has dropped
// the package that raft-boltdb 2.3.1 imports.
package raftstate
