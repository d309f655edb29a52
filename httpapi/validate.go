package httpapi

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"forebay/wal/message"
)

// The limits of a Submission in openapi.yaml, in characters unless said otherwise.
const (
	maxWhatsAppBody  = 4096
	maxClientRef     = 100
	maxMetadata      = 16 // pairs
	maxMetadataKey   = 64
	maxMetadataValue = 512
	maxTo            = 1024 // bytes: the store has an index on it
	maxURL           = 2048 // bytes
	maxAhead         = 35 * 24 * time.Hour
)

// validation checks one message by the rules of openapi.yaml and collects every
// field that breaks one. What is checked here is shape only: whether a number
// or a host exists is found out after acceptance.
type validation struct {
	errors []FieldError
	plain  bool // http:// will do
}

func (v *validation) bad(f field, rule string) {
	v.errors = append(v.errors, FieldError{Pointer: f.pointer(), Detail: rule})
}

// check fills the rest of m from in, and returns a problem if a field breaks its
// rule or the plan lacks the channel.
func (a *API) check(m *message.Message, in *form, who *Principal, now time.Time) *Problem {
	open := a.channels.Load()
	v := validation{plain: open&plainHTTP != 0}
	v.channel(m, in, ChannelSet(open))
	if m.Channel != 0 && !who.Channels.Has(m.Channel) {
		return &Problem{Code: CodeForbidden, Detail: "The account's plan does not have channel " + m.Channel.String() + "."}
	}
	if m.Channel != 0 { // without a channel the rules that depend on it say nothing
		v.recipient(m)
		v.content(m)
	}
	v.priority(m, in)
	v.times(m, in, now)
	if longerThan(m.ClientRef, maxClientRef) {
		v.bad(fieldClientRef, fmt.Sprintf("must have at most %d characters", maxClientRef))
	}
	v.metadata(m, in)
	if m.CallbackURL != "" && !webURL(m.CallbackURL, v.plain) {
		v.bad(fieldCallbackURL, "must be an https URL")
	}
	if len(v.errors) > 0 {
		return &Problem{Code: CodeInvalid, Detail: "The message breaks rules; all of them are listed.", Errors: v.errors}
	}
	return nil
}

func (v *validation) channel(m *message.Message, in *form, enabled ChannelSet) {
	if in.channel == "" {
		v.bad(fieldChannel, "is required")
		return
	}
	c, ok := message.ParseChannel(in.channel)
	switch {
	case !ok:
		v.bad(fieldChannel, "must be one of store, whatsapp, email, webhook")
	case !enabled.Has(c):
		v.bad(fieldChannel, "is not enabled on this appliance")
	default:
		m.Channel = c
	}
}

func (v *validation) recipient(m *message.Message) {
	if m.To == "" {
		if m.Channel != message.ChannelStore {
			v.bad(fieldTo, "is required")
		}
		return
	}
	switch m.Channel {
	case message.ChannelWhatsApp:
		if !e164(m.To) {
			v.bad(fieldTo, "must be a number in E.164: + and 7 to 15 digits")
		}
	case message.ChannelEmail:
		if !emailAddress(m.To) {
			v.bad(fieldTo, "must be an e-mail address, without a name")
		}
	case message.ChannelWebhook:
		if !webURL(m.To, v.plain) {
			v.bad(fieldTo, "must be an https URL")
		}
	default:
		if len(m.To) > maxTo || hasControl(m.To) {
			v.bad(fieldTo, fmt.Sprintf("must have at most %d bytes and no control characters", maxTo))
		}
	}
}

func (v *validation) content(m *message.Message) {
	email, whatsapp := m.Channel == message.ChannelEmail, m.Channel == message.ChannelWhatsApp
	switch {
	case m.HTML != "" && !email:
		v.bad(fieldHTML, "is for channel email only")
	case m.Body == "" && m.HTML == "" && m.Template == nil:
		v.bad(fieldBody, "is required")
	}
	if whatsapp && longerThan(m.Body, maxWhatsAppBody) {
		v.bad(fieldBody, fmt.Sprintf("must have at most %d characters for channel whatsapp", maxWhatsAppBody))
	}
	switch {
	case m.Subject != "" && !email:
		v.bad(fieldSubject, "is for channel email only")
	case m.Subject == "" && email:
		v.bad(fieldSubject, "is required for channel email")
	case strings.ContainsAny(m.Subject, "\r\n"):
		v.bad(fieldSubject, "must be one line")
	}
	if t := m.Template; t != nil {
		if !whatsapp {
			v.bad(fieldTemplate, "is for channel whatsapp only")
		}
		if m.Body != "" && whatsapp { // what is sent is the one or the other
			v.bad(fieldBody, "must not stand beside a template, which is sent without it")
		}
		if t.Name == "" {
			v.errors = append(v.errors, FieldError{Pointer: "#/template/name", Detail: "is required"})
		}
		if t.Language == "" {
			v.errors = append(v.errors, FieldError{Pointer: "#/template/language", Detail: "is required"})
		}
	}
}

func (v *validation) priority(m *message.Message, in *form) {
	m.Priority = message.Normal
	if !in.has(fieldPriority) {
		return
	}
	p, ok := message.ParsePriority(in.priority)
	if !ok {
		v.bad(fieldPriority, "must be one of critical, high, normal, low")
	}
	m.Priority = p
}

func (v *validation) times(m *message.Message, in *form, now time.Time) {
	if in.has(fieldSendAt) {
		var ok bool
		m.SendAt, ok = parseTime(in.sendAt)
		switch {
		case !ok:
			v.bad(fieldSendAt, "must be a time in RFC 3339, such as 2026-11-23T13:20:00Z")
		case m.SendAt.After(now.Add(maxAhead)):
			v.bad(fieldSendAt, "must be at most 35 days ahead")
		}
		m.SendAt = m.SendAt.UTC().Truncate(time.Millisecond)
	}
	if in.has(fieldTTLSeconds) {
		if in.ttl < 1 || in.ttl > int64(maxTTL/time.Second) {
			v.bad(fieldTTLSeconds, fmt.Sprintf("must be from 1 to %d", maxTTL/time.Second))
			return
		}
		m.TTL = time.Duration(in.ttl) * time.Second
	}
}

// parseTime reads a time of RFC 3339 §5.6. Package time takes more than that: an
// hour of one digit, a comma before the fraction, an offset of 24 hours
// (go.dev/issue/54580); and less: T and Z may be small.
func parseTime(text string) (time.Time, bool) {
	text = strings.ToUpper(text)
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || text[len("2006-01-02T15")] != ':' || strings.Contains(text, ",") {
		return time.Time{}, false
	}
	if n := len(text); text[n-1] != 'Z' && (text[n-5:n-3] > "23" || text[n-2:] > "59") {
		return time.Time{}, false
	}
	return t, true
}

func (v *validation) metadata(m *message.Message, in *form) {
	if in.metadata > maxMetadata {
		v.bad(fieldMetadata, fmt.Sprintf("must have at most %d pairs", maxMetadata))
	}
	for _, p := range m.Metadata {
		at := ""
		switch {
		case p.Key == "" || longerThan(p.Key, maxMetadataKey):
			at = fmt.Sprintf("must have a key of 1 to %d characters", maxMetadataKey)
		case longerThan(p.Value, maxMetadataValue):
			at = fmt.Sprintf("must have at most %d characters", maxMetadataValue)
		default:
			continue
		}
		v.errors = append(v.errors, FieldError{Pointer: "#/metadata/" + escapePointer(p.Key), Detail: at})
	}
}

func longerThan(s string, characters int) bool {
	return len(s) > characters && utf8.RuneCountInString(s) > characters
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

func e164(s string) bool {
	if len(s) < 8 || len(s) > 16 || s[0] != '+' || s[1] == '0' && !testNumber(s) {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// testNumber reports whether s is one of the numbers by which test keys choose
// an outcome. No country code begins with 0.
func testNumber(s string) bool { return strings.HasPrefix(s, "+000") }

// emailAddress checks the shape of an addr-spec (RFC 5321 §4.1.2, lengths of
// §4.5.3.1), without quoted local parts and address literals.
func emailAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	if at < 1 || at > 64 || len(s)-at-1 > 253 || !dotted(s[:at]) {
		return false
	}
	domain := s[at+1:]
	return dotted(domain) && !strings.ContainsAny(domain, "_!#$%&'*+/=?^`{|}~")
}

// dotted reports whether s is a sequence of atoms (RFC 5321) with dots between.
func dotted(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f || r == utf8.RuneError || strings.ContainsRune(`"(),:;<>@[\]`, r) {
			return false
		}
	}
	return true
}

func webURL(s string, plain bool) bool {
	if len(s) > maxURL || hasControl(s) {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || plain && u.Scheme == "http") && u.Hostname() != "" && u.User == nil && port(u.Port())
}

// port reports whether s is the port of a URL; empty: it has none.
func port(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return s == "" || err == nil && n > 0
}
