package wal

import "context"

// Holds reports for each sequence number whether its message was accepted and
// is not complete: the log has it. Numbers that were never issued are not held.
// It reads the ledger between two commits.
func (l *Log) Holds(ctx context.Context, seqs []uint64) ([]bool, error) {
	held := make([]bool, len(seqs))
	r := &request{done: make(chan struct{}, 1), between: func() {
		for i, seq := range seqs {
			held[i] = seq > 0 && seq <= l.writer.ledger.last && !l.writer.ledger.isDone(seq)
		}
	}}
	if err := l.submit(ctx, r); err != nil {
		return nil, err
	}
	return held, r.err
}

// LowestHeld is the lowest sequence number that the log holds; false: it holds
// none.
func (l *Log) LowestHeld(ctx context.Context) (seq uint64, ok bool) {
	lowest := make(chan uint64, 1) // not a variable: the writer may come after ctx has ended
	r := &request{done: make(chan struct{}, 1), between: func() { lowest <- l.writer.ledger.lowest() }}
	if err := l.submit(ctx, r); err != nil || r.err != nil {
		return 0, false
	}
	seq = <-lowest
	return seq, seq != 0
}
