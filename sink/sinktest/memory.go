package sinktest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// Memory is a sink.Store in memory for tests of what stands around a store. It
// passes StoreSuite. The zero value is ready; set the fields before its use.
type Memory struct {
	// Intercept, if set, is called before each call with the method's name, in
	// the caller's goroutine and without a lock. It may wait; what it returns,
	// if not nil, becomes the call's error.
	Intercept func(ctx context.Context, method string) error
	// ClaimTTL is how long a claim on an idempotency key holds. 0: 24 h.
	ClaimTTL time.Duration
	// Refuse, if set, says why a record is to be set aside; empty: it is not.
	Refuse func(message.Record) string

	mu      sync.Mutex // guards what follows
	down    string
	records []message.Record
	at      map[message.ID]int // index into records
	claims  map[string]message.ID
	early   []message.Report // of messages that are not known yet
}

// SetDown makes every call fail with a *sink.Down that says why, and Health
// tell it, until it is called with an empty string.
func (m *Memory) SetDown(why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = why
}

// Records returns all records in the order in which they were stored.
func (m *Memory) Records() []message.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]message.Record(nil), m.records...)
}

// enter begins a call; the caller holds m.mu if there was no error.
func (m *Memory) enter(ctx context.Context, method string) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if m.Intercept != nil {
		if err := m.Intercept(ctx, method); err != nil {
			return err
		}
	}
	m.mu.Lock()
	if m.down != "" {
		defer m.mu.Unlock()
		return &sink.Down{Err: fmt.Errorf("%s", m.down)}
	}
	return nil
}

// Insert implements sink.Store.
func (m *Memory) Insert(ctx context.Context, batch []message.Record) ([]sink.Result, error) {
	if err := m.enter(ctx, "insert"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	if m.at == nil {
		m.at, m.claims = make(map[message.ID]int), make(map[string]message.ID)
	}
	results := make([]sink.Result, len(batch))
	for i, r := range batch {
		if at, ok := m.at[r.ID]; ok {
			results[i] = sink.Result{Outcome: sink.Known, State: m.records[at].State}
			continue
		}
		results[i] = m.judgeLocked(r)
		r.State = results[i].State
		m.hearEarlyLocked(&r)
		results[i].State = r.State
		m.at[r.ID] = len(m.records)
		m.records = append(m.records, r)
	}
	return results, nil
}

// judgeLocked says what becomes of a record that is not there yet.
func (m *Memory) judgeLocked(r message.Record) sink.Result {
	res := sink.Result{Outcome: sink.New, State: r.State}
	res.State.StoredAt = time.Now().UTC().Truncate(time.Millisecond)
	if m.Refuse != nil {
		if why := m.Refuse(r); why != "" {
			res.Outcome, res.State.Status, res.State.FailedAt = sink.SetAside, message.Failed, res.State.StoredAt
			res.State.Error = &message.Failure{Code: "store_refused", Category: "store", Message: why}
			return res
		}
	}
	if r.IdempotencyKey != "" {
		claim := r.Account + "\x00" + r.IdempotencyKey
		holder, held := m.claims[claim]
		ttl := m.ClaimTTL
		if ttl == 0 {
			ttl = 24 * time.Hour
		}
		if age := r.AcceptedAt().Sub(holder.Time()); held && -ttl < age && age < ttl {
			res.Outcome, res.State.Status, res.State.DuplicateOf = sink.Duplicate, message.Duplicate, holder
			return res
		} else if !held || age > 0 {
			m.claims[claim] = r.ID
		}
	}
	if r.Status == message.Accepted {
		res.State.Status = message.Queued
		if r.Channel == message.ChannelStore {
			res.State.Status = message.Stored
		}
	}
	return res
}

// Get implements sink.Store.
func (m *Memory) Get(ctx context.Context, account string, id message.ID) (message.Record, error) {
	if err := m.enter(ctx, "get"); err != nil {
		return message.Record{}, err
	}
	defer m.mu.Unlock()
	at, ok := m.at[id]
	if !ok || account != "" && m.records[at].Account != account {
		return message.Record{}, sink.ErrNotFound
	}
	return m.records[at], nil
}

// List implements sink.Store.
func (m *Memory) List(ctx context.Context, q message.Query) (message.Page, error) {
	if err := m.enter(ctx, "list"); err != nil {
		return message.Page{}, err
	}
	defer m.mu.Unlock()
	return selectFrom(m.records, q), nil
}

// Count implements sink.Store.
func (m *Memory) Count(ctx context.Context, node uint16, from, to uint64) (sink.Tally, error) {
	if err := m.enter(ctx, "count"); err != nil {
		return sink.Tally{}, err
	}
	defer m.mu.Unlock()
	var tally sink.Tally
	for _, r := range m.records {
		if r.ID.Node() == node && from <= r.Seq && r.Seq <= to {
			tally.Stored++
			if r.Final() {
				tally.Final++
			}
		}
	}
	return tally, nil
}

// Missing implements sink.Store.
func (m *Memory) Missing(ctx context.Context, node uint16, from, to uint64, limit int) ([]uint64, error) {
	if err := m.enter(ctx, "missing"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	have := make(map[uint64]bool)
	for _, r := range m.records {
		if r.ID.Node() == node {
			have[r.Seq] = true
		}
	}
	var missing []uint64
	for seq := from; seq <= to && len(missing) < limit; seq++ {
		if !have[seq] {
			missing = append(missing, seq)
		}
	}
	return missing, nil
}

// Numbered implements sink.Store.
func (m *Memory) Numbered(ctx context.Context, node uint16, seqs []uint64) (found []sink.Found, err error) {
	if err := m.enter(ctx, "numbered"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	for _, r := range m.records {
		if r.ID.Node() == node && slices.Contains(seqs, r.Seq) {
			found = append(found, sink.Found{Seq: r.Seq, ID: r.ID, Status: r.Status})
		}
	}
	slices.SortFunc(found, func(a, b sink.Found) int { return cmp.Compare(a.Seq, b.Seq) })
	return found, nil
}

// FirstSince returns the lowest sequence number among the messages that node
// accepted at or after t and the store has; 0: there is none.
func (m *Memory) FirstSince(ctx context.Context, node uint16, t time.Time) (seq uint64, err error) {
	if err := m.enter(ctx, "first since"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	for _, r := range m.records {
		if r.ID.Node() == node && !r.AcceptedAt().Before(t) && (seq == 0 || r.Seq < seq) {
			seq = r.Seq
		}
	}
	return seq, nil
}

// Health implements sink.Store.
func (m *Memory) Health() sink.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	return sink.Health{Up: m.down == "", Kind: "memory", Detail: m.down}
}

// Run implements sink.Store.
func (m *Memory) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close implements sink.Store.
func (m *Memory) Close() error { return nil }
