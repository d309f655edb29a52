package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"100ms": 100 * time.Millisecond, "0": 0, "0s": 0, "1d": day, "90d": 90 * day, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute,
		"00:01:30": 90 * time.Second, "00:00:00.100": 100 * time.Millisecond, "24:00:00": day, "1:00:00.5": time.Hour + 500*time.Millisecond,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"": "not a duration", "5": "without a unit", "1.5": "without a unit", "-5s": "negative", "1d-5h": "negative", "d": "not a duration",
		"1d5": "without a unit", "-1d": "not a duration", "00:30": "three parts", "00:60:00": "go to 59", "00:00:1": "three parts", "00:00:00.": "three parts",
		"00:00:-1": "three parts", "99999999999h": "not a duration", "70000d": "not a duration", "1 h": "not a duration"} {
		if got, err := ParseDuration(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "1000": 1000, "256KiB": 256 * KiB, "10 GiB": 10 * GiB, "1TiB": TiB} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "KiB", "1KB", "1.5GiB", "-1", "+1", "0x10", "1 000", "9999999999999TiB", "99999999999999999999"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestUnitsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(60000*day)).Draw(t, "duration"))
		if rapid.Bool().Draw(t, "whole") {
			d = d.Truncate(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour, day}).Draw(t, "unit"))
		}
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("%s: got %v, %v; want %v", FormatDuration(d), got, err, d)
		}
		s := Size(rapid.Int64Range(0, 1<<62).Draw(t, "size"))
		if got, err := ParseSize(s.String()); err != nil || got != s {
			t.Fatalf("%s: got %v, %v; want %d", s, got, err, s)
		}
	})
}

// No way of printing a configuration gives a secret away.
func TestSecretsAreNotPrinted(t *testing.T) {
	for _, dsn := range []string{"postgres://u:hunter2@h/d?sslmode=disable", "postgres://h/d?password=hunter2&sslpassword=hunter2", "host=h password=hunter2 dbname=d",
		"host=h PASSWORD = 'hunter2 \\' hunter2'", "hunter2", "mysql://u:hunter2@h=d", "postgres://u:hunter2%zz@h"} {
		c := Default()
		c.Database.URL, c.HTTP.AdminToken, c.Channels.Email.Password = DSN(dsn), "hunter2", "hunter2"
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
			fmt.Fprintf(&out, verb+"\n", c)
			fmt.Fprintf(&out, verb+"\n", &c.Database)
			fmt.Fprintf(&out, verb+verb+"\n", c.Database.URL, c.HTTP.AdminToken)
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "config", c, "dsn", c.Database.URL, "token", c.HTTP.AdminToken)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "config", c, "dsn", c.Database.URL, "token", c.HTTP.AdminToken)
		if err := json.NewEncoder(&out).Encode(c); err != nil {
			t.Fatal(err)
		}
		if err := json.NewEncoder(&out).Encode(c.Tree()); err != nil {
			t.Fatal(err)
		}
		out.WriteString(c.YAML(Sources{}))
		if strings.Contains(out.String(), "hunter2") || strings.Contains(out.String(), fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("%s: a secret was printed:\n%s", DSN(dsn), out.String())
		}
	}
	if got := DSN("postgres://u:p@h:5/d").String(); got != "postgres://u:xxxxx@h:5/d" {
		t.Errorf("got %s", got)
	}
	if Secret("").String() != "" || DSN("").String() != "" {
		t.Error("an empty secret is shown as one")
	}
}

func TestNearest(t *testing.T) {
	keys := keysOf(reflect.TypeFor[Buffer]())
	for word, want := range map[string]string{"capcity": "capacity", "batchsize": "batch_size", "bacth_size": "batch_size", "max_disk": "", "x": "", "batch_timeuot": "batch_timeout"} {
		if got := nearest(word, keys); got != want {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"ab", "ba", 1}, {"kitten", "sitting", 3}} {
		if got := distance(tc.a, tc.b); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
