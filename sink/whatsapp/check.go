package whatsapp

import (
	"strings"
	"unicode/utf8"

	"github.com/nyaruka/phonenumbers"

	"forebay/wal/message"
)

// The limits of the Cloud API.
const (
	maxBody      = 4096 // characters of a text
	maxParameter = 1024 // characters of one parameter: no template's body is longer
	maxName      = 512  // characters of a template's name
)

// Check implements sink.Channel: whether the number can exist, and whether text
// or template has the shape that the API takes.
func (c *Channel) Check(m *message.Message) *message.Failure {
	if strings.HasPrefix(m.To, "+000") && m.Test {
		return nil // a recipient that chooses a test's outcome
	}
	// Without the plus and the country code Meta would put the sender's own
	// country before the number, and deliver to somebody else.
	number, err := phonenumbers.Parse(m.To, "")
	if !strings.HasPrefix(m.To, "+") || len(m.To) < len("+1234567") || err != nil || !phonenumbers.IsPossibleNumber(number) {
		return &message.Failure{Code: "invalid_recipient", Category: "recipient", Message: "The number cannot exist in its country's plan."}
	}
	if m.Template != nil {
		return checkTemplate(m.Template)
	}
	if n := utf8.RuneCountInString(m.Body); strings.TrimSpace(m.Body) == "" || n > maxBody {
		return &message.Failure{Code: badBody, Category: "content", Message: "The text must have 1 to 4096 characters that are not all space."}
	}
	return nil
}

func checkTemplate(t *message.Template) *message.Failure {
	wrong := func(text string) *message.Failure {
		return &message.Failure{Code: template, Category: "content", Message: text}
	}
	if t.Name == "" || len(t.Name) > maxName || strings.ContainsFunc(t.Name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_'
	}) {
		return wrong("A template's name is of a-z, 0-9 and '_'.")
	}
	if !isLanguage(t.Language) {
		return wrong("A template's language is a code such as en or en_US.")
	}
	for _, p := range t.Parameters {
		switch {
		case p == "" || utf8.RuneCountInString(p) > maxParameter:
			return wrong("A template's parameter has 1 to 1024 characters.")
		case strings.ContainsAny(p, "\n\r\t") || strings.Contains(p, "     "):
			// Meta refuses these with 132018.
			return wrong("A template's parameter must not have line breaks, tabs or more than four spaces in a row.")
		}
	}
	return nil
}

// isLanguage reports whether s is ll, lll or ll_CC, as Meta writes them.
func isLanguage(s string) bool {
	lang, region, has := strings.Cut(s, "_")
	letters := func(s string, low, high byte) bool {
		for i := range len(s) {
			if s[i] < low || s[i] > high {
				return false
			}
		}
		return len(s) >= 2 && len(s) <= 3
	}
	return letters(lang, 'a', 'z') && (!has || letters(region, 'A', 'Z'))
}
