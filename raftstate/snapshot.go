package raftstate

import (
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/hashicorp/raft"

	"forebay/raftstate/account"
)

// A snapshot is JSON values, one a line: the head, the section of each part in
// the order that the head names them, the remembered answers from the oldest
// on, the tail. Sums are the snapshot store's and the backup's; the tail tells a
// whole snapshot from one cut at the end of a line.
//
// Version 1 is from when there was one part: its head names none, and its
// answers no kind.
const (
	snapshotFormat  = "forebay raft state"
	snapshotVersion = 2
	snapshotAlone   = 1
)

type snapshotHead struct {
	Format  string   `json:"format"`
	Version int      `json:"version"`
	Stamp   uint64   `json:"stamp"`
	Parts   []string `json:"parts,omitzero"`
	Answers int      `json:"answers"`
}

type snapshotAnswer struct {
	Request requestID      `json:"request"`
	Kind    uint8          `json:"kind,omitzero"`
	Result  jsontext.Value `json:"result"`
}

type snapshotTail struct {
	End bool `json:"end"`
}

// snapshot is the replicated state at one moment (raft.FSMSnapshot). It shares
// nothing that commands change, so raft writes it while they go on.
type snapshot struct {
	names    []string
	sections []section
	answers  *answers
	stamp    uint64
}

// Persist implements raft.FSMSnapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.encode(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s *snapshot) Release() {}

func (s *snapshot) encode(w io.Writer) error {
	enc := jsontext.NewEncoder(w)
	h := snapshotHead{Format: snapshotFormat, Version: snapshotVersion, Stamp: s.stamp, Parts: s.names, Answers: len(s.answers.order)}
	if err := json.MarshalEncode(enc, h); err != nil {
		return fmt.Errorf("encode head of snapshot: %w", err)
	}
	for i, section := range s.sections {
		if err := section.Encode(enc); err != nil {
			return fmt.Errorf("encode %s: %w", s.names[i], err)
		}
	}
	for _, id := range s.answers.order {
		r := s.answers.byID[id]
		text, err := json.Marshal(r.answer, json.Deterministic(true))
		if err == nil {
			err = json.MarshalEncode(enc, snapshotAnswer{id, r.kind, text})
		}
		if err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
	}
	if err := json.MarshalEncode(enc, snapshotTail{End: true}); err != nil {
		return fmt.Errorf("encode tail of snapshot: %w", err)
	}
	return nil
}

// restored is a snapshot that has been read and has not taken effect yet.
type restored struct {
	replace []func() // one for each part
	answers *answers
	stamp   uint64
}

// decodeSnapshot reads a snapshot and changes nothing.
func (m *machine) decodeSnapshot(r io.Reader) (*restored, error) {
	dec := jsontext.NewDecoder(r)
	strict := json.RejectUnknownMembers(true)
	var h snapshotHead
	if err := json.UnmarshalDecode(dec, &h, strict); err != nil {
		return nil, fmt.Errorf("decode head of snapshot: %w", err)
	}
	if h.Format != snapshotFormat || h.Version < snapshotAlone || h.Version > snapshotVersion {
		return nil, fmt.Errorf("snapshot is %q version %d, this program knows %q up to version %d",
			h.Format, h.Version, snapshotFormat, snapshotVersion)
	}
	if h.Version == snapshotAlone {
		h.Parts = []string{m.accounts.name()}
	}
	s := &restored{answers: newAnswers(), stamp: h.Stamp}
	if err := m.decodeParts(dec, h.Parts, s); err != nil {
		return nil, err
	}
	for range h.Answers {
		var a snapshotAnswer
		if err := json.UnmarshalDecode(dec, &a, strict); err != nil {
			return nil, fmt.Errorf("decode answer: %w", err)
		}
		r, err := m.decodeAnswer(h.Version, a)
		if err != nil {
			return nil, fmt.Errorf("decode answer: %w", err)
		}
		s.answers.put(a.Request, r)
	}
	var tail snapshotTail
	if err := json.UnmarshalDecode(dec, &tail, strict); err != nil || !tail.End {
		return nil, fmt.Errorf("snapshot is cut short: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return s, nil
}

// decodeParts reads the sections of the parts that the snapshot has; parts that
// it is too old for begin anew.
func (m *machine) decodeParts(dec *jsontext.Decoder, names []string, s *restored) error {
	for _, p := range m.parts {
		from := dec
		if len(names) > 0 && names[0] == p.name() {
			names = names[1:]
		} else {
			from = nil
		}
		replace, err := p.restore(from)
		if err != nil {
			return fmt.Errorf("decode %s: %w", p.name(), err)
		}
		s.replace = append(s.replace, replace)
	}
	if len(names) > 0 {
		return fmt.Errorf("snapshot has a part %q that this program does not know: a newer one wrote it", names[0])
	}
	return nil
}

func (m *machine) decodeAnswer(version int, a snapshotAnswer) (remembered, error) {
	if version == snapshotAlone {
		a.Kind = uint8(account.KindSetPlans) // any of the accounts': their answers are all read alike
	}
	p := m.byKind[a.Kind]
	if p == nil {
		return remembered{}, fmt.Errorf("unknown command kind %d", a.Kind)
	}
	answer, err := p.decodeAnswer(a.Kind, a.Result)
	return remembered{a.Kind, answer}, err
}
