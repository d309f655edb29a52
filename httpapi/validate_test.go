package httpapi

import (
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	want := time.Date(2026, 11, 23, 13, 20, 0, 0, time.UTC)
	for text, ok := range map[string]bool{
		"2026-11-23T13:20:00Z":              true,
		"2026-11-23t13:20:00z":              true, // RFC 3339 §5.6, NOTE
		"2026-11-23T13:20:00.000000000000Z": true,
		"2026-11-23T15:20:00+02:00":         true,
		"2026-11-23T13:20:00-00:00":         true,
		"2026-11-22T13:21:00-23:59":         true,
		"2026-11-23T13:20:00":               false,
		"2026-11-23 13:20:00Z":              false,
		"2026-11-23":                        false,
		"2026-11-23T13:20Z":                 false,
		"2026-11-23T9:20:00Z":               false,
		"2026-11-23T13:20:00,0Z":            false,
		"2026-11-23T13:20:00.Z":             false,
		"2026-11-24T13:20:00+24:00":         false,
		"2026-11-24T13:20:00+23:60":         false,
		"2026-11-23T13:20:00+0200":          false,
		"2026-11-23T24:00:00Z":              false,
		"2026-02-30T00:00:00Z":              false,
		"2026-11-23T13:20:00Z ":             false,
		"":                                  false,
	} {
		got, accepted := parseTime(text)
		if accepted != ok || ok && !got.Equal(want) {
			t.Errorf("%q: got %s, %v, want %v", text, got, accepted, ok)
		}
	}
}

func TestWebURL(t *testing.T) {
	for text, want := range map[string]bool{
		"https://x.example":             true,
		"https://x.example:/":           true,
		"https://x.example:1/":          true,
		"https://x.example:65535/a?b#c": true,
		"https://[2001:db8::1]:443/":    true,
		"https://x.example:0/":          false,
		"https://x.example:65536/":      false,
		"https://x.example:99999999999": false,
		"https://u:p@x.example/":        false,
		"https:///x":                    false,
		"http://x.example/":             false,
	} {
		if got := webURL(text, false); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

// TestListBeforeAllIsEmpty: a time before all messages is a filter, and not none.
func TestListBeforeAllIsEmpty(t *testing.T) {
	for _, before := range []string{"0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "1970-01-01T00:00:00Z"} {
		q, p := parseQuery(account, "accepted_before="+before)
		if p != nil || !q.AcceptedBefore.Equal(time.UnixMilli(0)) {
			t.Errorf("%s: got %s, %v", before, q.AcceptedBefore, p)
		}
	}
}
