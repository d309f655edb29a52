package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A snapshot is a sequence of JSON values: a head, then as many sessions and
// ledgers as it says, ascending by node and by account. The same state always
// gives the same bytes.
const (
	section         = "limiter"
	snapshotVersion = 1
)

type head struct {
	Section  string `json:"section"`
	Version  int    `json:"version"`
	Now      int64  `json:"now"`
	Window   int64  `json:"window"`
	Nodes    int64  `json:"nodes"`
	Sessions int    `json:"sessions"`
	Ledgers  int    `json:"ledgers"`
}

type sessionRecord struct {
	Node   uint16 `json:"node"`
	Number uint64 `json:"number"`
	Nonce  uint64 `json:"nonce"`
	Seen   int64  `json:"seen"`
	Last   []byte `json:"last"` // Answer.Append
}

// ledgerRecord has its lists flat: two numbers a slot, four a holding.
type ledgerRecord struct {
	Account  string  `json:"account"`
	Spent    []int64 `json:"spent,omitempty"`
	Level    int64   `json:"level"`
	Filled   int64   `json:"filled"`
	Limits   []int64 `json:"limits"`
	Holdings []int64 `json:"holdings,omitempty"`
	Forget   int64   `json:"forget"`
}

// Snapshot is the state at one moment; it shares nothing with it.
type Snapshot struct {
	head     head
	sessions []sessionRecord
	ledgers  []ledgerRecord
}

// Snapshot takes one.
func (s *State) Snapshot() Snapshot {
	out := Snapshot{head: head{Section: section, Version: snapshotVersion, Now: s.now, Window: s.window, Nodes: s.nodes,
		Sessions: len(s.sessions), Ledgers: len(s.ledgers)}}
	for _, node := range slices.Sorted(maps.Keys(s.sessions)) {
		n := s.sessions[node]
		out.sessions = append(out.sessions, sessionRecord{Node: node, Number: n.number, Nonce: n.nonce, Seen: n.seen, Last: n.last.Append(nil)})
	}
	out.ledgers = make([]ledgerRecord, 0, len(s.ledgers))
	for account, a := range s.ledgers {
		r := ledgerRecord{Account: account, Level: a.level, Filled: a.filled, Forget: a.forget,
			Limits: []int64{a.limits.Rate, a.limits.Burst, a.limits.Concurrent}}
		for _, t := range a.spent {
			r.Spent = append(r.Spent, t.end, t.n)
		}
		for _, h := range a.holdings {
			r.Holdings = append(r.Holdings, int64(h.node), h.tokens, h.slots, h.until)
		}
		out.ledgers = append(out.ledgers, r)
	}
	return out
}

// Encode writes the snapshot to enc.
func (s Snapshot) Encode(enc *jsontext.Encoder) error {
	slices.SortFunc(s.ledgers, func(x, y ledgerRecord) int { return cmp.Compare(x.Account, y.Account) })
	if err := json.MarshalEncode(enc, s.head); err != nil {
		return fmt.Errorf("encode head of limits: %w", err)
	}
	for _, r := range s.sessions {
		if err := json.MarshalEncode(enc, r); err != nil {
			return fmt.Errorf("encode session of node %d: %w", r.Node, err)
		}
	}
	for _, r := range s.ledgers {
		if err := json.MarshalEncode(enc, r); err != nil {
			return fmt.Errorf("encode what counts for %s: %w", r.Account, err)
		}
	}
	return nil
}

var errRecord = errors.New("a record of limits is damaged")

// DecodeState reads what Snapshot.Encode wrote. A version or field that this
// program does not know is an error: a newer one wrote it.
func DecodeState(dec *jsontext.Decoder) (*State, error) {
	var h head
	strict := json.RejectUnknownMembers(true)
	if err := json.UnmarshalDecode(dec, &h, strict); err != nil {
		return nil, fmt.Errorf("decode head of limits: %w", err)
	}
	if h.Section != section || h.Version != snapshotVersion || h.Window < 1 {
		return nil, fmt.Errorf("section %q version %d, this program knows %q version %d", h.Section, h.Version, section, snapshotVersion)
	}
	s := NewState()
	s.now, s.window, s.nodes = h.Now, h.Window, h.Nodes
	for range h.Sessions {
		var r sessionRecord
		if err := json.UnmarshalDecode(dec, &r, strict); err != nil {
			return nil, fmt.Errorf("decode session: %w", err)
		}
		last, err := DecodeAnswer(r.Last)
		if err != nil {
			return nil, err
		}
		s.sessions[r.Node] = &session{number: r.Number, nonce: r.Nonce, seen: r.Seen, last: *last}
	}
	for range h.Ledgers {
		var r ledgerRecord
		if err := json.UnmarshalDecode(dec, &r, strict); err != nil {
			return nil, fmt.Errorf("decode what counts: %w", err)
		}
		a, err := r.ledger()
		if err != nil {
			return nil, fmt.Errorf("decode what counts for %s: %w", r.Account, err)
		}
		s.ledgers[r.Account] = a
		s.expiry.push(r.Account, a.forget)
	}
	return s, nil
}

func (r *ledgerRecord) ledger() (*ledger, error) {
	if len(r.Spent)%2 != 0 || len(r.Holdings)%4 != 0 || len(r.Limits) != 3 || r.Limits[0] < 1 {
		return nil, errRecord
	}
	a := &ledger{level: r.Level, filled: r.Filled, forget: r.Forget,
		limits: Limits{Rate: r.Limits[0], Burst: r.Limits[1], Concurrent: r.Limits[2]}}
	for i := 0; i < len(r.Spent); i += 2 {
		a.spent = append(a.spent, slot{end: r.Spent[i], n: r.Spent[i+1]})
		a.total += r.Spent[i+1]
	}
	for i := 0; i < len(r.Holdings); i += 4 {
		a.holdings = append(a.holdings, holding{node: uint16(r.Holdings[i]), tokens: r.Holdings[i+1], slots: r.Holdings[i+2], until: r.Holdings[i+3]})
	}
	return a, nil
}
