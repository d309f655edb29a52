package message

import "time"

// Query selects messages that have left the log, newest first. Zero fields do
// not restrict.
type Query struct {
	Account        string // empty: every account (operators only)
	Status         Status
	Channel        Channel
	To             string
	ClientRef      string
	AcceptedAfter  time.Time // inclusive
	AcceptedBefore time.Time // exclusive
	Before         ID        // keyset cursor: only messages older than this one
	Limit          int       // 1–1000
}

// Page is one answer to a Query.
type Page struct {
	Records []Record
	More    bool // there are older ones; continue with Before = the last record's ID
}
