package limiter

import (
	"cmp"
	"slices"
)

// Use is what counts against an account, and who holds what of it.
type Use struct {
	Spent    int64 // within the window, reported
	Held     int64 // by nodes, not spent or not reported yet
	Level    int64 // tokens in the bucket
	Slots    int64 // lent
	Holdings []Holding
}

// Holding is what a node has been lent of an account.
type Holding struct {
	Node   uint16
	Tokens int64
	Slots  int64
	EndsIn int64 // ms of cluster time
}

// Use returns what the state says of an account as of its last command.
func (s *State) Use(account string, l Limits) Use {
	a := s.ledgers[account]
	if a == nil {
		return Use{Level: l.Burst}
	}
	u := Use{Level: a.level / s.window}
	for _, t := range a.spent {
		if t.end+hold(s.window) > s.now {
			u.Spent += t.n
		}
	}
	for _, h := range a.holdings {
		u.Held += h.tokens
		u.Slots += h.slots
		u.Holdings = append(u.Holdings, Holding{Node: h.node, Tokens: h.tokens, Slots: h.slots, EndsIn: max(0, h.until-s.now)})
	}
	return u
}

// Known is how many accounts something counts for.
func (s *State) Known() int { return len(s.ledgers) }

// Held is how many holdings a node has.
func (s *State) Held(node uint16) (n int) {
	for _, a := range s.ledgers {
		if _, found := a.holding(node); found {
			n++
		}
	}
	return n
}

// Busy is an account and how much of its plan is used.
type Busy struct {
	Account string
	Counted int64
}

// Busiest lists the n accounts of which most counts, the busiest first.
func (s *State) Busiest(n int) []Busy {
	var top []Busy
	for account, a := range s.ledgers {
		if len(top) == n && (n == 0 || a.total < top[n-1].Counted) {
			continue // as nearly all are
		}
		b := Busy{Account: account, Counted: a.total}
		i, _ := slices.BinarySearchFunc(top, b, func(x, y Busy) int {
			return cmp.Or(cmp.Compare(y.Counted, x.Counted), cmp.Compare(x.Account, y.Account))
		})
		if i < n {
			top = slices.Insert(top, i, b)
			top = top[:min(len(top), n)]
		}
	}
	return top
}
