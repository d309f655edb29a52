package loadtest

import (
	"bufio"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The kinds of errors: what happened instead of an answer.
const (
	kindConnect   = iota // no connection could be made; nothing was sent
	kindClosed           // the connection ended after the message was sent
	kindTimeout          // no answer within Timeout
	kindMalformed        // what came is no HTTP
	kindStopped          // Run was canceled while an answer was awaited
	kinds
)

var kindNames = [kinds]string{"connect", "closed", "timeout", "malformed", "stopped"}

const (
	shards     = 16
	maxLatency = 10 * time.Minute // longer ones count as this
	digits     = 3
)

// shard is what some of the workers record into. One histogram for each of ten
// thousand workers would take gigabytes, one for all of them would be a queue.
type shard struct {
	mu         sync.Mutex
	latency    *hdrhistogram.Histogram // µs from due, answers 2xx
	service    *hdrhistogram.Histogram // µs from sent, answers 2xx
	sent       uint64
	codes      [1000]uint64
	errors     [kinds]uint64
	reconnects uint64
	last       time.Time // of the last answer
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency.Microseconds(), digits)
}

func newShards() []*shard {
	s := make([]*shard, shards)
	for i := range s {
		s[i] = &shard{latency: newHistogram(), service: newHistogram()}
	}
	return s
}

func micros(d time.Duration) int64 {
	return min(max(d, 0), maxLatency).Microseconds()
}

func (s *shard) answered(code int, due, sent, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent++
	s.codes[code%1000]++
	s.last = now
	if code/100 == 2 {
		// The values are within the histograms' range: no error can come.
		_ = s.latency.RecordValue(micros(now.Sub(due)))
		_ = s.service.RecordValue(micros(now.Sub(sent)))
	}
}

func (s *shard) failed(kind int, sent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors[kind]++
	if sent {
		s.sent++
	}
}

func (s *shard) reconnected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reconnects++
}

// ackLog writes the acknowledged messages down.
type ackLog struct {
	mu  sync.Mutex
	out *bufio.Writer
	err error
}

func newAckLog(w io.Writer) *ackLog {
	if w == nil {
		return nil
	}
	return &ackLog{out: bufio.NewWriterSize(w, 64<<10)}
}

func (l *ackLog) add(id [36]byte, r *requests, i uint64) {
	var line [128]byte
	text := append(append(line[:0], id[:]...), ' ')
	text = append(r.ref(text, i), '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.out.Write(text); err != nil && l.err == nil {
		l.err = err
	}
}

func (l *ackLog) flush() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.out.Flush(); err != nil && l.err == nil {
		l.err = err
	}
	if l.err != nil {
		return fmt.Errorf("write acknowledged ids: %w", l.err)
	}
	return nil
}
