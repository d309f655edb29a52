// Package sink drains the log: it takes entries by priority, stores them in
// batches, delivers what is for a channel, and lets the log forget what is final.
//
//	Source ──Next──► Pipeline: decode ─► validate ─► Store.Insert ──► Complete     what is final
//	                                                      └─────────► Dispatcher   what is to be sent
//
//	Dispatcher: queue ─► breaker, pace ─► Channel.Send ─► Progress ─► Store.Update ─► Complete
//	              └─► Park (a time), Shelve (no time) ─► … ─► Next
//
// # The drain
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
// # Delivery
//
// The promise: a message is sent, or ends for a reason that its sender is told;
// it is sent twice only where an attempt's outcome was not known, or the process
// was killed between an attempt and its record. What a crash leaves:
//
//   - in the queue: the log hands it out, and the store knows it;
//   - during an attempt: the attempt is repeated; with PolicyFail the message was
//     recorded as sending before, and fails with outcome_unknown instead;
//   - after Progress, before Update or Complete: the log hands it out with its
//     end, which is brought into the store and not sent again.
//
// Memory is bounded whatever the backlog. What finds the queue full, its breaker
// open or its channel stopped rests on a shelf of the log (shelves.go) and comes
// back when there is room, or, after one probe, by doubling; what waits for a
// time is parked until then. Neither uses up an attempt. A message that expires on
// a shelf is ended there (expiry.go).
//
// While the store is down (detour.go), what has no idempotency key is delivered
// all the same, and its states are kept in the log.
//
// A provider's report of a message that waits to be tried once more, because nobody
// knew how its attempt ended, shows that it was sent, and ends it (reported.go). The
// store, which any node may have told, is asked before each such attempt.
//
// A cancel (cancel.go) is decided under the lock that an attempt begins under,
// and is durable in the log before it is answered.
package sink
