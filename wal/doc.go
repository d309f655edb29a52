// Package wal is the durable buffer: the one place where an accepted message
// lives until its final status is in the store. It knows lanes and bytes, not
// channels.
//
// # Promise
//
// When Append returns nil the message is on disk, synced, and will be handed
// out by Next, after any crash, until Complete has forgotten it. A message may
// be handed out again after a crash, never lost. Identifiers strictly increase
// per node and sequence numbers are dense, across restarts and clock steps.
//
// # On disk
//
// A directory holds one Badger database and three files of ours:
//
//	a span lane id   record             a message waiting, or taken by the pipeline (lane.go)
//	d due id         record             a message parked until due (Unix ms), or on a
//	                                    shelf until it is fetched (shelf.go)
//	p id             due, state         how far delivery got; only once it got anywhere
//	k account 0 key  id, print, expiry  an idempotency key and the answer it was given
//	x head           seq, id, done      the last number and name issued, how many are complete
//	x c chunk        bitmap             which numbers of a chunk of 8,192 are complete
//	x g number       last               numbers that another life of a restored log gave out
//	x p number       zeros              fills a memtable, so that it is flushed
//
//	TIDE     the highest durable number, and whether the log runs; written about
//	         once a second
//	BALLAST  allocated space to give up, so that a full disk can be opened again
//	SUSPECT  copies of files that did not look right before Badger touched them
//
// Values carry a length, a CRC-32C and, for records, the sequence number. The
// sums cover the key: a value under another's key is damage, too.
//
// # One writer
//
// One goroutine owns the database's write side, the numbers and the ledger. It
// takes what waits in the inbox (appends, completions, parkings), writes one
// Badger transaction with one sync, and answers all. Everything of one message
// is in one transaction: record with its idempotency key, deletion with its
// ledger bit. So a crash leaves either both or neither:
//
//	before the commit    nothing was acknowledged; the numbers are issued again
//	during the commit    Badger replays whole transactions or none; what replays
//	                     unacknowledged is an ordinary message that its client
//	                     did not hear of
//	after it, unanswered as above
//	before Complete      the message is handed out again; its insert is idempotent
//
// # Integrity
//
// Badger is watched, not trusted. It drops the rest of a log file after one
// flipped bit, loses tables when a compaction meets EMFILE, and only logs some
// failed syncs, all without an error to the caller. So:
//
//   - The ledger says which numbers must be there. At Open every record is read
//     and held against it, and the ledger against the tide mark. What is
//     missing is named and Open refuses (*DamagedError): the way on is Verify,
//     which changes nothing, and Salvage, which sets aside what cannot be read.
//   - Before Badger touches the files they are read without it: the sums of
//     every table's blocks, the manifest, and the end of every log file, where a
//     transaction torn by a crash is told from a damaged one (torn.go).
//   - While it runs a scrub holds the records on disk against the ledger, as of
//     one commit, above all after compactions.
//   - Any error that Badger logs, and any failed commit, ends the log: nothing
//     more is acknowledged and Config.Fatal is called. A kernel reports a lost
//     write once and then calls the pages clean, so a second sync proves
//     nothing; the next Open does.
//   - A full disk is SIGBUS to a mapped file, so appends stop well before.
//   - A disk that hangs keeps its commit waiting, but not those who wait for it:
//     they are told that the outcome is unknown, and others refused (stall.go).
//
// # Values in the tree
//
// All values stand in the LSM tree, none in Badger's value log: a failed sync
// of the value log is only logged, an unreadable value comes back empty without
// an error, and its garbage collection finds nothing to reclaim in a queue.
package wal
