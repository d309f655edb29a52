package httpapi

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"forebay/wal/message"

	"github.com/go-json-experiment/json"
)

const (
	defaultLimit = 20
	maxLimit     = 100
)

// get answers how far one message has got: GET /v1/messages/{id}.
func (a *API) get(x *exchange) error {
	who, err := a.authenticate(x)
	if err != nil {
		return err
	}
	if p := checkAccept(x.r.Header, typeJSON); p != nil {
		return p
	}
	id, err := message.ParseID(x.params.ByName("id"))
	if err != nil {
		return ErrNotFound // what is no id of ours names no message
	}
	record, err := a.cfg.Messages.Get(x.r.Context(), who.Account, id)
	if err != nil {
		return fmt.Errorf("get message %s: %w", id, err)
	}
	return x.writeJSON(ViewOf(&record))
}

// Page is the answer to GET /v1/messages.
type Page struct {
	Data       []View `json:"data"` // newest first
	HasMore    bool   `json:"has_more"`
	NextCursor string `json:"next_cursor,omitzero"` // with HasMore
}

// list answers GET /v1/messages.
func (a *API) list(x *exchange) error {
	who, err := a.authenticate(x)
	if err != nil {
		return err
	}
	if p := checkAccept(x.r.Header, typeJSON); p != nil {
		return p
	}
	if p := a.spare(x); p != nil {
		return p
	}
	query, p := parseQuery(who.Account, x.r.URL.RawQuery)
	if p != nil {
		return p
	}
	page, err := a.cfg.Messages.List(x.r.Context(), query)
	if err != nil {
		return fmt.Errorf("list messages: %w", err)
	}
	answer := Page{Data: make([]View, 0, len(page.Records))}
	for i := range page.Records {
		answer.Data = append(answer.Data, ViewOf(&page.Records[i]))
	}
	if n := len(page.Records); page.More && n > 0 {
		answer.HasMore = true
		answer.NextCursor = cursor(&query, page.Records[n-1].ID)
	}
	return x.writeJSON(answer)
}

func (x *exchange) writeJSON(v any) error { return x.writeJSONStatus(http.StatusOK, v) }

func (x *exchange) writeJSONStatus(status int, v any) error {
	body, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	h := x.w.Header()
	h[headerContentType] = valuesJSON
	h["Cache-Control"] = valuesNoStore
	x.write(status, body)
	return nil
}

var parameterNames = []string{"status", "channel", "to", "client_ref", "accepted_after", "accepted_before", "limit", "cursor"}

// parseQuery reads the parameters of a list. Unknown ones are refused: a filter
// with a slip in its name would list everything.
func parseQuery(account, raw string) (message.Query, *Problem) {
	q := message.Query{Account: account, Limit: defaultLimit}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, malformed("The query string cannot be read.")
	}
	var wrong []FieldError
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !slices.Contains(parameterNames, name) {
			p := malformed("The query string has a parameter that is not known.")
			p.Errors = []FieldError{{Parameter: name, Detail: "is not one of " + strings.Join(parameterNames, ", ")}}
			return q, p
		}
		if len(values[name]) > 1 {
			wrong = append(wrong, FieldError{Parameter: name, Detail: "is there more than once"})
			continue
		}
		if name == "cursor" {
			continue // it is bound to all others
		}
		if rule := setParameter(&q, name, values[name][0]); rule != "" {
			wrong = append(wrong, FieldError{Parameter: name, Detail: rule})
		}
	}
	if c := values["cursor"]; len(c) == 1 && len(wrong) == 0 {
		if q.Before, err = parseCursor(&q, c[0]); err != nil {
			wrong = append(wrong, FieldError{Parameter: "cursor", Detail: "is not one that this query was answered with"})
		}
	}
	if len(wrong) > 0 {
		return q, &Problem{Code: CodeInvalid, Detail: "Parameters break rules; all of them are listed.", Errors: wrong}
	}
	return q, nil
}

// setParameter sets one filter, or returns the rule that its value breaks.
func setParameter(q *message.Query, name, value string) (rule string) {
	ok := true
	switch name {
	case "status":
		if q.Status, ok = message.ParseStatus(value); !ok {
			return "is not a status"
		}
	case "channel":
		if q.Channel, ok = message.ParseChannel(value); !ok {
			return "is not a channel"
		}
	case "to":
		q.To = value
		ok = filterText(value)
	case "client_ref":
		q.ClientRef = value
		ok = filterText(value)
	case "accepted_after":
		q.AcceptedAfter, ok = parseTime(value)
	case "accepted_before":
		q.AcceptedBefore, ok = parseTime(value)
		if epoch := time.UnixMilli(0); ok && q.AcceptedBefore.Before(epoch) {
			q.AcceptedBefore = epoch // no message is as old; the zero time would be no filter
		}
	case "limit":
		var err error
		if q.Limit, err = strconv.Atoi(value); err != nil || q.Limit < 1 || q.Limit > maxLimit {
			return fmt.Sprintf("must be from 1 to %d", maxLimit)
		}
	}
	switch {
	case ok:
		return ""
	case strings.HasPrefix(name, "accepted_"):
		return "must be a time in RFC 3339, such as 2026-11-23T13:20:00Z"
	}
	return "must be text in UTF-8, not empty, without U+0000"
}

// filterText refuses what no message can hold, and the database would choke on.
func filterText(s string) bool {
	return s != "" && strings.ToValidUTF8(s, "") == s && !strings.Contains(s, "\x00")
}

var errCursor = errors.New("not a cursor of this query")

const cursorSum = 8 // bytes

// cursor names the place behind id in the answer to q: the id, and a sum over
// everything that decides the order of the answer. It is no secret, and gives
// no access: a query is bound to its account anyway. The sum is there so that a
// cursor that is used with other filters is refused instead of skipping
// messages.
func cursor(q *message.Query, id message.ID) string {
	sum := cursorSumOf(q, id)
	return base64.RawURLEncoding.EncodeToString(append(id[:], sum[:]...))
}

func cursorSumOf(q *message.Query, id message.ID) (sum [cursorSum]byte) {
	h := sha256.New()
	fmt.Fprintf(h, "cursor 1 %q %d %d %q %q %d %d %s", q.Account, q.Status, q.Channel, q.To, q.ClientRef,
		unixMilli(q.AcceptedAfter), unixMilli(q.AcceptedBefore), id)
	copy(sum[:], h.Sum(nil))
	return sum
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func parseCursor(q *message.Query, text string) (message.ID, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	var id message.ID
	if err != nil || len(raw) != len(id)+cursorSum {
		return message.ID{}, errCursor
	}
	copy(id[:], raw)
	if sum := cursorSumOf(q, id); !id.Valid() || string(sum[:]) != string(raw[len(id):]) {
		return message.ID{}, errCursor
	}
	return id, nil
}
