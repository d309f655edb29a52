package watch

import (
	"errors"
	"sync"
)

const (
	// maxViewers bounds the viewers of the feed: each holds a connection.
	maxViewers = 64
	// viewerLag is how many events may wait for a viewer before it is dropped.
	viewerLag = 4
)

// ErrTooManyViewers refuses another viewer of the feed.
var ErrTooManyViewers = errors.New("too many viewers of the feed")

// Viewer is one subscription of the feed. Its channel is closed when it has
// fallen behind or the feed has ended.
type Viewer struct {
	Events <-chan []byte // one JSON text each, shared by all viewers: not to be changed
	events chan []byte
	feed   *feed
}

// Close ends the subscription. It may be called more than once.
func (v *Viewer) Close() { v.feed.remove(v, false) }

// feed hands every event to every viewer, and waits for none.
type feed struct {
	metrics *metrics
	mu      sync.Mutex // guards what follows
	viewers map[*Viewer]struct{}
	ended   bool
}

func newFeed(m *metrics) *feed { return &feed{metrics: m, viewers: map[*Viewer]struct{}{}} }

func (f *feed) subscribe() (*Viewer, error) {
	events := make(chan []byte, viewerLag)
	v := &Viewer{Events: events, events: events, feed: f}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.viewers) >= maxViewers || f.ended {
		return nil, ErrTooManyViewers
	}
	f.viewers[v] = struct{}{}
	f.metrics.viewers.Set(float64(len(f.viewers)))
	return v, nil
}

func (f *feed) remove(v *Viewer, fellBehind bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, there := f.viewers[v]; !there {
		return
	}
	delete(f.viewers, v)
	close(v.events)
	f.metrics.viewers.Set(float64(len(f.viewers)))
	if fellBehind {
		f.metrics.dropped.Inc()
	}
}

func (f *feed) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.viewers) == 0
}

// publish gives event to every viewer that has room for it, and drops the others.
func (f *feed) publish(event []byte) {
	f.mu.Lock()
	var slow []*Viewer
	for v := range f.viewers {
		select {
		case v.events <- event:
		default:
			slow = append(slow, v)
		}
	}
	f.mu.Unlock()
	for _, v := range slow {
		f.remove(v, true)
	}
}

// end closes every subscription, and takes no more.
func (f *feed) end() {
	f.mu.Lock()
	f.ended = true
	all := make([]*Viewer, 0, len(f.viewers))
	for v := range f.viewers {
		all = append(all, v)
	}
	f.mu.Unlock()
	for _, v := range all {
		f.remove(v, false)
	}
}
