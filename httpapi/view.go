package httpapi

import (
	"time"

	"forebay/wal/message"
)

// View is a message as its sender sees it: the Message of openapi.yaml. What has not come yet is left out.
type View struct {
	ID            message.ID        `json:"id"`
	Channel       string            `json:"channel"`
	To            string            `json:"to,omitzero"`
	Status        string            `json:"status"`
	Final         bool              `json:"final"`
	Priority      string            `json:"priority"`
	ClientRef     string            `json:"client_ref,omitzero"`
	Metadata      map[string]string `json:"metadata,omitzero"`
	AcceptedAt    Timestamp         `json:"accepted_at"`
	StoredAt      Timestamp         `json:"stored_at,omitzero"`
	ScheduledAt   Timestamp         `json:"scheduled_at,omitzero"`
	SentAt        Timestamp         `json:"sent_at,omitzero"`
	DeliveredAt   Timestamp         `json:"delivered_at,omitzero"`
	ReadAt        Timestamp         `json:"read_at,omitzero"`
	FailedAt      Timestamp         `json:"failed_at,omitzero"`
	ExpiresAt     Timestamp         `json:"expires_at,omitzero"`
	NextAttemptAt Timestamp         `json:"next_attempt_at,omitzero"`
	HoldReason    string            `json:"hold_reason,omitzero"`
	ProviderID    string            `json:"provider_id,omitzero"`
	DuplicateOf   message.ID        `json:"duplicate_of,omitzero"`
	RequeueOf     message.ID        `json:"requeue_of,omitzero"` // the failed message that this is a new try of
	Error         *FailureView      `json:"error,omitzero"`
	Attempts      []AttemptView     `json:"attempts,omitzero"`
}

// FailureView says why a message did not go.
type FailureView struct {
	Code        string `json:"code"`
	Category    string `json:"category"`
	Retryable   bool   `json:"retryable"`
	ChannelCode string `json:"channel_code,omitzero"` // the provider's own
	Message     string `json:"message,omitzero"`
}

// AttemptView is one try at delivery.
type AttemptView struct {
	N           int       `json:"n"` // from 1
	At          Timestamp `json:"at"`
	Outcome     string    `json:"outcome"`
	ChannelCode string    `json:"channel_code,omitzero"`
	DurationMS  int64     `json:"duration_ms"`
}

// ViewOf renders a record for its sender. Body, subject and html do not come
// back, and neither do keys and traces.
func ViewOf(r *message.Record) View {
	v := View{
		ID: r.ID, Channel: r.Channel.String(), To: r.To,
		Status: r.Status.String(), Final: r.Final(), Priority: r.Priority.String(),
		ClientRef:  r.ClientRef,
		AcceptedAt: Timestamp{r.AcceptedAt()}, StoredAt: Timestamp{r.StoredAt},
		ScheduledAt: Timestamp{r.ScheduledAt}, SentAt: Timestamp{r.SentAt},
		DeliveredAt: Timestamp{r.DeliveredAt}, ReadAt: Timestamp{r.ReadAt},
		FailedAt: Timestamp{r.FailedAt}, ExpiresAt: Timestamp{r.ExpiresAt()},
		NextAttemptAt: Timestamp{r.NextAttemptAt},
		HoldReason:    r.HoldReason, ProviderID: r.ProviderID, DuplicateOf: r.DuplicateOf, RequeueOf: r.RequeueOf,
	}
	if len(r.Metadata) > 0 {
		v.Metadata = make(map[string]string, len(r.Metadata))
		for _, p := range r.Metadata {
			v.Metadata[p.Key] = p.Value
		}
	}
	if e := r.State.Error; e != nil {
		v.Error = &FailureView{Code: e.Code, Category: e.Category, Retryable: e.Retryable,
			ChannelCode: e.ChannelCode, Message: e.Message}
	}
	v.Attempts = attemptsOf(r.Attempts)
	return v
}

// attemptsOf renders attempts. Each has a number of its own, also one that does not
// count among those which the schedule allows (it was throttled), and which is kept
// with the number of the one before it. Of many only the last are kept, so that the
// first number need not be 1.
func attemptsOf(list []message.Attempt) (views []AttemptView) {
	for i, a := range list {
		n := max(1, list[0].N) + i
		views = append(views, AttemptView{N: n, At: Timestamp{a.At}, Outcome: a.Outcome,
			ChannelCode: a.ChannelCode, DurationMS: a.Duration.Milliseconds()})
	}
	return views
}

// timestampLayout is RFC 3339 in UTC with exactly three decimals, so that
// timestamps sort as text.
const timestampLayout = "2006-01-02T15:04:05.000Z"

// Timestamp is a time as clients see it: UTC, whole milliseconds.
type Timestamp struct{ time.Time }

// AppendText appends the time in RFC 3339 with three decimals.
func (t Timestamp) AppendText(dst []byte) ([]byte, error) {
	return t.UTC().AppendFormat(dst, timestampLayout), nil
}

// MarshalText implements encoding.TextMarshaler.
func (t Timestamp) MarshalText() ([]byte, error) { return t.AppendText(nil) }

// MarshalJSON hides the method of time.Time, which prints nanoseconds.
func (t Timestamp) MarshalJSON() ([]byte, error) {
	return append(t.UTC().AppendFormat([]byte{'"'}, timestampLayout), '"'), nil
}
