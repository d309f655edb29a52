package httpapi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

const (
	firstBuffer  = 4 << 10  // what most bodies fit into
	largestReuse = 64 << 10 // a larger buffer is not kept: few bodies need it
)

// bodies reads request bodies into pooled buffers and bounds what all of them
// take together. Memory is counted before it is taken, and taken as the bytes
// arrive: a client that only announces a large body costs no more than others.
//
// Large bodies cannot shut out small ones: what a body may fill of the budget
// shrinks with its size (see reserve). Whatever slow and large requests hold, a
// short message, such as most critical ones are, finds room.
type bodies struct {
	limit  atomic.Int64 // of one body, in bytes
	budget atomic.Int64 // of all bodies and messages in memory, in bytes
	inUse  atomic.Int64
	pool   sync.Pool // of *buffer

	pressure func() Pressure
}

// buffer is owned by who got it from read until put.
type buffer struct{ b []byte }

// read reads the whole body of r. The buffer must go back by put when nothing
// points into it any more.
func (p *bodies) read(r *http.Request) (*buffer, *Problem) {
	limit := int(p.limit.Load())
	if r.ContentLength > int64(limit) {
		problem := tooLarge(limit)
		problem.Close = true // rather than reading what is announced
		return nil, problem
	}
	buf, _ := p.pool.Get().(*buffer)
	if buf == nil {
		buf = &buffer{b: make([]byte, 0, firstBuffer)}
	}
	if !p.reserve(int64(cap(buf.b)), max(r.ContentLength, int64(cap(buf.b)))) {
		p.pool.Put(buf)
		// It may have been one that grew for another body: a short one needs less.
		buf = &buffer{b: make([]byte, 0, firstBuffer)}
		if !p.reserve(firstBuffer, max(r.ContentLength, firstBuffer)) {
			return nil, p.full()
		}
	}
	for {
		if len(buf.b) == cap(buf.b) {
			if !p.grow(buf, limit) {
				p.put(buf)
				return nil, p.full()
			}
		}
		n, err := r.Body.Read(buf.b[len(buf.b):cap(buf.b)])
		buf.b = buf.b[:len(buf.b)+n]
		if len(buf.b) > limit {
			p.put(buf)
			problem := tooLarge(limit)
			problem.Close = true
			return nil, problem
		}
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			p.put(buf)
			return nil, brokenBody(err)
		}
	}
}

// grow doubles the buffer, up to one byte over the limit.
func (p *bodies) grow(buf *buffer, limit int) bool {
	size := max(min(2*cap(buf.b), limit+1), cap(buf.b)+1)
	if !p.reserve(int64(size-cap(buf.b)), int64(size)) {
		return false
	}
	larger := make([]byte, len(buf.b), size)
	copy(larger, buf.b)
	buf.b = larger
	return true
}

// reserve counts n bytes for a body of that size, or reports false: there is no
// room. The last quarter of the budget is not for the largest bodies, and the
// last eighth for none that needs more than a first buffer. Under pressure those
// have less: which of the messages will be refused is known only when they have
// been read.
func (p *bodies) reserve(n, size int64) bool {
	budget := p.budget.Load()
	if size > firstBuffer {
		switch level := p.pressure(); {
		case level >= PressureCritical:
			budget /= 4
		case level == PressureHigh:
			budget /= 2
		}
		if budget -= budget / 8; size > largestReuse {
			budget -= budget / 8
		}
	}
	if p.inUse.Add(n) > budget {
		p.release(n)
		return false
	}
	return true
}

// put takes the buffer back. The caller must not use it any more.
func (p *bodies) put(buf *buffer) {
	p.release(int64(cap(buf.b)))
	if cap(buf.b) <= largestReuse {
		buf.b = buf.b[:0]
		p.pool.Put(buf)
	}
}

// release gives back what reserve took.
func (p *bodies) release(n int64) { p.inUse.Add(-n) }

func (p *bodies) full() *Problem {
	problem := overloaded("The appliance holds as many request bodies as it can.")
	problem.Close = true
	return problem
}

// brokenBody is the answer to a body that did not arrive.
func brokenBody(err error) *Problem {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &Problem{Code: CodeRequestTimeout, Detail: "The body did not arrive in time.", Close: true, cause: err}
	}
	return &Problem{Code: CodeMalformed, Detail: "The body did not arrive whole.", Close: true, cause: err}
}
