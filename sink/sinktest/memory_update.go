package sinktest

import (
	"context"

	"forebay/wal/message"
)

// Update implements sink.Recorder.
func (m *Memory) Update(ctx context.Context, batch []message.Record) ([]message.State, error) {
	if err := m.enter(ctx, "update"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	states := make([]message.State, len(batch))
	for i, r := range batch {
		if at, ok := m.at[r.ID]; ok {
			m.records[at].State = r.State
			states[i] = r.State
		}
	}
	return states, nil
}
