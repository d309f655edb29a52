package whatsapp

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"forebay/wal/message"
)

// MaxHook is the longest body that Meta posts, in bytes, and a little more.
const MaxHook = 4 << 20

// maxUpdates is how many updates one body may hold; Meta promises 1,000.
const maxUpdates = 10_000

// maxID bounds Meta's name for a message, in bytes: no longer one is kept of what
// was sent.
const maxID = 512

// VerifySignature reports whether the value of X-Hub-Signature-256 is that of
// the raw body under the app's secret. With no secret nothing is genuine.
func VerifySignature(secret, header string, body []byte) bool {
	text, ok := strings.CutPrefix(header, "sha256=")
	if !ok || secret == "" {
		return false
	}
	got, err := hex.DecodeString(text)
	if err != nil {
		return false
	}
	sum := hmac.New(sha256.New, []byte(secret))
	sum.Write(body)
	return hmac.Equal(got, sum.Sum(nil))
}

// VerifySubscription answers the request by which Meta checks who owns the hook:
// the challenge to be sent back, and whether the request has the verify token.
func VerifySubscription(token string, query url.Values) (challenge string, ok bool) {
	// Of hashes, so that not even the length shows in the time it takes.
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(query.Get("hub.verify_token")))
	same := subtle.ConstantTimeCompare(want[:], got[:]) == 1
	if token == "" || !same || query.Get("hub.mode") != "subscribe" {
		return "", false
	}
	challenge = query.Get("hub.challenge")
	for i := range len(challenge) { // it goes into an answer: let it be nothing but a word
		if c := challenge[i]; c <= ' ' || c > '~' || c == '<' || c == '>' || c == '&' {
			return "", false
		}
	}
	return challenge, challenge != "" && len(challenge) <= 256
}

// What is needed of a hook's body. Everything else (incoming messages, changes
// of templates) is skipped.
type hook struct {
	Object string `json:"object"`
	Entry  []struct {
		Changes []struct {
			Field string         `json:"field"`
			Value jsontext.Value `json:"value"`
		} `json:"changes"`
	} `json:"entry"`
}

type hookValue struct {
	Statuses []update `json:"statuses"`
}

type update struct {
	ID        string         `json:"id"`
	Status    string         `json:"status"`
	Timestamp jsontext.Value `json:"timestamp"` // a string of Unix seconds, so far
	Callback  string         `json:"biz_opaque_callback_data"`
	Errors    []struct {
		Code int `json:"code"`
	} `json:"errors"`
}

// lenient reads what Meta writes: it may repeat a name, and its texts may hold
// what is no UTF-8 once their escapes are undone.
var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// ParseReports reads a hook's body, whose signature was verified. What is not an
// update of a message is skipped and no error; an error means that the body is
// not Meta's, and that to ask for it again would be no use.
func ParseReports(body []byte) ([]message.Report, error) {
	var h hook
	if err := json.Unmarshal(body, &h, lenient); err != nil {
		return nil, fmt.Errorf("read WhatsApp's updates: %w", err)
	}
	if h.Object != "whatsapp_business_account" {
		return nil, errors.New("read WhatsApp's updates: of another object")
	}
	var reports []message.Report
	for _, entry := range h.Entry {
		for _, change := range entry.Changes {
			var v hookValue
			if change.Field != "messages" || json.Unmarshal(change.Value, &v, lenient) != nil {
				continue
			}
			for _, u := range v.Statuses {
				if r, ok := u.report(); ok {
					reports = append(reports, r)
				}
				if len(reports) > maxUpdates {
					return nil, fmt.Errorf("read WhatsApp's updates: more than %d in one body", maxUpdates)
				}
			}
		}
	}
	return reports, nil
}

func (u *update) report() (message.Report, bool) {
	r := message.Report{Channel: message.ChannelWhatsApp}
	if len(u.ID) <= maxID {
		r.ProviderID = u.ID
	}
	switch u.Status {
	case "sent":
		r.Status = message.Sent
	case "delivered":
		r.Status = message.Delivered
	case "read", "played": // a voice message that was played was read
		r.Status = message.Read
	case "failed":
		r.Status = message.Undelivered
		r.Failure = u.failure()
	default: // "deleted", and what Meta may yet invent
		return r, false
	}
	if id, err := message.ParseID(u.Callback); err == nil {
		r.ID = id
	}
	seconds, err := strconv.ParseInt(unquoted(u.Timestamp), 10, 64)
	if err != nil || seconds < 1_000_000_000 || seconds > 1<<36 {
		return r, false
	}
	r.At = time.Unix(seconds, 0).UTC()
	return r, r.Valid()
}

func (u *update) failure() *message.Failure {
	code := noCode
	if len(u.Errors) > 0 {
		code = u.Errors[0].Code
	}
	row := lookUp(200, code, 0, false)
	f := &message.Failure{Code: row.ours, Category: row.category, Message: row.text}
	if code == noCode {
		f.Code, f.Category, f.Message = unreached, "recipient", "WhatsApp could not deliver the message and did not say why."
		return f
	}
	f.ChannelCode = strconv.Itoa(code)
	return f
}
