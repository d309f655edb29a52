package limiter

import "container/heap"

// expiry says which ledgers may be forgotten next: at least one entry for each,
// at or before its time. Pushing is cheap when a later time comes for an account
// that has an entry: the entry is moved when it comes up.
type expiry struct {
	entries expiryHeap
	has     map[string]bool
}

type expiryEntry struct {
	at      int64
	account string
}

func (x *expiry) push(account string, at int64) {
	if x.has[account] {
		return
	}
	if x.has == nil {
		x.has = map[string]bool{}
	}
	x.has[account] = true
	heap.Push(&x.entries, expiryEntry{at: at, account: account})
}

// next takes out an account whose time has come.
func (x *expiry) next(now int64) (account string, due bool) {
	if len(x.entries) == 0 || x.entries[0].at > now {
		return "", false
	}
	e := heap.Pop(&x.entries).(expiryEntry)
	delete(x.has, e.account)
	return e.account, true
}

type expiryHeap []expiryEntry

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *expiryHeap) Push(v any)        { *h = append(*h, v.(expiryEntry)) }
func (h *expiryHeap) Pop() any {
	old := *h
	v := old[len(old)-1]
	old[len(old)-1] = expiryEntry{}
	*h = old[:len(old)-1]
	return v
}
