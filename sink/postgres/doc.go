// Package postgres is the sink.Store on PostgreSQL 13 and newer.
//
// # Tables
//
// messages holds a row for every message, partitioned by the day (UTC) of its
// id; claims says which message has an idempotency key; set_aside keeps what
// messages refused. Their definitions, and why they are as they are, stand in
// migrations/. Nothing here needs a single server or a session of its own: no
// temporary tables, no LISTEN, no triggers, no session locks, so that pgbouncer
// in transaction mode and distributed PostgreSQL do as well.
//
// # Insert
//
// Nearly always every row of a batch is new. So the first try is COPY into the
// table itself, which costs the server about half of what an INSERT of the same
// rows does, and which fails as a whole when a row is there already or is
// refused. The second try, and the first one for a while after that, is one
// statement, INSERT … SELECT unnest(…) ON CONFLICT (id) DO NOTHING RETURNING id.
// What it does not return was there already and is read. (The conflict names its
// column on purpose: a row that a unique index of somebody else's refuses is not
// known, and must not pass for it.)
//
// Either commits by itself and is one round trip. If the batch has idempotency
// keys, they are claimed first in the same transaction, and the losers of a
// claim are written as duplicates.
//
// A crash, a lost connection or a lost answer leaves all of a statement or
// nothing. The caller repeats the batch, and both come to the same.
//
// When the database refuses a batch because of what is in a row, the batch is
// halved until the row stands alone, and the row goes to set_aside; each half
// is a transaction then. A crash in the middle leaves halves, which a repeat
// completes. Should a message that was set aside be repeated after an operator
// has cured the cause, then it is stored, and its row in messages counts.
//
// # Time
//
// Two messages compete for an idempotency key if they were accepted less than
// Config.IdempotencyTTL apart, whenever they arrive here. A claim is kept for
// that long after it was made or accepted, whichever is later.
//
// A partition is dropped when its day is over for Config.Retention and none of
// its rows was stored within that time: a backlog that came late stays as long
// as anything else.
//
// # When the database is away
//
// Every call fails with a *sink.Down, whatever the reason is: the caller
// repeats it. Whether an operator has to act shows in the log, once a while,
// with what to do. Only what no repeating can cure ends Run: a schema that a
// newer version has made, a server that is too old, another encoding than UTF-8.
package postgres
