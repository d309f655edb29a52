package breaker

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// A snapshot is a head and then as many services as it says, ascending by name.
// The same state always gives the same bytes.
const snapshotVersion = 1

type head struct {
	Version    int          `json:"version"`
	Settings   settingsJSON `json:"settings"`
	Configured bool         `json:"configured,omitzero"`
	Generation uint64       `json:"generation"`
	Last       uint64       `json:"last"`
	Services   int          `json:"services"`
}

type serviceJSON struct {
	Name    string        `json:"name"`
	All     circuit       `json:"all"`
	Nodes   []nodeCircuit `json:"nodes,omitempty"`
	Probe   probe         `json:"probe,omitzero"`
	Seen    []evidence    `json:"seen,omitempty"`
	Failed  uint16        `json:"failed,omitzero"`
	Forced  forced        `json:"forced,omitzero"`
	Touched uint64        `json:"touched"`
}

// Snapshot is the state at one moment. It shares nothing that the state changes.
type Snapshot struct {
	head     head
	services []serviceJSON
}

// Snapshot takes one.
func (s *State) Snapshot() Snapshot {
	names := s.names()
	snap := Snapshot{head: head{Version: snapshotVersion, Settings: s.settings.json(), Configured: s.configured,
		Generation: s.generation, Last: s.last, Services: len(names)}}
	for _, name := range names {
		b := s.services[name]
		snap.services = append(snap.services, serviceJSON{name, b.all, slices.Clone(b.nodes), b.probe, slices.Clone(b.seen),
			b.failed, b.forced, b.touched})
	}
	return snap
}

// Encode writes the snapshot to enc.
func (s Snapshot) Encode(enc *jsontext.Encoder) error {
	if err := json.MarshalEncode(enc, s.head); err != nil {
		return fmt.Errorf("encode head of breakers: %w", err)
	}
	for _, b := range s.services {
		if err := json.MarshalEncode(enc, b); err != nil {
			return fmt.Errorf("encode breaker %s: %w", b.Name, err)
		}
	}
	return nil
}

var errDisorder = errors.New("not in ascending order")

// DecodeState reads what Snapshot.Encode wrote.
func DecodeState(dec *jsontext.Decoder) (*State, error) {
	strict := json.RejectUnknownMembers(true)
	var h head
	if err := json.UnmarshalDecode(dec, &h, strict); err != nil {
		return nil, fmt.Errorf("decode head of breakers: %w", err)
	}
	if h.Version != snapshotVersion {
		return nil, fmt.Errorf("breakers are of version %d, this program knows %d", h.Version, snapshotVersion)
	}
	s := &State{settings: h.Settings.settings(), configured: h.Configured, generation: h.Generation, last: h.Last, services: map[string]*service{}}
	if err := s.settings.Validate(); err != nil {
		return nil, fmt.Errorf("decode settings of breakers: %w", err)
	}
	last := ""
	for range h.Services {
		var j serviceJSON
		if err := json.UnmarshalDecode(dec, &j, strict); err != nil {
			return nil, fmt.Errorf("decode the breaker after %q: %w", last, err)
		}
		if j.Name <= last {
			return nil, fmt.Errorf("decode breaker %q after %q: %w", j.Name, last, errDisorder)
		}
		last = j.Name
		s.services[j.Name] = &service{name: j.Name, all: j.All, nodes: j.Nodes, probe: j.Probe, seen: j.Seen,
			failed: j.Failed, forced: j.Forced, touched: j.Touched}
	}
	return s, nil
}
