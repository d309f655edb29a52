package raftstate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Commands of membersPart.
const (
	kindSetMember  = 64
	kindDropMember = 65
)

// member is what the group knows of a node, beside raft's own list of members:
// raft's says who votes, and this says where they are and what they are to be.
type member struct {
	Node    uint16 `json:"node"`
	Address string `json:"address"`
	// NonVoter: it stays without a vote. Else the leader gives it one when it
	// has caught up.
	NonVoter bool `json:"nonvoter,omitzero"`
}

// membersPart is the part of the addresses. known is a copy for readers without
// the machine's lock; its map is never changed.
type membersPart struct {
	members map[uint16]member
	known   atomic.Pointer[map[uint16]member]
}

var _ part = (*membersPart)(nil)

func newMembersPart() *membersPart {
	p := &membersPart{}
	p.become(map[uint16]member{})
	return p
}

func (p *membersPart) become(members map[uint16]member) {
	p.members = members
	p.publish()
}

func (p *membersPart) publish() {
	known := maps.Clone(p.members)
	p.known.Store(&known)
}

func (p *membersPart) name() string { return "members" }

func (p *membersPart) kinds() map[uint8]string {
	return map[uint8]string{kindSetMember: "set_member", kindDropMember: "drop_member"}
}

func (p *membersPart) apply(kind uint8, body []byte, _ uint64) (any, error) {
	var m member
	if err := json.Unmarshal(body, &m, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("decode %s: %w", p.kinds()[kind], err)
	}
	if kind == kindSetMember {
		p.members[m.Node] = m
	} else {
		delete(p.members, m.Node)
	}
	p.publish()
	return m, nil
}

func (p *membersPart) remembers(uint8) bool { return true }

func (p *membersPart) decodeAnswer(_ uint8, text jsontext.Value) (any, error) {
	var m member
	err := json.Unmarshal(text, &m, json.RejectUnknownMembers(true))
	return m, err
}

// membersSection is written as one value, ascending by node.
type membersSection struct {
	Section string   `json:"section"` // "members"
	Version int      `json:"version"`
	Members []member `json:"members"`
}

const membersVersion = 1

// Encode implements section.
func (s membersSection) Encode(enc *jsontext.Encoder) error { return json.MarshalEncode(enc, s) }

func (p *membersPart) snapshot() section {
	return membersSection{p.name(), membersVersion, slices.SortedFunc(maps.Values(p.members),
		func(a, b member) int { return cmp.Compare(a.Node, b.Node) })}
}

func (p *membersPart) restore(dec *jsontext.Decoder) (func(), error) {
	members := map[uint16]member{}
	if dec != nil {
		var s membersSection
		if err := json.UnmarshalDecode(dec, &s, json.RejectUnknownMembers(true)); err != nil {
			return nil, err
		}
		if s.Section != p.name() || s.Version != membersVersion {
			return nil, fmt.Errorf("section %q version %d, this program knows %q version %d", s.Section, s.Version, p.name(), membersVersion)
		}
		for _, m := range s.Members {
			members[m.Node] = m
		}
	}
	return func() { p.become(members) }, nil
}

// addresses returns where a node may be, best first: as the group knows it, then
// as the configuration of this node has it.
func (g *Group) addresses(node uint16) []string {
	var list []string
	add := func(address string) {
		if address != "" && !slices.Contains(list, address) {
			list = append(list, address)
		}
	}
	add((*g.machine.members.known.Load())[node].Address)
	add(g.cfg.Cluster.Peers[node])
	return list
}
