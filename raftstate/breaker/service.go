package breaker

import (
	"cmp"
	"slices"
	"time"
)

// circuit is open or closed, for all nodes or for one.
type circuit struct {
	Open       bool   `json:"open,omitzero"`
	Generation uint64 `json:"generation,omitzero"`
	Since      uint64 `json:"since,omitzero"`    // stamp of the opening or closing
	RetryAt    uint64 `json:"retry_at,omitzero"` // no probe before
	Factor     uint64 `json:"factor,omitzero"`   // of the recovery time, 1 to maxFactor
	Reason     string `json:"reason,omitzero"`   // why it opened, while it is open
}

// nodeCircuit is the circuit of one node, and is only looked at while that of
// all is closed.
type nodeCircuit struct {
	Node uint16 `json:"node"`
	circuit
}

// probe is the one permit that is out. Node 0: none.
type probe struct {
	Node  uint16 `json:"node,omitzero"`
	Until uint64 `json:"until,omitzero"`
}

// evidence is when a node last had a success.
type evidence struct {
	Node uint16 `json:"node"`
	At   uint64 `json:"at"`
}

type forced struct {
	To  Position  `json:"to,omitzero"`
	Who string    `json:"who,omitzero"`
	At  time.Time `json:"at,omitzero"`
}

// service is one breaker. Lists are ascending by node.
type service struct {
	name    string
	all     circuit
	nodes   []nodeCircuit
	probe   probe // of all if that is open, else of its node
	seen    []evidence
	failed  uint16 // node whose probe failed last; 0: none
	forced  forced // To "": by its own rules; then Who is who let it go
	touched uint64 // stamp of the last command about it
}

func (b *service) findNode(node uint16) (int, bool) {
	return slices.BinarySearchFunc(b.nodes, node, func(c nodeCircuit, n uint16) int { return cmp.Compare(c.Node, n) })
}

// circuitOf is the circuit that node's calls go through.
func (b *service) circuitOf(node uint16) circuit {
	if b.all.Open {
		return b.all
	}
	if i, ok := b.findNode(node); ok {
		return b.nodes[i].circuit
	}
	return circuit{}
}

// generationOf numbers the last transition that node's calls have met.
func (b *service) generationOf(node uint16) uint64 {
	g := b.all.Generation
	if i, ok := b.findNode(node); ok {
		g = max(g, b.nodes[i].Generation)
	}
	return g
}

func (b *service) setNode(node uint16, c circuit) {
	i, ok := b.findNode(node)
	if !ok {
		b.nodes = slices.Insert(b.nodes, i, nodeCircuit{Node: node})
	}
	b.nodes[i].circuit = c
}

// renumber gives the circuit of node a new generation.
func (b *service) renumber(node uint16, generation uint64) {
	if b.all.Open {
		b.all.Generation = generation
		return
	}
	c := b.circuitOf(node)
	c.Generation = generation
	b.setNode(node, c)
}

func (b *service) succeeded(node uint16, at uint64) {
	i, ok := slices.BinarySearchFunc(b.seen, node, func(e evidence, n uint16) int { return cmp.Compare(e.Node, n) })
	if !ok {
		b.seen = slices.Insert(b.seen, i, evidence{Node: node})
	}
	b.seen[i].At = max(b.seen[i].At, at)
}

// othersSucceed reports whether a node other than this one, whose own circuit is
// not open, has had a success within the last span of ms.
func (b *service) othersSucceed(node uint16, now, span uint64) bool {
	return slices.ContainsFunc(b.seen, func(e evidence) bool {
		return e.Node != node && !b.circuitOf(e.Node).Open && e.At+span >= now
	})
}

// turnOf reports whether node may probe now. The one whose probe failed last
// lets the others go first for a moment.
func (b *service) turnOf(node uint16, at uint64, s Settings) bool {
	if !b.all.Open || b.failed != node || len(b.seen) == 0 {
		return true
	}
	if len(b.seen) == 1 && b.seen[0].Node == node {
		return true
	}
	return at >= b.all.RetryAt+min(2000, ms(s.Recovery)/10)
}

// idle reports whether a breaker says nothing that a new one would not.
func (b *service) idle() bool {
	return b.forced.To == "" && !b.all.Open && !slices.ContainsFunc(b.nodes, func(c nodeCircuit) bool { return c.Open })
}
