package postgres

import (
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"forebay/wal/message"
)

// columnSpec is a column of the table messages: its name, its type with the OID,
// and how it is filled. A record's state is given apart, as it is to be stored.
type columnSpec struct {
	name string
	typ  string
	oid  uint32
	put  func(*column, *message.Record, *message.State)
}

func textColumn(name string, of func(*message.Record, *message.State) string) columnSpec {
	return columnSpec{name, "text", pgtype.TextOID, func(c *column, r *message.Record, s *message.State) { c.text(of(r, s)) }}
}

func timeColumn(name string, of func(*message.Record, *message.State) time.Time) columnSpec {
	return columnSpec{name, "timestamptz", pgtype.TimestamptzOID, func(c *column, r *message.Record, s *message.State) { c.time(of(r, s)) }}
}

func jsonColumn(name string, put func(*column, *message.Record, *message.State)) columnSpec {
	return columnSpec{name, "json", pgtype.JSONOID, put}
}

// messageColumns are the columns that an insert fills, in its order.
var messageColumns = [...]columnSpec{
	{"id", "uuid", pgtype.UUIDOID, func(c *column, r *message.Record, _ *message.State) { c.id(r.ID) }},
	{"seq", "int8", pgtype.Int8OID, func(c *column, r *message.Record, _ *message.State) { c.int8(int64(r.Seq)) }},
	timeColumn("accepted_at", func(r *message.Record, _ *message.State) time.Time { return r.AcceptedAt() }),
	timeColumn("stored_at", func(_ *message.Record, s *message.State) time.Time { return s.StoredAt }),
	{"node", "int4", pgtype.Int4OID, func(c *column, r *message.Record, _ *message.State) { c.int4(int32(r.ID.Node())) }},
	{"test", "bool", pgtype.BoolOID, func(c *column, r *message.Record, _ *message.State) { c.bool(r.Test) }},
	{"account", "text", pgtype.TextOID, func(c *column, r *message.Record, _ *message.State) { c.required(r.Account) }},
	textColumn("channel", func(r *message.Record, _ *message.State) string { return r.Channel.String() }),
	textColumn("priority", func(r *message.Record, _ *message.State) string { return r.Priority.String() }),
	textColumn("status", func(_ *message.Record, s *message.State) string { return s.Status.String() }),
	textColumn("recipient", func(r *message.Record, _ *message.State) string { return r.To }),
	textColumn("subject", func(r *message.Record, _ *message.State) string { return r.Subject }),
	textColumn("body", func(r *message.Record, _ *message.State) string { return r.Body }),
	textColumn("html", func(r *message.Record, _ *message.State) string { return r.HTML }),
	jsonColumn("template", func(c *column, r *message.Record, _ *message.State) { putTemplate(c, r.Template) }),
	textColumn("client_ref", func(r *message.Record, _ *message.State) string { return r.ClientRef }),
	jsonColumn("metadata", func(c *column, r *message.Record, _ *message.State) { putMetadata(c, r.Metadata) }),
	textColumn("callback_url", func(r *message.Record, _ *message.State) string { return r.CallbackURL }),
	textColumn("idempotency_key", func(r *message.Record, _ *message.State) string { return r.IdempotencyKey }),
	{"fingerprint", "bytea", pgtype.ByteaOID, func(c *column, r *message.Record, _ *message.State) { putFingerprint(c, &r.Fingerprint) }},
	textColumn("trace_parent", func(r *message.Record, _ *message.State) string { return r.TraceParent }),
	textColumn("request_id", func(r *message.Record, _ *message.State) string { return r.RequestID }),
	timeColumn("send_at", func(r *message.Record, _ *message.State) time.Time { return r.SendAt }),
	{"ttl_seconds", "int4", pgtype.Int4OID, func(c *column, r *message.Record, _ *message.State) { putTTL(c, r.TTL) }},
	timeColumn("scheduled_at", func(_ *message.Record, s *message.State) time.Time { return s.ScheduledAt }),
	timeColumn("sent_at", func(_ *message.Record, s *message.State) time.Time { return s.SentAt }),
	timeColumn("delivered_at", func(_ *message.Record, s *message.State) time.Time { return s.DeliveredAt }),
	timeColumn("read_at", func(_ *message.Record, s *message.State) time.Time { return s.ReadAt }),
	timeColumn("failed_at", func(_ *message.Record, s *message.State) time.Time { return s.FailedAt }),
	timeColumn("next_attempt_at", func(_ *message.Record, s *message.State) time.Time { return s.NextAttemptAt }),
	textColumn("hold_reason", func(_ *message.Record, s *message.State) string { return s.HoldReason }),
	textColumn("provider_id", func(_ *message.Record, s *message.State) string { return s.ProviderID }),
	{"duplicate_of", "uuid", pgtype.UUIDOID, func(c *column, _ *message.Record, s *message.State) { c.id(s.DuplicateOf) }},
	jsonColumn("error", func(c *column, _ *message.Record, s *message.State) { putFailure(c, s.Error) }),
	jsonColumn("attempts", func(c *column, _ *message.Record, s *message.State) { putAttempts(c, s.Attempts) }),
	{"requeue_of", "uuid", pgtype.UUIDOID, func(c *column, r *message.Record, _ *message.State) { c.id(r.RequeueOf) }},
	{"callback", "bool", pgtype.BoolOID, func(c *column, r *message.Record, _ *message.State) { c.bool(r.Callback) }},
}

// The forms of what stands as json in a column.
type (
	templateJSON struct {
		Name       string   `json:"name"`
		Language   string   `json:"language,omitzero"`
		Parameters []string `json:"parameters,omitempty"`
	}
	failureJSON struct {
		Code        string `json:"code"`
		Category    string `json:"category"`
		Retryable   bool   `json:"retryable"`
		ChannelCode string `json:"channel_code,omitzero"`
		Message     string `json:"message,omitzero"`
	}
	attemptJSON struct {
		N           int       `json:"n"`
		At          time.Time `json:"at"`
		Outcome     string    `json:"outcome"`
		ChannelCode string    `json:"channel_code,omitzero"`
		DurationUS  int64     `json:"duration_us"`
	}
)

// putJSON appends v as json. Text that is not UTF-8 has no form in json: what is
// sent then is refused by the database, as the same text in any other column is.
func putJSON(c *column, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		b = []byte{0xff}
	}
	c.bytes(b)
}

func putTemplate(c *column, t *message.Template) {
	if t == nil {
		c.null()
		return
	}
	putJSON(c, templateJSON(*t))
}

// putMetadata appends an object by hand, to keep the order of the pairs.
func putMetadata(c *column, pairs []message.Pair) {
	if len(pairs) == 0 {
		c.null()
		return
	}
	b := []byte{'{'}
	for i, p := range pairs {
		if i > 0 {
			b = append(b, ',')
		}
		var keyErr, valueErr error
		b, keyErr = jsontext.AppendQuote(b, p.Key)
		b, valueErr = jsontext.AppendQuote(append(b, ':'), p.Value)
		if keyErr != nil || valueErr != nil {
			c.bytes([]byte{0xff}) // as in putJSON
			return
		}
	}
	c.bytes(append(b, '}'))
}

func putFingerprint(c *column, f *message.Fingerprint) {
	if *f == (message.Fingerprint{}) {
		c.null()
		return
	}
	c.bytes(f[:])
}

func putTTL(c *column, ttl time.Duration) {
	if ttl == 0 {
		c.null()
		return
	}
	c.int4(int32(ttl / time.Second))
}

func putFailure(c *column, f *message.Failure) {
	if f == nil {
		c.null()
		return
	}
	putJSON(c, failureJSON(*f))
}

func putAttempts(c *column, attempts []message.Attempt) {
	if len(attempts) == 0 {
		c.null()
		return
	}
	list := make([]attemptJSON, len(attempts))
	for i, a := range attempts {
		list[i] = attemptJSON{a.N, a.At, a.Outcome, a.ChannelCode, a.Duration.Microseconds()}
	}
	putJSON(c, list)
}

// The columns that a state, and a whole record, is read from; scanState and
// scanRecord take them in this order.
const (
	stateColumns = "id, status, stored_at, scheduled_at, sent_at, delivered_at, read_at, failed_at, next_attempt_at, " +
		"hold_reason, provider_id, duplicate_of, error, attempts"
	recordColumns = stateColumns + ", seq, test, account, channel, priority, recipient, subject, body, html, template, " +
		"client_ref, metadata, callback_url, idempotency_key, fingerprint, trace_parent, request_id, send_at, ttl_seconds, requeue_of, callback"
)

// stateScan receives the columns of a state.
type stateScan struct {
	id                      [16]byte
	status                  string
	failure, attempts       []byte
	holdReason, providerID  zeronull.Text
	duplicateOf             zeronull.UUID
	stored, scheduled, sent zeronull.Timestamptz
	delivered, read         zeronull.Timestamptz
	failed, nextAttempt     zeronull.Timestamptz
}

func (s *stateScan) targets() []any {
	return []any{&s.id, &s.status, &s.stored, &s.scheduled, &s.sent, &s.delivered, &s.read, &s.failed, &s.nextAttempt,
		&s.holdReason, &s.providerID, &s.duplicateOf, &s.failure, &s.attempts}
}

func (s *stateScan) state() (message.State, error) {
	status, ok := message.ParseStatus(s.status)
	if !ok {
		return message.State{}, fmt.Errorf("message %s has the unknown status %q", message.ID(s.id), s.status)
	}
	st := message.State{Status: status, StoredAt: time.Time(s.stored), ScheduledAt: time.Time(s.scheduled), SentAt: time.Time(s.sent),
		DeliveredAt: time.Time(s.delivered), ReadAt: time.Time(s.read), FailedAt: time.Time(s.failed), NextAttemptAt: time.Time(s.nextAttempt),
		HoldReason: string(s.holdReason), ProviderID: string(s.providerID), DuplicateOf: message.ID(s.duplicateOf)}
	if s.failure != nil {
		var f failureJSON
		if err := json.Unmarshal(s.failure, &f); err != nil {
			return st, fmt.Errorf("read error of message %s: %w", message.ID(s.id), err)
		}
		st.Error = (*message.Failure)(&f)
	}
	if s.attempts != nil {
		var list []attemptJSON
		if err := json.Unmarshal(s.attempts, &list); err != nil {
			return st, fmt.Errorf("read attempts of message %s: %w", message.ID(s.id), err)
		}
		for _, a := range list {
			st.Attempts = append(st.Attempts, message.Attempt{N: a.N, At: a.At, Outcome: a.Outcome, ChannelCode: a.ChannelCode,
				Duration: time.Duration(a.DurationUS) * time.Microsecond})
		}
	}
	return st, nil
}

// scanRecord reads a row of recordColumns.
func scanRecord(row pgx.CollectableRow) (message.Record, error) {
	var (
		s                                   stateScan
		r                                   message.Record
		seq                                 int64
		channel, priority                   string
		template, metadata, fingerprint     []byte
		to, subject, body, html, clientRef  zeronull.Text
		callback, key, traceparent, request zeronull.Text
		sendAt                              zeronull.Timestamptz
		ttl                                 zeronull.Int4
		requeueOf                           zeronull.UUID
	)
	err := row.Scan(append(s.targets(), &seq, &r.Test, &r.Account, &channel, &priority, &to, &subject, &body, &html, &template,
		&clientRef, &metadata, &callback, &key, &fingerprint, &traceparent, &request, &sendAt, &ttl, &requeueOf, &r.Callback)...)
	if err != nil {
		return r, &answerError{err}
	}
	r.ID, r.Seq = s.id, uint64(seq)
	if r.State, err = s.state(); err != nil {
		return r, &answerError{err}
	}
	var known [2]bool
	r.Channel, known[0] = message.ParseChannel(channel)
	r.Priority, known[1] = message.ParsePriority(priority)
	if !known[0] || !known[1] {
		return r, &answerError{fmt.Errorf("message %s has the unknown channel %q or priority %q", r.ID, channel, priority)}
	}
	r.To, r.Subject, r.Body, r.HTML = string(to), string(subject), string(body), string(html)
	r.ClientRef, r.CallbackURL, r.IdempotencyKey = string(clientRef), string(callback), string(key)
	r.TraceParent, r.RequestID = string(traceparent), string(request)
	r.SendAt, r.TTL, r.RequeueOf = time.Time(sendAt), time.Duration(ttl)*time.Second, message.ID(requeueOf)
	copy(r.Fingerprint[:], fingerprint)
	if err := readPayload(&r, template, metadata); err != nil {
		return r, &answerError{err}
	}
	return r, nil
}

// readPayload reads the payload's json.
func readPayload(r *message.Record, template, metadata []byte) error {
	if template != nil {
		var t templateJSON
		if err := json.Unmarshal(template, &t); err != nil {
			return fmt.Errorf("read template of message %s: %w", r.ID, err)
		}
		r.Template = (*message.Template)(&t)
	}
	if metadata != nil {
		var pairs map[string]string
		if err := json.Unmarshal(metadata, &pairs); err != nil {
			return fmt.Errorf("read metadata of message %s: %w", r.ID, err)
		}
		r.Metadata = message.MetadataFrom(pairs)
	}
	return nil
}

// idAt is the smallest id of that millisecond, for bounds.
func idAt(ms int64) message.ID {
	const last = 1<<48 - 1
	ms = max(0, min(ms, last))
	var id message.ID
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// quoted is a name of ours as a literal. The planner sees literals, and so can
// use an index that is there for some of them only.
func quoted(name fmt.Stringer) string { return "'" + name.String() + "'" }

func placeholder(n int) string { return "$" + strconv.Itoa(n) }
