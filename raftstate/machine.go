package raftstate

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// machine is the state machine that raft drives (raft.BatchingFSM): parts that
// share one log. raft calls it from one goroutine; views read it from others.
type machine struct {
	fatal   func(error)
	metrics *metrics

	parts  []part // in the order of a snapshot's sections
	byKind [256]part

	index    atomic.Uint64 // of the last command in the state
	restored atomic.Bool   // the state began with a snapshot, whose index is not in index

	mu       sync.RWMutex // guards the parts' state and all below
	accounts *accountsPart
	breakers *breakersPart
	members  *membersPart
	limits   *limitsPart
	answers  *answers
	stamp    uint64 // the highest of any command, cluster time in ms
	// broken is why the machine has stopped; the entry that broke it and all
	// after it are not applied, and no snapshot is taken that would hide that.
	broken error
	// restoreErr is why the last snapshot could not be read. raft only logs it.
	restoreErr error
}

// outcome is what Apply hands back to the one who proposed the command.
type outcome struct {
	answer any
	err    error // the machine has stopped
}

func newMachine(fatal func(error), m *metrics) *machine {
	f := &machine{fatal: fatal, metrics: m, answers: newAnswers(), accounts: newAccountsPart(),
		members: newMembersPart()}
	f.add(f.accounts)
	f.add(f.members)
	f.limits = newLimitsPart(f.accounts)
	f.add(f.limits)
	return f
}

// add makes p one of the machine's parts.
func (m *machine) add(p part) {
	m.parts = append(m.parts, p)
	for kind, name := range p.kinds() {
		if other := m.byKind[kind]; other != nil {
			panic(fmt.Sprintf("raftstate: command kind %d is %s's and %s's", kind, other.name(), p.name()))
		}
		m.byKind[kind] = p
		m.metrics.knowKind(kind, name)
	}
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
			m.index.Store(l.Index)
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
	answer, err := m.commandLocked(l.Data)
	if err != nil {
		m.broken = fmt.Errorf("apply entry %d of the raft log: %w; it is not skipped: "+
			"start a version of forebay that knows it, or restore a backup", l.Index, err)
		return outcome{err: m.broken}
	}
	return outcome{answer: answer}
}

func (m *machine) commandLocked(data []byte) (any, error) {
	c, err := decodeCommand(data)
	if err != nil {
		return nil, err
	}
	p := m.byKind[c.kind]
	if p == nil {
		return nil, fmt.Errorf("unknown command kind %d", c.kind)
	}
	if a, ok := m.answers.get(c.request); ok {
		m.stamp = max(m.stamp, c.stamp)
		return a.answer, nil
	}
	stamp := max(m.stamp, c.stamp)
	answer, err := p.apply(c.kind, c.body, stamp)
	if err != nil {
		return nil, err
	}
	m.stamp = stamp
	if p.remembers(c.kind) {
		m.answers.put(c.request, remembered{c.kind, answer})
	}
	m.metrics.commands[c.kind].Inc()
	return answer, nil
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
	s := &snapshot{answers: m.answers.clone(), stamp: m.stamp}
	for _, p := range m.parts {
		s.names = append(s.names, p.name())
		s.sections = append(s.sections, p.snapshot())
	}
	return s
}

// Restore implements raft.FSM: all or nothing.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	s, err := m.decodeSnapshot(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.restoreErr = err; err != nil {
		return err
	}
	for _, replace := range s.replace {
		replace()
	}
	m.answers, m.stamp = s.answers, s.stamp
	m.index.Store(0)
	m.restored.Store(true)
	return nil
}

// caughtUp reports whether the state has the command of that index. raft counts
// a command as applied a moment before it is. After a snapshot and no command
// since, what raft says must do.
func (m *machine) caughtUp(command uint64) bool {
	index := m.index.Load()
	return index >= command || index == 0 && m.restored.Load()
}
