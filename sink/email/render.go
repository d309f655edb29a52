package email

import (
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"forebay/wal/message"
)

// MetadataUnsubscribe is the key of the metadata by which a client gives a mail a
// List-Unsubscribe (RFC 2369): an https URL, which then also takes the one-click
// POST of RFC 8058, or a mailto URL.
const MetadataUnsubscribe = "list_unsubscribe"

var errUnsubscribe = errors.New("not an https or mailto URL of plain characters")

// render makes the mail of a message.
func render(r *message.Record, from *mail.Address, to string) (*gomail.Msg, error) {
	m := gomail.NewMsg(gomail.WithNoDefaultUserAgent(), gomail.WithCharset(gomail.CharsetUTF8), gomail.WithEncoding(gomail.EncodingQP))
	if err := errors.Join(m.EnvelopeFrom(from.Address), m.FromFormat(from.Name, from.Address), m.To(to)); err != nil {
		return nil, fmt.Errorf("render mail: %w", err)
	}
	_, domain, _ := strings.Cut(from.Address, "@")
	m.SetMessageIDWithValue(r.ID.String() + "@" + domain)
	m.SetDateWithValue(date(r))
	m.Subject(r.Subject)
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's vacation should answer
	if r.TraceParent != "" {
		m.SetGenHeader("Traceparent", r.TraceParent)
	}
	if link := metadata(&r.Message, MetadataUnsubscribe); link != "" {
		if err := unsubscribe(m, link); err != nil {
			return nil, fmt.Errorf("render mail: list_unsubscribe: %w", err)
		}
	}
	switch {
	case r.HTML == "":
		m.SetBodyString(gomail.TypeTextPlain, r.Body)
	case r.Body == "":
		m.SetBodyString(gomail.TypeTextHTML, r.HTML)
	default:
		m.SetBodyString(gomail.TypeTextPlain, r.Body)
		m.AddAlternativeString(gomail.TypeTextHTML, r.HTML)
	}
	return m, nil
}

// date is the mail's: that of its acceptance, or the one it was to wait for. An
// attempt's own would differ from repeat to repeat.
func date(r *message.Record) (at time.Time) {
	at = r.AcceptedAt()
	if r.SendAt.After(at) {
		at = r.SendAt
	}
	return at
}

func metadata(m *message.Message, key string) string {
	for _, p := range m.Metadata {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}

// unsubscribe sets List-Unsubscribe. The library writes the link as it is, so it
// is checked here to the character.
func unsubscribe(m *gomail.Msg, link string) error {
	u, err := checkUnsubscribe(link)
	if err != nil {
		return err
	}
	if u.Scheme == "https" {
		return m.SetListUnsubscribeOneClick(link)
	}
	m.SetListUnsubscribe(link)
	return nil
}

func checkUnsubscribe(link string) (*url.URL, error) {
	if len(link) > 900 { // a header line has at most 998 characters
		return nil, errUnsubscribe
	}
	for i := range len(link) {
		if c := link[i]; c <= ' ' || c > '~' || strings.IndexByte("<>\"\\,", c) >= 0 {
			return nil, errUnsubscribe
		}
	}
	u, err := url.Parse(link)
	if err != nil || u.Scheme != "https" && u.Scheme != "mailto" || u.Scheme == "https" && u.Hostname() == "" || u.Scheme == "mailto" && u.Opaque == "" {
		return nil, errUnsubscribe
	}
	return u, nil
}
