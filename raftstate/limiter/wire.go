package limiter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Entry is what a node reports about one account, and what it needs for it.
type Entry struct {
	Account  string
	Spent    int64 // accepted since the last report
	Held     int64 // tokens that it still has, Busy among them
	Busy     int64 // taken by messages of which it is not known yet whether they are accepted
	Want     int64 // messages that wait for a token now
	Ahead    int64 // tokens that will be needed soon
	Slots    int64 // requests in flight that it wants to be able to have
	InFlight int64 // that it has
}

// Request is one message of a node to the group. Seq 0 opens the session.
type Request struct {
	Node    uint16
	Session uint64
	Seq     uint64
	Nonce   uint64 // of Seq 0: tells two processes that open the same session apart
	Entries []Entry
}

// Waits reports whether a call waits for the answer. What is only reported, or
// foreseen, may gather.
func (q *Request) Waits() bool {
	return q.Seq == 0 || slices.ContainsFunc(q.Entries, func(e Entry) bool { return e.Want > 0 })
}

// Grant is the group's answer to an Entry.
type Grant struct {
	Tokens    int64  // more than before
	Slots     int64  // in all
	Reason    Reason // why there are fewer tokens than waited for; Allowed: there are not
	Wait      int64  // ms until the next token, if there are fewer
	Remaining int64  // of the window, for anybody
	Level     int64  // of the bucket, for anybody
	Reset     int64  // ms until something of the window comes back; 0: all is there
	Elsewhere int64  // slots that other nodes have
}

// Answer is the group's answer to a Request. Session is the node's newest; if it
// is not the request's, the request was not carried out. The answer to Seq 0 has
// the nonce of that session for its Seq.
type Answer struct {
	Session uint64
	Seq     uint64
	Grants  []Grant
}

// Command is an entry of the replicated log: requests of nodes that travel
// together.
type Command struct {
	Nodes    int // in the group, as the leader knows it; a share of the stock is for each
	Requests []Request
}

// On the wire: a version byte, then unsigned varints; strings and lists with
// their length before them. Bounds keep a damaged length from allocating.
const (
	wireVersion  = 1
	maxRequests  = 1 << 10
	maxEntries   = 1 << 16
	maxAccount   = 64
	entryMinimum = 8
)

var errWire = errors.New("limiter message is damaged")

// Append appends the command to b.
func (c *Command) Append(b []byte) []byte {
	b = append(b, wireVersion)
	b = binary.AppendUvarint(b, uint64(c.Nodes))
	b = binary.AppendUvarint(b, uint64(len(c.Requests)))
	for i := range c.Requests {
		b = c.Requests[i].append(b)
	}
	return b
}

// DecodeCommand reads what Append wrote.
func DecodeCommand(b []byte) (*Command, error) {
	r := reader{b: b}
	r.version()
	c := &Command{Nodes: int(r.bounded(1 << 16))}
	n := r.bounded(maxRequests)
	for range n {
		c.Requests = append(c.Requests, r.request())
	}
	return c, r.end("command")
}

// Append appends the request to b.
func (q *Request) Append(b []byte) []byte { return q.append(append(b, wireVersion)) }

func (q *Request) append(b []byte) []byte {
	for _, v := range [...]uint64{uint64(q.Node), q.Session, q.Seq, q.Nonce, uint64(len(q.Entries))} {
		b = binary.AppendUvarint(b, v)
	}
	for i := range q.Entries {
		e := &q.Entries[i]
		b = binary.AppendUvarint(b, uint64(len(e.Account)))
		b = append(b, e.Account...)
		for _, v := range [...]int64{e.Spent, e.Held, e.Busy, e.Want, e.Ahead, e.Slots, e.InFlight} {
			b = binary.AppendUvarint(b, uint64(v))
		}
	}
	return b
}

// DecodeRequest reads what Request.Append wrote.
func DecodeRequest(b []byte) (*Request, error) {
	r := reader{b: b}
	r.version()
	q := r.request()
	return &q, r.end("request")
}

// Append appends the answer to b.
func (a *Answer) Append(b []byte) []byte {
	b = append(b, wireVersion)
	b = binary.AppendUvarint(b, a.Session)
	b = binary.AppendUvarint(b, a.Seq)
	b = binary.AppendUvarint(b, uint64(len(a.Grants)))
	for i := range a.Grants {
		g := &a.Grants[i]
		for _, v := range [...]int64{g.Tokens, g.Slots, int64(g.Reason), g.Wait, g.Remaining, g.Level, g.Reset, g.Elsewhere} {
			b = binary.AppendUvarint(b, uint64(v))
		}
	}
	return b
}

// DecodeAnswer reads what Answer.Append wrote.
func DecodeAnswer(b []byte) (*Answer, error) {
	r := reader{b: b}
	r.version()
	a := r.answer()
	return &a, r.end("answer")
}

type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) version() {
	if len(r.b) == 0 {
		r.fail(errWire)
	} else if r.b[0] != wireVersion {
		r.fail(fmt.Errorf("limiter message of version %d, this program knows %d", r.b[0], wireVersion))
	} else {
		r.b = r.b[1:]
	}
}

func (r *reader) uint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errWire)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bounded reads a number of at most limit.
func (r *reader) bounded(limit uint64) int64 {
	v := r.uint()
	if v > limit {
		r.fail(errWire)
		return 0
	}
	return int64(v)
}

// count reads a number that arithmetic is done with: sums stay far from
// overflow.
func (r *reader) count() int64 { return r.bounded(1 << 48) }

func (r *reader) text() string {
	n := int(r.bounded(maxAccount))
	if r.err != nil || n > len(r.b) {
		r.fail(errWire)
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) request() Request {
	q := Request{Node: uint16(r.bounded(1<<16 - 1)), Session: r.uint(), Seq: r.uint(), Nonce: r.uint()}
	n := r.bounded(maxEntries)
	if r.err != nil || n == 0 {
		return q
	}
	if n > int64(len(r.b)/entryMinimum) {
		r.fail(errWire)
		return q
	}
	q.Entries = make([]Entry, n)
	for i := range q.Entries {
		q.Entries[i] = Entry{Account: r.text(), Spent: r.count(), Held: r.count(), Busy: r.count(),
			Want: r.count(), Ahead: r.count(), Slots: r.count(), InFlight: r.count()}
	}
	return q
}

func (r *reader) answer() Answer {
	a := Answer{Session: r.uint(), Seq: r.uint()}
	n := r.bounded(maxEntries)
	if r.err != nil || n == 0 {
		return a
	}
	if n > int64(len(r.b)/entryMinimum) {
		r.fail(errWire)
		return a
	}
	a.Grants = make([]Grant, n)
	for i := range a.Grants {
		a.Grants[i] = Grant{Tokens: r.count(), Slots: r.count(), Reason: Reason(r.bounded(uint64(Unavailable))), Wait: r.count(),
			Remaining: r.count(), Level: r.count(), Reset: r.count(), Elsewhere: r.count()}
	}
	return a
}

func (r *reader) end(what string) error {
	if r.err == nil && len(r.b) > 0 {
		r.err = errWire
	}
	if r.err != nil {
		return fmt.Errorf("decode %s: %w", what, r.err)
	}
	return nil
}
