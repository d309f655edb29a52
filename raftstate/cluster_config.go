package raftstate

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"time"
)

// DefaultHeartbeat is a leader's usual sign of life. Without one for one to two
// of it, the others elect another.
const DefaultHeartbeat = time.Second

// ClusterConfig says how the nodes of a group reach each other. The zero value
// is a group of one that nobody can join.
type ClusterConfig struct {
	// Listen is the cluster port, host:port: raft and calls from node to node.
	Listen string
	// Advertise is the address that other nodes dial. Empty: this node's in
	// Peers, else Listen.
	Advertise string
	// Peers are addresses by node. Where this node is among them, they are the
	// members of a new group; where it is not, it joins theirs, once it is
	// added. Without peers, a new directory founds a group of this node alone,
	// which others may be added to.
	Peers map[uint16]string
	// TLS makes nodes prove who they are. The zero value is plain text, for
	// loopback alone.
	TLS TLSFiles
	// Heartbeat bounds the silence of a leader; an election takes one or two.
	// 10ms to 1m; 0: DefaultHeartbeat.
	Heartbeat time.Duration
}

func (c ClusterConfig) alone() bool { return c.Listen == "" }

func (c ClusterConfig) withDefaults(node uint16) ClusterConfig {
	c.Heartbeat = cmp.Or(c.Heartbeat, DefaultHeartbeat)
	c.Advertise = cmp.Or(c.Advertise, c.Peers[node], c.Listen)
	return c
}

func (c ClusterConfig) named(node uint16) bool { return c.Peers[node] != "" }

func (c ClusterConfig) validate(node uint16) error {
	if c.alone() {
		if len(c.Peers) > 0 || c.Advertise != "" {
			return errors.New("peers and advertise need an address to listen on")
		}
		return nil
	}
	var errs []error
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		errs = append(errs, fmt.Errorf("listen: %w", err))
	}
	if !c.TLS.set() && !loopback(host) {
		errs = append(errs, fmt.Errorf("listen %s: plain text is for loopback only", c.Listen))
	}
	if ip := net.ParseIP(host); (host == "" || ip != nil && ip.IsUnspecified()) && c.Advertise == "" && !c.named(node) {
		errs = append(errs, fmt.Errorf("listen %s is no address that others could dial: set advertise, or this node in peers", c.Listen))
	}
	if c.Heartbeat != 0 && (c.Heartbeat < 10*time.Millisecond || c.Heartbeat > time.Minute) {
		errs = append(errs, errors.New("heartbeat must be 10ms to 1m"))
	}
	return errors.Join(errs...)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
