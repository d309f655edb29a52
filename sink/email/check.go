package email

import (
	"strings"

	"forebay/wal/message"
)

// maxSubject bounds a subject, in bytes: what mail programs show of it is far less.
const maxSubject = 2000

// Check implements sink.Channel: whether the address is one (RFC 5321, 5322,
// internationalised domains), and whether the mail can be written.
func (c *Channel) Check(m *message.Message) *message.Failure {
	if _, _, ok := parseAddress(m.To); !ok {
		return &message.Failure{Code: "invalid_recipient", Category: "recipient", Message: "The address is not an e-mail address."}
	}
	problem := ""
	switch {
	case m.Subject == "" || strings.ContainsAny(m.Subject, "\r\n\x00") || len(m.Subject) > maxSubject:
		problem = "The subject must be one line of at most 2000 bytes."
	case m.Body == "" && m.HTML == "":
		problem = "The mail has no text."
	}
	if link := metadata(m, MetadataUnsubscribe); problem == "" && link != "" {
		if _, err := checkUnsubscribe(link); err != nil {
			problem = "The metadata list_unsubscribe must be an https or mailto URL."
		}
	}
	if problem != "" {
		return &message.Failure{Code: "invalid_content", Category: "content", Message: problem}
	}
	return nil
}
