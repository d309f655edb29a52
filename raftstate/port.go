package raftstate

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// The cluster port takes raft and HTTP from node to node. A connection begins,
// inside TLS if there is TLS, with a greeting of the one who dials:
//
//	purpose  1 byte, 'R' raft or 'H' HTTP
//	from     2 bytes, the number of the node that dials, big-endian
//	to       2 bytes, the number of the node that it means to reach
//
// The other answers with one byte, greeted, or closes: so an address that has
// come to be another node's is noticed before anything is said, without
// certificates too. With them, both sides hold the numbers against them.
const (
	purposeRaft = 'R'
	purposeHTTP = 'H'
	greeted     = 1

	greetLimit = 5 * time.Second // for TLS and the greeting
	// maxGreeting bounds the connections that have not greeted yet.
	maxGreeting = 128
)

// port listens on the cluster port, and dials that of others.
type port struct {
	node   uint16
	creds  *credentials // nil: plain text
	log    *slog.Logger
	lookup func(node uint16) []string // addresses to try, best first

	listener net.Listener
	raft     *intake
	http     *intake
	greeting chan struct{}
	done     context.Context // ends with close
	end      context.CancelFunc
	running  sync.WaitGroup

	mu    sync.Mutex // guards all below
	conns map[*peerConn]struct{}
	shut  bool
}

func openPort(node uint16, c ClusterConfig, lookup func(uint16) []string, log *slog.Logger) (*port, error) {
	p := newDialer(node, lookup, log)
	if c.TLS.set() {
		var err error
		if p.creds, err = loadCredentials(c.TLS, log); err != nil {
			return nil, err
		}
	}
	var err error
	if p.listener, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("listen for the cluster: %w", err)
	}
	p.raft, p.http = newIntake(p.listener.Addr()), newIntake(p.listener.Addr())
	return p, nil
}

// newDialer is a port that only dials.
func newDialer(node uint16, lookup func(uint16) []string, log *slog.Logger) *port {
	p := &port{node: node, log: log, lookup: lookup, greeting: make(chan struct{}, maxGreeting), conns: map[*peerConn]struct{}{}}
	p.done, p.end = context.WithCancel(context.Background())
	return p
}

// serve begins to accept.
func (p *port) serve() {
	p.running.Go(func() {
		for {
			conn, err := p.listener.Accept()
			if err != nil {
				select {
				case <-p.done.Done():
					return
				case <-time.After(50 * time.Millisecond): // no descriptors, say
					continue
				}
			}
			select {
			case p.greeting <- struct{}{}:
				p.running.Go(func() { p.welcome(conn) })
			default:
				conn.Close() // a flood; the other tries again
			}
		}
	})
}

// welcome hears the greeting and hands the connection to whom it is for.
func (p *port) welcome(raw net.Conn) {
	defer func() { <-p.greeting }()
	conn := p.track(raw)
	if conn == nil {
		return
	}
	purpose, err := p.hear(conn)
	if err != nil {
		p.log.Debug("raft: connection refused", "remote", raw.RemoteAddr().String(), "error", err)
		conn.Close()
		return
	}
	to := p.raft
	if purpose == purposeHTTP {
		to = p.http
	}
	if !to.put(conn) {
		conn.Close()
	}
}

func (p *port) hear(conn *peerConn) (purpose byte, err error) {
	if err := conn.SetDeadline(time.Now().Add(greetLimit)); err != nil {
		return 0, err
	}
	if p.creds != nil {
		secure := tls.Server(conn.Conn, p.creds.server())
		conn.Conn = secure
		if err := secure.Handshake(); err != nil {
			return 0, err
		}
	}
	var greeting [5]byte
	if _, err := io.ReadFull(conn, greeting[:]); err != nil {
		return 0, err
	}
	purpose, conn.peer = greeting[0], binary.BigEndian.Uint16(greeting[1:])
	if to := binary.BigEndian.Uint16(greeting[3:]); to != p.node || purpose != purposeRaft && purpose != purposeHTTP {
		return 0, fmt.Errorf("greeting is %q for node %d, this is %d", purpose, to, p.node)
	}
	if secure, ok := conn.Conn.(*tls.Conn); ok {
		if err := checkPeer(secure, conn.peer); err != nil {
			return 0, err
		}
	}
	if _, err := conn.Write([]byte{greeted}); err != nil {
		return 0, err
	}
	return purpose, conn.SetDeadline(time.Time{})
}

// dial connects to a node, at the first of its addresses where it answers.
func (p *port) dial(ctx context.Context, node uint16, purpose byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, greetLimit)
	defer cancel()
	defer context.AfterFunc(p.done, cancel)()
	addresses := p.lookup(node)
	if len(addresses) == 0 {
		return nil, fmt.Errorf("the address of node %d is not known", node)
	}
	var errs []error
	for i, address := range addresses {
		// Each address that is left gets an equal share of the time.
		deadline, _ := ctx.Deadline()
		share := time.Until(deadline) / time.Duration(len(addresses)-i)
		conn, err := p.greet(ctx, share, node, address, purpose)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return nil, fmt.Errorf("dial node %d: %w", node, errors.Join(errs...))
}

func (p *port) greet(ctx context.Context, limit time.Duration, node uint16, address string, purpose byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := p.track(raw)
	if conn == nil {
		return nil, net.ErrClosed
	}
	conn.peer = node
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	err = p.introduce(ctx, conn, node, purpose)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (p *port) introduce(ctx context.Context, conn *peerConn, node uint16, purpose byte) error {
	if p.creds != nil {
		secure := tls.Client(conn.Conn, p.creds.client(node))
		conn.Conn = secure
		if err := secure.HandshakeContext(ctx); err != nil {
			return err
		}
	}
	greeting := binary.BigEndian.AppendUint16([]byte{purpose}, p.node)
	if _, err := conn.Write(binary.BigEndian.AppendUint16(greeting, node)); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("no node %d that knows this one: %w", node, err)
	}
	return nil
}

// close ends the port and every connection that came from it.
func (p *port) close() error {
	p.mu.Lock()
	again := p.shut
	p.shut = true
	var open []*peerConn
	for c := range p.conns {
		open = append(open, c)
	}
	p.mu.Unlock()
	if again {
		return nil
	}
	p.end()
	var err error
	if p.listener != nil {
		err = errors.Join(p.listener.Close(), p.raft.Close(), p.http.Close())
	}
	for _, c := range open {
		c.Close()
	}
	p.running.Wait()
	return err
}

// peerConn is a connection with a node.
type peerConn struct {
	net.Conn // raw, or TLS over it
	raw      net.Conn
	peer     uint16
	port     *port
}

// track returns nil, and closes raw, once the port is closed.
func (p *port) track(raw net.Conn) *peerConn {
	conn := &peerConn{Conn: raw, raw: raw, port: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		raw.Close()
		return nil
	}
	p.conns[conn] = struct{}{}
	return conn
}

// Close implements net.Conn. It may be called from any goroutine, at any time.
func (c *peerConn) Close() error {
	c.port.mu.Lock()
	delete(c.port.conns, c)
	c.port.mu.Unlock()
	return c.raw.Close()
}

// intake is one purpose's share of the port (net.Listener).
type intake struct {
	address net.Addr
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func newIntake(address net.Addr) *intake {
	return &intake{address: address, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (i *intake) put(c net.Conn) bool {
	select {
	case i.conns <- c:
		return true
	case <-i.done:
		return false
	}
}

// Accept implements net.Listener.
func (i *intake) Accept() (net.Conn, error) {
	select {
	case c := <-i.conns:
		return c, nil
	case <-i.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (i *intake) Close() error {
	i.once.Do(func() { close(i.done) })
	return nil
}

// Addr implements net.Listener.
func (i *intake) Addr() net.Addr { return i.address }
