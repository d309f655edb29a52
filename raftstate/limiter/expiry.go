package limiter

import "container/heap"

// expiry says which ledgers may be forgotten next: one entry for each, at or
// before its time. A later time costs nothing: the entry is moved when it comes up.
type expiry struct {
	entries expiryHeap
}

type expiryEntry struct {
	at      int64
	account string
}

// push adds the entry of a ledger that is new, or whose entry has come up.
func (x *expiry) push(account string, at int64) {
	heap.Push(&x.entries, expiryEntry{at: at, account: account})
}

// next takes out an account whose time has come.
func (x *expiry) next(now int64) (account string, due bool) {
	if len(x.entries) == 0 || x.entries[0].at > now {
		return "", false
	}
	return heap.Pop(&x.entries).(expiryEntry).account, true
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
