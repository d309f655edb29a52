package message

import "time"

// reachable holds, for each status, every one that a message may still come to,
// over however many steps. Whoever hears of a message by updates and reports
// misses steps, but never sees one that the table does not allow.
var reachable = func() (all [Stored + 1]uint32) {
	for _, s := range Statuses {
		for todo := []Status{s}; len(todo) > 0; {
			at := todo[0]
			todo = todo[1:]
			for _, t := range next[at] {
				if all[s]>>t&1 == 0 {
					all[s] |= 1 << t
					todo = append(todo, t)
				}
			}
		}
	}
	return all
}()

// CanReach reports whether a message in status s may ever be in status t, over
// one step or several.
func (s Status) CanReach(t Status) bool {
	return s.Valid() && t.Valid() && reachable[s]>>t&1 == 1
}

// Open reports whether the message has not been sent yet, nor come to an end: it
// may move to and fro between such statuses.
func (s Status) Open() bool { return s >= Accepted && s <= Sending || s == Scheduled }

// StatusAt is the status at a time t that is not before the state was written:
// nobody writes down that the time of a scheduled message has come, and that it is
// queued from then on. Zero t: as it is written.
func (s *State) StatusAt(t time.Time) Status {
	if s.Status == Scheduled && !t.Before(s.ScheduledAt) {
		return Queued
	}
	return s.Status
}

// Due is the state at a time t, see StatusAt.
func (s State) Due(t time.Time) State {
	if now := s.StatusAt(t); now != s.Status {
		s.Status, s.HoldReason, s.NextAttemptAt = now, "", time.Time{}
	}
	return s
}

// Requeueable reports whether a message that ended so may be accepted anew.
func (s Status) Requeueable() bool {
	return s == Failed || s == Undelivered || s == Rejected || s == Expired
}

// CodeNoReport is the code of the Failure of a message that was sent and of
// which the provider never reported more.
const CodeNoReport = "no_report"

// Final reports whether nothing of ours will change the status any more: the
// status is a final one, or the message is sent and the wait for a report of it
// has been given up. A provider's report may still move it onward.
func (s *State) Final() bool {
	return s.Status.Final() || s.Status == Sent && s.Error != nil && s.Error.Code == CodeNoReport
}

// Awaited reports whether a report of the message is waited for.
func (s *State) Awaited() bool { return s.Status == Sent && s.Error == nil && !s.SentAt.IsZero() }

// GivenUp is the state of a message that was sent, when no report of it will be
// waited for any more.
func (s State) GivenUp() State {
	s.Error = &Failure{Code: CodeNoReport, Category: "provider", Message: "the provider took the message and never reported what became of it"}
	return s
}

// Merge returns the state of a message of which s was known and in is heard. It
// moves along the table of statuses or stays: a repeat, or what comes out of
// order, never moves a message back, and what is only new in it (a time, the
// provider's id) is taken in nevertheless. Merging the same again changes
// nothing.
//
// Between the statuses before a message is sent, which it passes more than once,
// the number of attempts tells what is later; with as many, what is heard is.
// So these must come from one source in order; reports may come in any.
func (s State) Merge(in State) State {
	if !in.Status.Valid() {
		return s
	}
	onward := s.Status.CanReach(in.Status) || !s.Status.Valid()
	if s.Status.Open() && in.Status.Open() {
		onward = (onward || s.Status == in.Status) && len(in.Attempts) >= len(s.Attempts)
	}
	m := s
	if onward {
		m.Status, m.Error = in.Status, in.Error
		m.NextAttemptAt, m.HoldReason = in.NextAttemptAt, in.HoldReason
	} else if in.Status == Sent && s.Status == Sent && s.Error == nil && in.Final() {
		m.Error = in.Error // the wait for its report has been given up
	}
	if !m.Status.Open() {
		m.NextAttemptAt, m.HoldReason = time.Time{}, ""
	}
	if m.Status == Delivered || m.Status == Read || m.Status == Sent && !m.Final() {
		m.Error = nil // of an attempt before the one that went well
	}
	m.fill(in)
	return m
}

// fill takes in what s does not know yet.
func (s *State) fill(in State) {
	for _, t := range [...]struct {
		known *time.Time
		heard time.Time
	}{{&s.StoredAt, in.StoredAt}, {&s.ScheduledAt, in.ScheduledAt}, {&s.SentAt, in.SentAt}, {&s.DeliveredAt, in.DeliveredAt},
		{&s.ReadAt, in.ReadAt}, {&s.FailedAt, in.FailedAt}} {
		if t.known.IsZero() {
			*t.known = t.heard
		}
	}
	if s.ProviderID == "" {
		s.ProviderID = in.ProviderID
	}
	if s.DuplicateOf.IsZero() {
		s.DuplicateOf = in.DuplicateOf
	}
	if len(in.Attempts) > len(s.Attempts) {
		s.Attempts = in.Attempts
	}
}

// Report is a provider's word about a message that it was given before. Reports
// come repeatedly, in any order, and sometimes before our own record of the
// sending is written.
type Report struct {
	Channel    Channel
	ProviderID string // the provider's name for the message
	ID         ID     // ours, where the provider gives it back; zero: it does not
	Status     Status // Sent, Delivered, Read or Undelivered
	At         time.Time
	Failure    *Failure // why it is Undelivered; nil otherwise
}

// Valid reports whether the report says something about a message that can be
// found.
func (r *Report) Valid() bool {
	switch r.Status {
	case Sent, Delivered, Read, Undelivered:
		return r.Channel.Valid() && (r.ProviderID != "" || !r.ID.IsZero())
	}
	return false
}

// State is what the report says, to be merged into what is known.
func (r *Report) State() State {
	s := State{Status: r.Status, ProviderID: r.ProviderID}
	at := r.At.UTC().Truncate(time.Millisecond)
	switch r.Status {
	case Sent:
		s.SentAt = at
	case Delivered:
		s.DeliveredAt = at
	case Read:
		s.ReadAt = at
	case Undelivered:
		s.FailedAt, s.Error = at, r.Failure
	}
	return s
}

// Same reports whether two states say the same, to the ms that they are kept to.
func (s *State) Same(other *State) bool {
	var a, b [256]byte // without an allocation, as a rule
	return string(s.Append(a[:0])) == string(other.Append(b[:0]))
}

// UsageQuery selects what is counted of an account: the messages that it has
// had accepted from From (inclusive) to To (exclusive), whole days in UTC.
type UsageQuery struct {
	Account  string
	From, To time.Time
}

// UsageCount says how many messages of a day (UTC), accepted for a channel, have
// come to a status. Test messages and callbacks are not counted.
type UsageCount struct {
	Day     time.Time // its beginning
	Channel Channel
	Status  Status
	Count   uint64
}
