package raftstate

import (
	"maps"
	"slices"
)

// maxAnswers is how many commands back a repeat is still recognized. A repeat
// comes within Config.CommandTimeout, so this needs to cover what passes then.
const maxAnswers = 4096

// remembered is what one command came to.
type remembered struct {
	kind   uint8
	answer any // of the kind's part; never changed
}

// answers remembers what the last commands came to, by request id. It is part of
// the replicated state: what it forgets, every node forgets at the same command.
type answers struct {
	order []requestID // oldest first
	byID  map[requestID]remembered
}

func newAnswers() *answers { return &answers{byID: map[requestID]remembered{}} }

func (a *answers) get(id requestID) (remembered, bool) {
	r, ok := a.byID[id]
	return r, ok
}

func (a *answers) put(id requestID, r remembered) {
	if len(a.order) == maxAnswers {
		delete(a.byID, a.order[0])
		a.order = a.order[1:] // append moves the rest to the front now and then
	}
	a.order = append(a.order, id)
	a.byID[id] = r
}

func (a *answers) clone() *answers {
	return &answers{order: slices.Clone(a.order), byID: maps.Clone(a.byID)}
}
