package httpapi

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"forebay/wal/message"
)

const (
	firstLineBuffer = 32 << 10
	maxQueuedLines  = 1024
	maxQueuedBytes  = 1 << 20 // as counted in bodies
)

// lineReader cuts a stream into lines of bounded length. Its memory is bounded
// by the longest line allowed, whatever the stream holds.
type lineReader struct {
	source     io.Reader
	bodies     *bodies // counts the buffer
	limit      int     // of one line: the one in force when the stream began
	beforeRead func()  // called before the first read after a whole line
	fresh      bool    // a line was returned since the last read

	buf        []byte
	start, end int // buf[start:end] is read and not yet returned
	err        error
}

func newLineReader(source io.Reader, b *bodies, beforeRead func()) (*lineReader, *Problem) {
	if !b.reserve(firstLineBuffer, firstLineBuffer) {
		return nil, b.full()
	}
	return &lineReader{source: source, bodies: b, limit: int(b.limit.Load()), beforeRead: beforeRead, fresh: true, buf: make([]byte, firstLineBuffer)}, nil
}

func (l *lineReader) close() { l.bodies.release(int64(len(l.buf))) }

// next returns the next line without its end (LF or CRLF), valid until the
// following call. A line that is over the limit is skipped and reported as a problem
// of its own. At the end of the stream the error is io.EOF; a last line need not be
// ended.
func (l *lineReader) next() (line []byte, p *Problem, err error) {
	searched := 0 // of buf[start:end]
	defer func() { l.fresh = true }()
	for {
		if i := bytes.IndexByte(l.buf[l.start+searched:l.end], '\n'); i >= 0 {
			line = l.buf[l.start : l.start+searched+i]
			l.start += searched + i + 1
			line, p = l.whole(line, p)
			return line, p, nil
		}
		searched = l.end - l.start
		if l.err != nil {
			if !errors.Is(l.err, io.EOF) || searched == 0 && p == nil {
				return nil, nil, l.err
			}
			line, p = l.whole(l.buf[l.start:l.end], p)
			l.start = l.end
			return line, p, nil
		}
		if searched > l.limit+len("\r") && p == nil {
			p = tooLarge(l.limit)
		}
		if p == nil && !l.makeRoom() {
			p = l.bodies.full()
		}
		if p != nil { // the line is lost: keep nothing of it
			l.start, l.end, searched = 0, 0, 0
		}
		l.fill()
	}
}

// whole is a line that has come to its end, and what is wrong with it: p, or that
// it is too long.
func (l *lineReader) whole(line []byte, p *Problem) ([]byte, *Problem) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) > l.limit && p == nil {
		p = tooLarge(l.limit)
	}
	return line, p
}

// makeRoom moves the line to the front of the buffer, or makes the buffer
// larger. It reports false where memory for that is not to be had.
func (l *lineReader) makeRoom() bool {
	if l.start == l.end {
		l.start, l.end = 0, 0
	}
	if l.end < len(l.buf) {
		return true
	}
	if l.start > 0 {
		l.end = copy(l.buf, l.buf[l.start:l.end])
		l.start = 0
		return true
	}
	size := min(2*len(l.buf), l.limit+firstLineBuffer)
	if !l.bodies.reserve(int64(size-len(l.buf)), int64(size)) {
		return false
	}
	larger := make([]byte, size)
	l.end = copy(larger, l.buf[:l.end])
	l.buf = larger
	return true
}

func (l *lineReader) fill() {
	if l.fresh {
		l.fresh = false
		l.beforeRead()
	}
	n, err := l.source.Read(l.buf[l.end:])
	l.end += n
	l.err = err
}

// item is one line of a batch on its way to the log: a message, or a problem.
type item struct {
	index   int64
	message *message.Message
	problem *Problem
	size    int64 // bytes that are counted in bodies for the line until it is answered
}

// lineQueue holds decoded lines between the reader of a batch and its writer. It
// is bounded by count and bytes; put waits while it is full.
type lineQueue struct {
	mu      sync.Mutex
	changed *sync.Cond
	items   []item // at most maxQueuedLines
	bytes   int64  // of items; over maxQueuedBytes by at most one line
	closed  bool   // nothing comes any more
	aborted bool   // nobody takes any more
}

func newLineQueue() *lineQueue {
	q := &lineQueue{}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// put appends an item. It reports false when nobody will take it.
func (q *lineQueue) put(it item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.aborted && (len(q.items) >= maxQueuedLines || q.bytes >= maxQueuedBytes) {
		q.changed.Wait()
	}
	if q.aborted {
		return false
	}
	q.items = append(q.items, it)
	q.bytes += it.size
	if len(q.items) == 1 {
		q.changed.Signal()
	}
	return true
}

// take waits for items and returns all there are, putting spare in their place.
// It returns nothing when the queue is closed and empty.
func (q *lineQueue) take(spare []item) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.changed.Wait()
	}
	taken := q.items
	q.items, q.bytes = spare[:0], 0
	q.changed.Signal()
	return taken
}

func (q *lineQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.changed.Signal()
}

// abort makes put fail, and returns what nobody will take.
func (q *lineQueue) abort() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.aborted = true
	left := q.items
	q.items = nil
	q.changed.Signal()
	return left
}
