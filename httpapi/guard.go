package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lingerTime and lingerBytes bound how long a connection that is being closed is
// read from, so that the answer is not destroyed by a reset.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// guard is a connection as net/http sees it. It does three things that net/http
// does not:
//
//   - it refuses ambiguous framing (see framing). The bad line is replaced by one
//     that net/http refuses too, so that the refusal comes in its turn, behind
//     the answers to requests before it, and the connection is closed after it;
//   - it makes problems of the plain text that net/http itself answers with;
//   - it answers 408 to a head that does not arrive in time.
type guard struct {
	net.Conn
	raw    syscall.RawConn // of Conn; nil: it is not the socket itself
	wire   *wire
	gone   func() // called once, when the connection is closed
	closed atomic.Bool
	state  atomic.Int32 // guardOpen and so on

	asked bool // it is no longer among the freshConns; of the connection's goroutine

	// Of the reader; net/http has one at a time.
	framing framing
	poison  []byte // still to be handed to net/http
}

const (
	guardOpen     int32 = iota
	guardRefused        // framing was refused: nothing more is read
	guardEnding         // the answer under way is the last
	guardAnswered       // the last answer is written: net/http has no more to say
)

// badLine is what net/http reads in place of a line that is refused. A NUL is
// valid nowhere in a head, and the empty line ends it.
var badLine = []byte("\x00\r\n\r\n")

var errFraming = errors.New("framing of the body is broken")

func (g *guard) Read(p []byte) (int, error) {
	if g.state.Load() != guardOpen {
		n := copy(p, g.poison)
		g.poison = g.poison[n:]
		if n == 0 && len(p) == 1 && g.state.Load() == guardRefused {
			// net/http watches for a client that goes while the request before
			// the refused one is answered. The client is there: a byte says so.
			p[0], n = 0, 1
		}
		if n == 0 {
			return 0, io.EOF
		}
		return n, nil
	}
	n, err := g.read(p)
	if n > 0 {
		if good := g.framing.scan(p[:n]); good < n {
			return g.refuse(p, good)
		}
	}
	// net/http waits with a buffer of one byte for a client that goes while its
	// request is answered, and wakes itself by a deadline: that is no timeout.
	if err != nil && len(p) > 1 && g.framing.midHead() && errors.Is(err, os.ErrDeadlineExceeded) {
		g.state.Store(guardAnswered)
		g.send(&Problem{Code: CodeRequestTimeout, Detail: "The head of the request did not arrive in time."})
	}
	return n, err
}

// read reads from the connection. With a buffer of one byte net/http waits for a
// client that goes while its request is answered. To try at once, as a read does,
// nearly always finds nothing, and costs as much as decoding the message; so
// that read waits first. A client that has gone before the wait began is noticed
// when its answer is written.
func (g *guard) read(p []byte) (n int, err error) {
	if len(p) != 1 || g.raw == nil {
		return g.Conn.Read(p)
	}
	waited := false
	ended := g.raw.Read(func(fd uintptr) bool {
		if !waited {
			waited = true
			return false
		}
		for {
			if n, err = unix.Read(int(fd), p); !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	switch {
	case ended != nil:
		return 0, ended
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// refuse ends reading at p[good:].
func (g *guard) refuse(p []byte, good int) (int, error) {
	inHead := g.framing.inHead()
	g.state.Store(guardRefused)
	if !inHead {
		return good, errFraming // the handler answers
	}
	n := copy(p[good:], badLine)
	g.poison = badLine[n:]
	return good + n, nil
}

// plainAnswer is what follows the status in an answer that net/http makes by
// itself, without a handler.
var plainAnswer = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")

// unmet begins net/http's answer to an Expect that it does not know. No handler
// answers so.
var unmet = []byte("HTTP/1.1 417 ")

func (g *guard) Write(p []byte) (int, error) {
	const status = len("HTTP/1.1 ")
	if len(p) > status && (p[status] == '4' || p[status] == '5') && bytes.HasPrefix(p, []byte("HTTP/1.1 ")) {
		line := bytes.IndexByte(p, '\r')
		if line > 0 && (bytes.HasPrefix(p[line:], plainAnswer) || bytes.HasPrefix(p, unmet)) {
			if g.state.Load() != guardAnswered {
				g.send(g.problemFor(string(p[status:line])))
			}
			return len(p), nil
		}
	}
	return g.Conn.Write(p)
}

// problemFor is the problem in place of net/http's own answer.
func (g *guard) problemFor(status string) *Problem {
	if g.state.Load() == guardRefused {
		return malformed("The head is ambiguous: send one Content-Length or one Transfer-Encoding: chunked, not both, and end lines with CRLF.")
	}
	switch status[:3] {
	case "417":
		return malformed("The only expectation that can be met is 100-continue.")
	case "431":
		return &Problem{Code: CodeHeadersTooLarge,
			Detail: "The head of a request may have at most " + strconv.Itoa(maxHeaderBytes) + " bytes."}
	case "501":
		return malformed("The only Transfer-Encoding is chunked.")
	case "505":
		return malformed("The protocol is HTTP/1.1.")
	}
	return malformed("The head is not well-formed HTTP/1.1.")
}

// send answers with a problem and counts it. It is called only where no handler
// is writing.
func (g *guard) send(p *Problem) {
	// A client that does not take a few hundred bytes at once has stopped
	// reading: it has no answer to lose.
	_ = g.Conn.SetWriteDeadline(time.Now().Add(lingerTime))
	_, _ = g.Conn.Write(g.wire.answer(p))
}

// Close closes the connection. If it ends while the client may still be
// sending, it first lets the answer through.
func (g *guard) Close() error {
	if g.closed.Swap(true) {
		return nil
	}
	defer g.gone()
	if g.state.Load() != guardOpen {
		linger(g.Conn)
	}
	return g.Conn.Close()
}

// CloseWrite lets net/http end the answer before the connection.
func (g *guard) CloseWrite() error { return closeWrite(g.Conn) }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// linger ends the answer and takes what the client still sends for a moment: a
// connection closed over unread bytes is reset, and the reset overtakes the
// answer.
func linger(c net.Conn) {
	if closeWrite(c) != nil || c.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c, lingerBytes)
}

type guardKey struct{}

// withGuard is for http.Server.ConnContext.
func withGuard(ctx context.Context, c net.Conn) context.Context {
	if g, ok := c.(*guard); ok {
		return context.WithValue(ctx, guardKey{}, g)
	}
	return ctx
}

// endAfterAnswer makes the answer under way the last of its connection, though
// its header does not say so. It reports whether there is a guard to do that.
func endAfterAnswer(ctx context.Context) bool {
	g, ok := ctx.Value(guardKey{}).(*guard)
	if ok {
		g.state.CompareAndSwap(guardOpen, guardEnding)
	}
	return ok
}

// wire is what all connections of an API have in common.
type wire struct {
	refused  func(Code)
	max      atomic.Int64 // connections of one listener
	timeouts timeouts
}

// answer renders a problem as a whole HTTP/1.1 answer, and counts it. What request
// id the client has sent, if any, is not known here: it gets one of ours.
func (w *wire) answer(p *Problem) []byte {
	w.refused(p.Code)
	id := newRequestID()
	body := p.appendJSON(nil, id)
	status := kindOf(p.Code).status
	b := append([]byte("HTTP/1.1 "), strconv.Itoa(status)...)
	b = append(append(b, ' '), http.StatusText(status)...)
	b = append(b, "\r\nContent-Type: "+typeProblem+"\r\nConnection: close\r\n"+headerRequestID+": "+id+"\r\nDate: "...)
	b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	b = strconv.AppendInt(append(b, "\r\nContent-Length: "...), int64(len(body)), 10)
	if p.RetryAfter > 0 {
		b = strconv.AppendInt(append(b, "\r\nRetry-After: "...), p.retrySeconds(), 10)
	}
	return append(append(b, "\r\n\r\n"...), body...)
}
