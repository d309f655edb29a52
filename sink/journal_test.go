package sink_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// journal is a source that also keeps what rests, and the states of messages.
type journal struct {
	*source
	resting  map[message.ID]restingEntry // guarded by source.mu, as all below
	recalled map[message.ID][]byte
	progress map[message.ID][]byte
	browsed  int                // how often all of a shelf was read
	rests    map[message.ID]int // how often it was put to rest
}

type restingEntry struct {
	message.Entry
	due   time.Time // zero: on a shelf
	shelf uint64
}

func newJournal(t failer) *journal {
	return &journal{source: newSource(t), resting: map[message.ID]restingEntry{}, recalled: map[message.ID][]byte{}, progress: map[message.ID][]byte{}, rests: map[message.ID]int{}}
}

// Next brings back what is due before it hands out.
func (j *journal) Next(ctx context.Context, limit int, linger time.Duration) ([]message.Entry, error) {
	for {
		j.mu.Lock()
		for id, r := range j.resting {
			if !r.due.IsZero() && !r.due.After(time.Now()) {
				j.returnLocked(id)
			}
		}
		j.mu.Unlock()
		short, cancel := context.WithTimeoutCause(ctx, 20*time.Millisecond, errTick)
		got, err := j.source.Next(short, limit, linger)
		cancel()
		if err == errTick {
			if j.Waiting() == 0 {
				continue
			}
			return j.source.Next(ctx, limit, 0)
		}
		return got, err
	}
}

var errTick = fmt.Errorf("time to look for what is due")

func (j *journal) returnLocked(id message.ID) {
	e := j.resting[id].Entry
	delete(j.resting, id)
	lane := &j.lanes[id.Lane()]
	*lane = append(*lane, e)
	slices.SortFunc(*lane, func(a, b message.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	close(j.wake)
	j.wake = make(chan struct{})
}

func (j *journal) Progress(_ context.Context, entries []message.Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range entries {
		if _, ok := j.taken[e.ID]; !ok {
			j.t.Errorf("progress of entry %d, which nobody holds", e.Seq)
		}
		j.noteLocked(&e)
		j.taken[e.ID] = e
	}
	return nil
}

func (j *journal) noteLocked(e *message.Entry) {
	if state, ok := j.recalled[e.ID]; ok {
		e.Progress = state
	}
	j.progress[e.ID] = e.Progress
}

func (j *journal) put(until time.Time, shelf uint64, entries []message.Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range entries {
		if _, ok := j.taken[e.ID]; !ok {
			j.t.Errorf("entry %d is put to rest, and nobody holds it", e.Seq)
		}
		delete(j.taken, e.ID)
		j.rests[e.ID]++
		j.noteLocked(&e)
		r := restingEntry{e, until, shelf}
		if _, ok := j.recalled[e.ID]; ok {
			r.due = time.Now()
		}
		j.resting[e.ID] = r
	}
}

func (j *journal) Park(_ context.Context, until time.Time, entries []message.Entry) error {
	j.put(until, 0, entries)
	return nil
}

func (j *journal) Shelve(_ context.Context, shelf uint64, entries []message.Entry) error {
	j.put(time.Time{}, shelf, entries)
	return nil
}

func (j *journal) Fetch(_ context.Context, shelf uint64, n int) (int, bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var there []message.ID
	for id, r := range j.resting {
		if r.due.IsZero() && r.shelf == shelf {
			there = append(there, id)
		}
	}
	slices.SortFunc(there, message.ID.Compare)
	more := len(there) > n
	there = there[:min(n, len(there))]
	for _, id := range there {
		j.returnLocked(id)
	}
	return len(there), more, nil
}

func (j *journal) Browse(shelf uint64, after message.ID, n int) (all []message.Entry, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if after.IsZero() && n > 1 {
		j.browsed++
	}
	for id, r := range j.resting {
		if r.due.IsZero() && r.shelf == shelf && id.Compare(after) > 0 {
			all = append(all, r.Entry)
		}
	}
	slices.SortFunc(all, func(a, b message.Entry) int { return a.ID.Compare(b.ID) })
	return all[:min(n, len(all))], nil
}

func (j *journal) Shelves() (all []uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.resting {
		if r.due.IsZero() && !slices.Contains(all, r.shelf) {
			all = append(all, r.shelf)
		}
	}
	return all, nil
}

func (j *journal) Lookup(id message.ID) (message.Entry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e, _, ok := j.findLocked(id); ok {
		e.Progress = j.progress[id]
		return e, nil
	}
	return message.Entry{}, sink.ErrNotFound
}

func (j *journal) findLocked(id message.ID) (e message.Entry, lane int, ok bool) {
	if e, ok := j.taken[id]; ok {
		return e, -1, true
	}
	if r, ok := j.resting[id]; ok {
		return r.Entry, -1, true
	}
	for _, e := range j.lanes[id.Lane()] {
		if e.ID == id {
			return e, int(id.Lane()), true
		}
	}
	return e, -1, false
}

func (j *journal) Recall(_ context.Context, id message.ID, state []byte) (message.Entry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, lane, ok := j.findLocked(id)
	if !ok {
		return e, sink.ErrNotFound
	}
	j.recalled[id], j.progress[id] = state, state
	if r, rests := j.resting[id]; rests {
		r.Progress = state
		j.resting[id] = r
		j.returnLocked(id)
	} else if lane >= 0 {
		for i := range j.lanes[lane] {
			if j.lanes[lane][i].ID == id {
				j.lanes[lane][i].Progress = state
			}
		}
	}
	return e, nil
}

// restart does what a restart of the log does.
func (j *journal) restart() {
	j.mu.Lock()
	for id, e := range j.taken {
		e.Progress = j.progress[id]
		j.taken[id] = e
	}
	clear(j.recalled)
	j.mu.Unlock()
	j.source.restart()
}

func (j *journal) live() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.waitingLocked() + len(j.taken) + len(j.resting)
}
