package message

import (
	"bytes"
	"time"
)

// Query selects messages that have left the log, newest first. Zero fields do
// not restrict.
type Query struct {
	Account        string // empty: every account (operators only)
	Status         Status
	At             time.Time // when Status is asked for, see State.StatusAt
	Channel        Channel
	To             string
	ClientRef      string
	AcceptedAfter  time.Time // inclusive
	AcceptedBefore time.Time // exclusive
	Before         ID        // keyset cursor: only messages older than this one
	Limit          int       // 1–1000
}

// Matches reports whether the query selects the record, whatever its limit.
func (q *Query) Matches(r *Record) bool {
	return (q.Account == "" || r.Account == q.Account) && (q.Status == 0 || r.StatusAt(q.At) == q.Status) &&
		(q.Channel == 0 || r.Channel == q.Channel) && (q.To == "" || r.To == q.To) &&
		(q.ClientRef == "" || r.ClientRef == q.ClientRef) &&
		(q.AcceptedAfter.IsZero() || !r.AcceptedAt().Before(q.AcceptedAfter)) &&
		(q.AcceptedBefore.IsZero() || r.AcceptedAt().Before(q.AcceptedBefore)) &&
		(q.Before.IsZero() || bytes.Compare(r.ID[:], q.Before[:]) < 0)
}

// Page is one answer to a Query.
type Page struct {
	Records []Record
	More    bool // there are older ones; continue with Before = the last record's ID
}
