// Package embedded is the sink.Store for an appliance without a database: the
// messages stay beside it in Badger, can be queried, and go after a time.
//
// # Keys
//
//	m id                             → a record, see below
//	a account id                     → summary: what a query can be answered from
//	r account hash(client_ref) id    → summary; only if there is a client_ref
//	c account idempotency_key        → which message has claimed it
//	f status id, g account status id → summary; of messages that did not end well
//	p channel hash(provider_id) id   → nothing; of messages that a provider has named
//	w sent_at id                     → nothing; of messages whose report may still come
//	e …                              → a report that came before its message, see update.go
//	u account day channel status     → how many such messages were deleted, see usage.go
//	s node block                     → which of 1,024 sequence numbers are here, and which are final
//	x "format"                       → version of all this
//
// An id is 16 bytes and sorts by time; account carries its length in front;
// node and block are big-endian, 2 and 8 bytes. So a message costs two keys, a
// third with a client_ref and a fourth with an idempotency key, and Count and
// Missing cost one small key for each batch instead of one for each message.
//
//	record:  CRC-32C (4 bytes, of the key and all that follows) · length (4, of all that follows)
//	         · seq (uvarint) · length of state (uvarint) · state · message
//	block:   CRC-32C (4, of the key and all that follows) · present (128) · final (128)
//	claim:   id (16) · CRC-32C (4, of the key and the id)
//	summary: status (1) · channel (1; the highest bit: a test message, the next: a callback) · FNV-1a of to (4)
//
// The sums are ours because Badger's do not help where it matters: it has been
// seen to hand out an empty value without an error after one flipped bit. What
// does not verify is reported as damaged and never repaired by deleting it.
//
// # Promises
//
// All keys of a message are in one transaction, and one sync makes it durable
// before Insert returns, since the log then forgets it. A crash between two
// transactions of a large batch leaves the first part stored; the log repeats
// the batch, and that part is known.
//
// A claim holds for messages whose ids lie less than ClaimTTL apart in time. So
// no clock takes part, and a backlog that drains late gets the same answers.
//
// # What Badger needs watching for
//
//   - It only logs some failed syncs and failed compactions, and goes on. So the
//     first error line it logs stops all inserts, and Run ends with an error: the
//     process must start again, and Badger replay what is on disk.
//   - A full disk kills the process (SIGBUS), for it writes through a sparse
//     mapping. So an insert is refused as Down while less than MinFreeBytes are
//     free, and a directory on such a disk is not opened until there is room.
//   - A read under way while it closes is a segmentation fault. So every call
//     holds a reference that Close waits for.
//   - A memtable smaller than the one that a crash left behind ends the process
//     at Open. So after a crash Open takes the larger one (writtenWith).
//   - A table can get lost in a compaction that runs out of file descriptors,
//     without a word. So Run compares, in one snapshot, how many messages there
//     are with how many the blocks have counted, and names what is missing.
//
// All values are in the LSM tree, none in the value log: its garbage collection
// reclaims nothing for data of this kind, and the tree's own compaction does.
package embedded
