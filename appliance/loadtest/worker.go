package loadtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// worker is one connection and the goroutine that uses it.
type worker struct {
	run    *run
	shard  *shard
	number int
	timer  *time.Timer
	reader *bufio.Reader

	conn     net.Conn
	unwatch  func() bool // ends the watch over ctx
	failures int         // connects that failed in a row
}

// buffers holds requests while they are written.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[]byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return buf
	}
	return new([]byte)
}

// loop connects at its turn of the ramp and sends until there is nothing left.
func (w *worker) loop(ctx context.Context) {
	defer w.hangUp()
	defer w.timer.Stop()
	ramp := w.run.cfg.Ramp * time.Duration(w.number) / time.Duration(w.run.cfg.Connections)
	w.pause(ctx, ramp)
	_ = w.connect(ctx) // a failure is counted, and met again with the first message
	w.run.ready.Done()
	select {
	case <-w.run.begin:
	case <-ctx.Done():
		return
	}
	for {
		i, due, ok := w.run.take()
		if !ok {
			return
		}
		if wait := time.Until(due); wait > 0 {
			w.pause(ctx, wait)
		}
		now := time.Now()
		if ctx.Err() != nil || w.run.over(now) {
			return
		}
		if due.IsZero() {
			due = now
		}
		w.send(ctx, i, due)
	}
}

// pause sleeps unless ctx ends.
func (w *worker) pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	w.timer.Reset(d)
	select {
	case <-w.timer.C:
	case <-ctx.Done():
	}
}

func (w *worker) send(ctx context.Context, i uint64, due time.Time) {
	if w.conn == nil {
		if !w.connect(ctx) {
			w.pause(ctx, w.backoff(i))
			return
		}
		w.shard.reconnected()
	}
	sent := time.Now()
	// What fails here fails at the write.
	_ = w.conn.SetDeadline(sent.Add(w.run.cfg.Timeout))
	if ctx.Err() != nil {
		return // ended before the deadline was set, which has undone the watch's
	}
	buf := w.run.buffers.get()
	*buf = w.run.requests.append((*buf)[:0], i)
	_, err := w.conn.Write(*buf)
	w.run.buffers.pool.Put(buf)
	// Also after a failed write: a server that refuses early answers and closes.
	a, readErr := readAnswer(w.reader, w.run.acks != nil)
	if err == nil || readErr == nil {
		err = readErr
	}
	if err != nil {
		w.shard.failed(errorKind(ctx, err), true)
		w.hangUp()
		return
	}
	now := time.Now()
	if w.run.acks != nil && a.code/100 == 2 && a.id != ([36]byte{}) {
		w.run.acks.add(a.id, w.run.requests, i)
	}
	w.shard.answered(a.code, due, sent, now)
	if a.close {
		w.hangUp()
	}
}

func errorKind(ctx context.Context, err error) int {
	switch {
	case ctx.Err() != nil:
		return kindStopped
	case errors.Is(err, os.ErrDeadlineExceeded):
		return kindTimeout
	case errors.Is(err, errMalformed):
		return kindMalformed
	}
	return kindClosed
}

// backoff keeps a server that is down from being hammered: 10 ms, doubled up to
// a second, with jitter that depends on the seed.
func (w *worker) backoff(i uint64) time.Duration {
	d := min(10*time.Millisecond<<min(w.failures, 7), time.Second)
	jitter := mix(w.run.cfg.Seed ^ i ^ uint64(w.number)<<40)
	return d/2 + time.Duration(jitter%uint64(d/2))
}

func (w *worker) connect(ctx context.Context) bool {
	dialer := net.Dialer{Timeout: w.run.cfg.Timeout}
	conn, err := dialer.DialContext(ctx, "tcp", w.run.addr)
	if err == nil && w.run.tls != nil {
		secure := tls.Client(conn, w.run.tls)
		// The dialer's time-out covers the connecting only.
		err = conn.SetDeadline(time.Now().Add(w.run.cfg.Timeout))
		if err == nil {
			err = secure.HandshakeContext(ctx)
		}
		if err != nil {
			conn.Close()
		}
		conn = secure
	}
	if err != nil {
		w.failures++
		if ctx.Err() == nil {
			w.shard.failed(kindConnect, false)
			w.run.connectError(err)
		}
		return false
	}
	w.failures = 0
	w.conn = conn
	w.reader.Reset(conn)
	// When ctx ends, a read in progress must too.
	w.unwatch = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return true
}

func (w *worker) hangUp() {
	if w.conn == nil {
		return
	}
	w.unwatch()
	w.conn.Close()
	w.conn = nil
}
