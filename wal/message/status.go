package message

import "fmt"

// Status is how far a message has got, in a word.
type Status uint8

// The statuses. The numbers are written to disk; never renumber them.
const (
	Accepted    Status = 1
	Queued      Status = 2
	Sending     Status = 3
	Sent        Status = 4
	Delivered   Status = 5
	Read        Status = 6
	Undelivered Status = 7
	Failed      Status = 8
	Rejected    Status = 9
	Canceled    Status = 10
	Expired     Status = 11
	Duplicate   Status = 12
	Scheduled   Status = 13
	Stored      Status = 14
)

// Statuses lists every status in the order of their numbers.
var Statuses = []Status{Accepted, Queued, Sending, Sent, Delivered, Read, Undelivered,
	Failed, Rejected, Canceled, Expired, Duplicate, Scheduled, Stored}

var statusNames = [...]string{Accepted: "accepted", Queued: "queued", Sending: "sending", Sent: "sent",
	Delivered: "delivered", Read: "read", Undelivered: "undelivered", Failed: "failed", Rejected: "rejected",
	Canceled: "canceled", Expired: "expired", Duplicate: "duplicate", Scheduled: "scheduled", Stored: "stored"}

// String returns the name that clients see.
func (s Status) String() string {
	if s.Valid() {
		return statusNames[s]
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// Valid reports whether s is one of the constants.
func (s Status) Valid() bool { return s >= Accepted && s <= Stored }

// ParseStatus returns the status of that name and whether there is one.
func ParseStatus(name string) (Status, bool) {
	for _, s := range Statuses {
		if statusNames[s] == name {
			return s, true
		}
	}
	return 0, false
}

// next holds, for each status, where it may go. A status that is not a key is
// a dead end.
var next = map[Status][]Status{
	Accepted:  {Queued, Rejected, Duplicate, Scheduled, Stored, Failed, Canceled, Expired},
	Scheduled: {Queued, Canceled, Expired, Rejected, Duplicate},
	Queued:    {Sending, Canceled, Expired, Failed, Rejected, Duplicate},
	Sending:   {Sent, Queued, Failed, Expired},
	Sent:      {Delivered, Read, Undelivered},
	Delivered: {Read},
}

// CanBecome reports whether a message in status s may move to t.
func (s Status) CanBecome(t Status) bool {
	for _, allowed := range next[s] {
		if allowed == t {
			return true
		}
	}
	return false
}

// Final reports whether nothing of ours will change the status any more. A
// provider's report may still move sent and delivered onward.
func (s Status) Final() bool {
	switch s {
	case Accepted, Scheduled, Queued, Sending, Sent:
		return false
	}
	return true
}
