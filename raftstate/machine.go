package raftstate

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"forebay/raftstate/account"
)

// machine is the state machine that raft drives (raft.BatchingFSM). raft calls
// it from one goroutine; views read it from others.
type machine struct {
	fatal   func(error)
	metrics *metrics

	directory atomic.Pointer[directory]

	mu sync.RWMutex // guards all below
	state
	// broken is why the machine has stopped; the entry that broke it and all
	// after it are not applied, and no snapshot is taken that would hide that.
	broken error
	// restoreErr is why the last snapshot could not be read. raft only logs it.
	restoreErr error
}

// state is what is replicated.
type state struct {
	accounts *account.State
	answers  *answers
	stamp    uint64 // the highest of any command, cluster time in ms
}

// outcome is what Apply hands back to the one who proposed the command.
type outcome struct {
	result account.Result
	err    error // the machine has stopped
}

func newMachine(fatal func(error), m *metrics) *machine {
	f := &machine{fatal: fatal, metrics: m, state: state{accounts: account.NewState(), answers: newAnswers()}}
	f.directory.Store(newDirectory(f.accounts))
	return f
}

// Apply implements raft.FSM.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	m.mu.Lock()
	wasBroken := m.broken != nil
	out := make([]any, len(logs))
	for i, l := range logs {
		if l.Type == raft.LogCommand { // the other kind, a change of members, is raft's own
			out[i] = m.applyLocked(l)
		}
	}
	err := m.broken
	m.mu.Unlock()
	if err != nil && !wasBroken {
		m.fatal(err)
	}
	return out
}

func (m *machine) applyLocked(l *raft.Log) outcome {
	if m.broken != nil {
		return outcome{err: m.broken}
	}
	c, err := decodeCommand(l.Data)
	var cmd account.Command
	if err == nil {
		cmd, err = account.Decode(account.Kind(c.kind), c.body)
	}
	if err != nil {
		m.broken = fmt.Errorf("apply entry %d of the raft log: %w; it is not skipped: "+
			"start a version of forebay that knows it, or restore a backup", l.Index, err)
		return outcome{err: m.broken}
	}
	m.stamp = max(m.stamp, c.stamp)
	if r, ok := m.answers.get(c.request); ok {
		return outcome{result: r}
	}
	r := m.accounts.Apply(cmd)
	m.answers.put(c.request, r)
	m.directory.Load().follow(m.accounts, cmd, r)
	m.metrics.commands[cmd.Kind()].Inc()
	return outcome{result: r}
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.broken != nil {
		return nil, m.broken
	}
	return m.snapshotLocked(), nil
}

func (m *machine) snapshotLocked() *snapshot {
	return &snapshot{accounts: m.accounts.Snapshot(), answers: m.answers.clone(), stamp: m.stamp}
}

// Restore implements raft.FSM: all or nothing.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	s, err := decodeSnapshot(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.restoreErr = err; err != nil {
		return err
	}
	m.state = *s
	m.directory.Store(newDirectory(m.accounts))
	return nil
}
