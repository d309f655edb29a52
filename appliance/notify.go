package appliance

import (
	"context"
	"sync"
	"time"

	"forebay/wal/message"
)

// notifier tells requests that wait for the database (Prefer: wait) when their
// message is there.
type notifier struct {
	shards [64]struct {
		mu      sync.Mutex
		waiting map[message.ID]*waiter
	}
}

type waiter struct {
	done  chan struct{}
	state message.State // set before done is closed
	users int
}

func newNotifier() *notifier {
	n := new(notifier)
	for i := range n.shards {
		n.shards[i].waiting = map[message.ID]*waiter{}
	}
	return n
}

// stored is called by the pipeline with records that are now in the store.
func (n *notifier) stored(records []message.Record) {
	for i := range records {
		s := &n.shards[records[i].ID[15]%64]
		s.mu.Lock()
		if w, ok := s.waiting[records[i].ID]; ok {
			w.state = records[i].State
			close(w.done)
			delete(s.waiting, records[i].ID)
		}
		s.mu.Unlock()
	}
}

// lookAgain is how often wait asks whether the message got past it: it may
// have been stored between its acknowledgement and the registration here.
const lookAgain = 50 * time.Millisecond

// wait returns the message's state once it is in the store. past is asked now
// and then whether it already is.
func (n *notifier) wait(ctx context.Context, id message.ID, past func() (message.State, bool)) (message.State, error) {
	s := &n.shards[id[15]%64]
	s.mu.Lock()
	w := s.waiting[id]
	if w == nil {
		w = &waiter{done: make(chan struct{})}
		s.waiting[id] = w
	}
	w.users++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if w.users--; w.users == 0 && s.waiting[id] == w {
			delete(s.waiting, id)
		}
	}()
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		if state, ok := past(); ok {
			return state, nil
		}
		select {
		case <-w.done:
			return w.state, nil
		case <-ticker.C:
		case <-ctx.Done():
			return message.State{}, context.Cause(ctx)
		}
	}
}
