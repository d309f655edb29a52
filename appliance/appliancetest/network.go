package appliancetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Network is a switch with machines on it, each a network namespace of its own:
// what happens to their traffic happens to nothing else. It needs root.
type Network struct {
	tb    testing.TB
	name  string
	hosts int
}

// NewNetwork makes a network of so many machines, numbered from 1. It is removed
// when the test ends.
func NewNetwork(tb testing.TB, hosts int) *Network {
	tb.Helper()
	n := &Network{tb: tb, name: fmt.Sprintf("fb%d-%08x", os.Getpid(), rand.Uint32()), hosts: hosts}
	tb.Cleanup(func() {
		for _, space := range append([]string{n.hub()}, n.spaces()...) {
			_ = exec.Command("ip", "netns", "del", space).Run() // one that was never made is gone already
		}
	})
	n.run("ip", "netns", "add", n.hub())
	n.run("ip", "-n", n.hub(), "link", "add", "br0", "type", "bridge")
	n.run("ip", "-n", n.hub(), "link", "set", "br0", "up")
	for i, space := range n.spaces() {
		host := i + 1
		n.run("ip", "netns", "add", space)
		n.run("ip", "-n", space, "link", "set", "lo", "up")
		n.run("ip", "-n", n.hub(), "link", "add", fmt.Sprintf("p%d", host), "type", "veth", "peer", "name", "eth0", "netns", space)
		n.run("ip", "-n", n.hub(), "link", "set", fmt.Sprintf("p%d", host), "master", "br0", "up")
		n.run("ip", "-n", space, "addr", "add", n.Address(host)+"/24", "dev", "eth0")
		n.run("ip", "-n", space, "link", "set", "eth0", "address", hardware(host), "up")
	}
	n.Heal()
	return n
}

func (n *Network) hub() string { return n.name + "-hub" }

// Namespace is the name of a machine's.
func (n *Network) Namespace(host int) string { return fmt.Sprintf("%s-%d", n.name, host) }

func (n *Network) spaces() (all []string) {
	for host := range n.hosts {
		all = append(all, n.Namespace(host+1))
	}
	return all
}

// Address is a machine's.
func (n *Network) Address(host int) string { return fmt.Sprintf("10.77.0.%d", host) }

func hardware(host int) string { return fmt.Sprintf("02:00:00:00:00:%02x", host) }

func (n *Network) run(args ...string) {
	n.tb.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		n.tb.Fatalf("%s (this test needs root): %v: %s", strings.Join(args, " "), err, out)
	}
}

// Cut loses what one machine sends to another, and says nothing of it. The other
// way goes on.
func (n *Network) Cut(from, to int) { n.neighbour(from, to, "02:00:00:00:00:ff") }

// Heal undoes all cuts.
func (n *Network) Heal() {
	n.tb.Helper()
	for from := range n.hosts {
		for to := range n.hosts {
			if from != to {
				n.neighbour(from+1, to+1, hardware(to+1))
			}
		}
	}
}

// neighbour says which hardware address a machine sends to for another's.
func (n *Network) neighbour(from, to int, address string) {
	n.tb.Helper()
	n.run("ip", "-n", n.Namespace(from), "neigh", "replace", n.Address(to), "lladdr", address, "dev", "eth0", "nud", "permanent")
}

// Isolate cuts a machine off from all others, both ways.
func (n *Network) Isolate(host int) {
	n.tb.Helper()
	for other := range n.hosts {
		if other+1 != host {
			n.Cut(host, other+1)
			n.Cut(other+1, host)
		}
	}
}

// Lose loses packets for a while, in bursts: in each slice of time every way from
// one machine to another is cut with the given probability. It heals afterwards.
// A kernel need not have netem for that.
func (n *Network) Lose(r *rand.Rand, probability float64, slices int) (cuts int) {
	n.tb.Helper()
	for range slices {
		for from := 1; from <= n.hosts; from++ {
			for to := 1; to <= n.hosts; to++ {
				switch {
				case from == to:
				case r.Float64() < probability:
					cuts++
					n.Cut(from, to)
				default:
					n.neighbour(from, to, hardware(to))
				}
			}
		}
		<-time.After(lossSlice)
	}
	n.Heal()
	return cuts
}

const lossSlice = 50 * time.Millisecond

// pingLimit is far beyond what a packet needs on a machine that is busy.
const pingLimit = 2 * time.Second

// Ping reports whether a packet gets from one machine to the other and back.
func (n *Network) Ping(from, to int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), pingLimit)
	defer cancel()
	conn, err := dialIn(ctx, n.Namespace(from), net.JoinHostPort(n.Address(to), "9"))
	if err == nil {
		conn.Close()
	}
	return err == nil || errors.Is(err, unix.ECONNREFUSED)
}

// dialIn dials from within a namespace.
func dialIn(ctx context.Context, space, address string) (net.Conn, error) {
	runtime.LockOSThread() // a thread that could not go back is not unlocked, and so ends with its goroutine
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	there, err := os.Open("/var/run/netns/" + space)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	conn, dialErr := (&net.Dialer{Timeout: answerTimeout}).DialContext(ctx, "tcp", address)
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	runtime.UnlockOSThread()
	return conn, dialErr
}
