// Package sink drains the log: it takes entries by priority, stores them in
// batches and lets the log forget what is final.
//
//	Source ──Next──► worker: decode ─► Store.Insert ─► OnStored ─► Source.Complete
//
// The promise: an entry that was taken is completed only when the store has its
// final state, and completed once. What a crash leaves, step by step:
//
//   - after Next, before Insert: the log still has the entry and hands it out
//     again after a restart;
//   - after Insert, before Complete: the same, and the store answers that it
//     knows the record. OnStored is called once more;
//   - after Complete: nothing is left to do.
//
// A store that is down costs nobody an entry and itself no stampede: one worker
// tries again with exponential backoff and full jitter, the others wait for it,
// and when it gets through they come back by doubling. A store that refuses a
// whole batch for another reason is asked again slowly and loudly, for ever:
// dropping is an operator's decision, never ours. An entry that cannot be
// decoded is reported and stays in the log.
//
// What a message's channel has still to deliver begins where Insert ends:
// whatever is not final then keeps its place in the log.
package sink
