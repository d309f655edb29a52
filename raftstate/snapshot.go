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

// A snapshot is JSON values, one a line: the head, the section of the accounts
// (see account.Snapshot), the remembered answers from the oldest on, the tail.
// Sums are the snapshot store's and the backup's; the tail tells a whole
// snapshot from one cut at the end of a line.
const (
	snapshotFormat  = "forebay raft state"
	snapshotVersion = 1
)

type snapshotHead struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Stamp   uint64 `json:"stamp"`
	Answers int    `json:"answers"`
}

type snapshotAnswer struct {
	Request requestID      `json:"request"`
	Result  account.Result `json:"result"`
}

type snapshotTail struct {
	End bool `json:"end"`
}

// snapshot is the replicated state at one moment (raft.FSMSnapshot). It shares
// nothing that commands change, so raft writes it while they go on.
type snapshot struct {
	accounts account.Snapshot
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
	h := snapshotHead{Format: snapshotFormat, Version: snapshotVersion, Stamp: s.stamp, Answers: len(s.answers.order)}
	if err := json.MarshalEncode(enc, h); err != nil {
		return fmt.Errorf("encode head of snapshot: %w", err)
	}
	if err := s.accounts.Encode(enc); err != nil {
		return err
	}
	for _, id := range s.answers.order {
		if err := json.MarshalEncode(enc, snapshotAnswer{id, s.answers.byID[id]}); err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
	}
	if err := json.MarshalEncode(enc, snapshotTail{End: true}); err != nil {
		return fmt.Errorf("encode tail of snapshot: %w", err)
	}
	return nil
}

func decodeSnapshot(r io.Reader) (*state, error) {
	dec := jsontext.NewDecoder(r)
	strict := json.RejectUnknownMembers(true)
	var h snapshotHead
	if err := json.UnmarshalDecode(dec, &h, strict); err != nil {
		return nil, fmt.Errorf("decode head of snapshot: %w", err)
	}
	if h.Format != snapshotFormat || h.Version != snapshotVersion {
		return nil, fmt.Errorf("snapshot is %q version %d, this program knows %q version %d",
			h.Format, h.Version, snapshotFormat, snapshotVersion)
	}
	accounts, err := account.DecodeState(dec)
	if err != nil {
		return nil, err
	}
	s := &state{accounts: accounts, answers: newAnswers(), stamp: h.Stamp}
	for range h.Answers {
		var a snapshotAnswer
		if err := json.UnmarshalDecode(dec, &a, strict); err != nil {
			return nil, fmt.Errorf("decode answer: %w", err)
		}
		s.answers.put(a.Request, a.Result)
	}
	var tail snapshotTail
	if err := json.UnmarshalDecode(dec, &tail, strict); err != nil || !tail.End {
		return nil, fmt.Errorf("snapshot is cut short: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return s, nil
}
