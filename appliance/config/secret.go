package config

import (
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
)

const redacted = "(redacted)"

// Secret is text that must not be printed: whatever formats, logs or encodes it
// sees a placeholder. Only Reveal gives it away.
type Secret string

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String returns a placeholder, empty for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter, so that no verb reaches the text.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// DSN names a database and may hold its password, which is never printed.
type DSN string

// Reveal returns the name with its password.
func (d DSN) Reveal() string { return string(d) }

// The values of keywords that hold a secret, as libpq quotes them. "sslpassword"
// is the passphrase of a client key.
var secretKeyword = regexp.MustCompile(`(?i)\b((?:ssl)?password)\s*=\s*('(?:[^'\\]|\\.)*'?|(?:\\.|[^\s\\])*)`)

// String returns the name with its password replaced. What cannot be read as
// one is replaced altogether.
func (d DSN) String() string {
	text := string(d)
	if text == "" {
		return ""
	}
	if !isURL(text) {
		if !strings.Contains(text, "=") || strings.Contains(text, "://") {
			return redacted
		}
		return secretKeyword.ReplaceAllString(text, "${1}=xxxxx")
	}
	u, err := url.Parse(text)
	if err != nil {
		return redacted
	}
	query := u.Query()
	for key := range query {
		if secretKeyword.MatchString(key + "=") {
			query.Set(key, "xxxxx")
		}
	}
	u.RawQuery = query.Encode()
	return u.Redacted()
}

// Format implements fmt.Formatter, so that no verb reaches the password.
func (d DSN) Format(f fmt.State, _ rune) { fmt.Fprint(f, d.String()) }

// LogValue implements slog.LogValuer.
func (d DSN) LogValue() slog.Value { return slog.StringValue(d.String()) }

// MarshalText implements encoding.TextMarshaler.
func (d DSN) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func isURL(text string) bool {
	return strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://")
}

// check says what is wrong with the name, without quoting it.
func (d DSN) check() string {
	text := string(d)
	switch {
	case text == "":
		return ""
	case isURL(text):
		// url.Parse quotes its input in its errors, so they must not be passed on.
		if u, err := url.Parse(text); err != nil || u.Opaque != "" {
			return "cannot be read as a URL; write postgres://user@host:5432/database and escape special characters of a password as %XX"
		}
		return ""
	case strings.Contains(text, "://") || !strings.Contains(text, "="):
		return "is no PostgreSQL address; write postgres://user@host:5432/database, or host=… dbname=… user=…"
	}
	return ""
}
