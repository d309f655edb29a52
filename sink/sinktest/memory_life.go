package sinktest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"forebay/wal/message"
)

// Update implements sink.Store.
func (m *Memory) Update(ctx context.Context, batch []message.Record) ([]message.State, error) {
	if err := m.enter(ctx, "update"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	for i := range batch {
		if at, ok := m.at[batch[i].ID]; ok {
			r := &m.records[at]
			r.State = r.Merge(batch[i].State)
			m.hearEarlyLocked(r)
		}
	}
	states := make([]message.State, len(batch))
	for i := range batch {
		if at, ok := m.at[batch[i].ID]; ok {
			states[i] = m.records[at].State
		}
	}
	return states, nil
}

// Report implements sink.Store.
func (m *Memory) Report(ctx context.Context, reports []message.Report) ([]message.Record, error) {
	if err := m.enter(ctx, "report"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	changed := make(map[int]bool) // by index into records
	for _, report := range reports {
		if !report.Valid() {
			continue
		}
		at := slices.IndexFunc(m.records, func(r message.Record) bool { return r.Channel == report.Channel && r.ID == report.ID })
		if at < 0 && report.ProviderID != "" {
			at = slices.IndexFunc(m.records, func(r message.Record) bool {
				return r.Channel == report.Channel && r.ProviderID == report.ProviderID
			})
		}
		if at < 0 {
			m.early = append(m.early, report)
			continue
		}
		r := &m.records[at]
		merged := r.Merge(report.State())
		changed[at] = changed[at] || !merged.Same(&r.State)
		r.State = merged
	}
	var list []message.Record
	for at := range m.records {
		if changed[at] {
			list = append(list, m.records[at])
		}
	}
	return list, nil
}

// hearEarlyLocked merges the reports that came before a message, or before the
// provider's id of it, once there was an attempt that they can be of.
func (m *Memory) hearEarlyLocked(r *message.Record) {
	if len(r.Attempts) == 0 && r.ProviderID == "" {
		return
	}
	provider := r.ProviderID
	slices.SortStableFunc(m.early, func(a, b message.Report) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Status, b.Status)) })
	m.early = slices.DeleteFunc(m.early, func(e message.Report) bool {
		if e.Channel != r.Channel || e.ID != r.ID && (provider == "" || e.ProviderID != provider) {
			return false
		}
		r.State = r.Merge(e.State())
		return true
	})
}

// Unreported implements sink.Store.
func (m *Memory) Unreported(ctx context.Context, t time.Time, limit int, tell func([]message.Record) error) ([]message.Record, error) {
	if err := m.enter(ctx, "unreported"); err != nil {
		return nil, err
	}
	var found []message.Record
	for i := range m.records {
		if r := m.records[i]; r.Awaited() && r.SentAt.Before(t) && len(found) < limit {
			r.State = r.GivenUp()
			found = append(found, r)
		}
	}
	m.mu.Unlock()
	if len(found) == 0 {
		return nil, nil
	}
	if err := tell(found); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var given []message.Record
	for i := range found {
		if r := &m.records[m.at[found[i].ID]]; r.Awaited() && r.SentAt.Before(t) {
			r.State = r.GivenUp()
			given = append(given, *r)
		}
	}
	return given, nil
}

// Usage implements sink.Store.
func (m *Memory) Usage(ctx context.Context, q message.UsageQuery) ([]message.UsageCount, error) {
	if err := m.enter(ctx, "usage"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	return usageOf(m.records, q), nil
}

// usageOf counts the obvious way.
func usageOf(records []message.Record, q message.UsageQuery) []message.UsageCount {
	counts := make(map[message.UsageCount]uint64)
	for _, r := range records {
		if at := r.AcceptedAt(); r.Account == q.Account && !r.Test && !r.Callback && !at.Before(q.From) && at.Before(q.To) {
			counts[message.UsageCount{Day: at.Truncate(24 * time.Hour), Channel: r.Channel, Status: r.Status}]++
		}
	}
	var list []message.UsageCount
	for c, n := range counts {
		c.Count = n
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b message.UsageCount) int {
		return cmp.Or(a.Day.Compare(b.Day), cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Status, b.Status))
	})
	return list
}
