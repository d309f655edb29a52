package raftstate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/hashicorp/raft"
)

// Limits of calls from node to node.
const (
	maxCallBytes = 16 << 20 // a body, either way
	callIdle     = time.Minute
)

// Handler answers calls of other nodes, and of this one. from is the node that
// asks. An error that is a *CallError arrives as it is; any other as one of code
// CodeInternal.
type Handler func(ctx context.Context, from uint16, body []byte) ([]byte, error)

// CallError is the answer of a node that could not do what it was asked.
type CallError struct {
	Code   string `json:"code"` // stable: callers compare it
	Detail string `json:"detail"`
}

// Error implements error.
func (e *CallError) Error() string { return e.Detail + " (" + e.Code + ")" }

// Codes of calls that no handler has answered.
const (
	CodeInternal    = "internal"     // the handler failed
	CodeUnknownCall = "unknown_call" // an older version, or a node that is starting
)

// ErrUnreachable: the node did not answer. Whether it has done what it was asked
// is not known.
var ErrUnreachable = errors.New("node cannot be reached")

// calls is what nodes ask each other over HTTP, on the cluster port.
type calls struct {
	node   uint16
	port   *port // nil: nobody to ask
	client *http.Client
	server *http.Server
	served sync.WaitGroup

	mu       sync.RWMutex // guards handlers
	handlers map[string]Handler

	gate sync.RWMutex // held for reading while a call is answered
	shut bool
}

type peerKey struct{}

func newCalls(node uint16, p *port) *calls {
	c := &calls{node: node, port: p, handlers: map[string]Handler{}}
	if p == nil {
		return c
	}
	c.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, _, _ := strings.Cut(address, ":")
			to, err := strconv.ParseUint(host, 10, 16)
			if err != nil {
				return nil, err
			}
			return p.dial(ctx, uint16(to), purposeHTTP)
		},
		DisableCompression:  true,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     callIdle / 2,
	}}
	c.server = &http.Server{
		Handler:           http.HandlerFunc(c.serve),
		ReadHeaderTimeout: greetLimit,
		IdleTimeout:       callIdle,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, conn.(*peerConn).peer)
		},
	}
	return c
}

func (c *calls) start() {
	if c.port != nil {
		c.served.Go(func() { _ = c.server.Serve(c.port.http) }) // ends with close
	}
}

func (c *calls) close() {
	if c.port == nil {
		return
	}
	c.server.Close()
	c.client.CloseIdleConnections()
	c.served.Wait()
	c.gate.Lock() // the last calls have been answered
	c.shut = true
	c.gate.Unlock()
}

func (c *calls) handle(path string, h Handler) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlers[path] = h
}

func (c *calls) answer(ctx context.Context, from uint16, path string, body []byte) ([]byte, error) {
	c.mu.RLock()
	h := c.handlers[path]
	c.mu.RUnlock()
	if h == nil {
		return nil, &CallError{CodeUnknownCall, fmt.Sprintf("node %d does not know the call %q", c.node, path)}
	}
	answer, err := h(ctx, from, body)
	if err != nil && !errors.As(err, new(*CallError)) {
		err = &CallError{CodeInternal, err.Error()}
	}
	return answer, err
}

func (c *calls) serve(w http.ResponseWriter, r *http.Request) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	if c.shut {
		return
	}
	from := r.Context().Value(peerKey{}).(uint16)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallBytes))
	if err != nil {
		return // the other has gone, or sends more than any call has
	}
	answer, err := c.answer(r.Context(), from, strings.TrimPrefix(r.URL.Path, "/"), body)
	if e := (*CallError)(nil); errors.As(err, &e) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		answer, _ = json.Marshal(e)
	}
	_, _ = w.Write(answer) // the other notices that it is cut
}

// call asks a node; this one without a network.
func (c *calls) call(ctx context.Context, node uint16, path string, body []byte) ([]byte, error) {
	if node == c.node {
		return c.answer(ctx, node, path, body)
	}
	if c.port == nil {
		return nil, fmt.Errorf("node %d: %w: this is a cluster of one", node, ErrUnreachable)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%d/%s", node, path), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call node %d: %w", node, err)
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("node %d: %w: %w", node, ErrUnreachable, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxCallBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("node %d: %w: %w", node, ErrUnreachable, err)
	case len(text) > maxCallBytes:
		return nil, fmt.Errorf("call node %d: its answer is over %d bytes", node, maxCallBytes)
	case answer.StatusCode == http.StatusOK:
		return text, nil
	}
	refusal := &CallError{Code: CodeInternal}
	if err := json.Unmarshal(text, refusal); err != nil {
		return nil, fmt.Errorf("node %d: %w: status %d", node, ErrUnreachable, answer.StatusCode)
	}
	return nil, fmt.Errorf("node %d: %w", node, refusal)
}

// Call asks a node of the group, which may be this one, and returns what its
// Handler for path answers: ErrUnreachable, or a *CallError. ctx should have a
// deadline: a node that hangs answers nothing.
func (g *Group) Call(ctx context.Context, node uint16, path string, body []byte) ([]byte, error) {
	return g.calls.call(ctx, node, path, body)
}

// Handle makes h answer calls for path, which is one or more words with slashes
// between. It may be called before or after Run has begun.
func (g *Group) Handle(path string, h Handler) { g.calls.handle(path, h) }

// Leader returns the node that leads the group as far as this one knows; 0:
// none.
func (g *Group) Leader() uint16 {
	_, id := g.raft.LeaderWithID()
	return leaderIn(g.raft.State(), id)
}

// leaderIn is the leader that raft names, but for a candidate, who knows none. A
// heartbeat that comes between a transfer's call to stand and the election names
// the old leader once more, and raft keeps that for as long as it is a candidate:
// for ever, if the others are gone.
func leaderIn(state raft.RaftState, id raft.ServerID) uint16 {
	if state == raft.Candidate {
		return 0
	}
	return nodeOf(id)
}
