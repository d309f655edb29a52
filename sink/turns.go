package sink

// ring is a circle of accounts.
type ring struct {
	items []*account
	next  int
}

func (r *ring) current() *account {
	if r.next >= len(r.items) {
		r.next = 0
	}
	return r.items[r.next]
}

func (r *ring) remove() {
	r.items = append(r.items[:r.next], r.items[r.next+1:]...)
}

// fifo is a first-in, first-out list of jobs that reuses its array.
type fifo struct {
	items []*job
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) push(j *job) {
	if q.head > 256 && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, j)
}

// pop returns the first job; nil: there is none.
func (q *fifo) pop() *job {
	if q.len() == 0 {
		return nil
	}
	j := q.items[q.head]
	q.items[q.head] = nil
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return j
}

// index finds accounts or hosts by their names, and by the hashes that are all
// that a shelf knows of them: there may be thousands of either, and as many
// shelves are looked at many times a second.
type index[T comparable] struct {
	named  map[string]T
	hashed map[uint64]T
}

func newIndex[T comparable]() index[T] { return index[T]{map[string]T{}, map[uint64]T{}} }

func (x *index[T]) add(name string, hash uint64, v T) { x.named[name], x.hashed[hash] = v, v }

func (x *index[T]) remove(name string, hash uint64) {
	if x.hashed[hash] == x.named[name] { // and not another's of the same hash
		delete(x.hashed, hash)
	}
	delete(x.named, name)
}
