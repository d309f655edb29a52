package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"

	"forebay/appliance/config"
)

// print writes v as JSON, or what text writes, by --output.
func (a *app) print(v any, text func(w io.Writer)) error {
	if a.output == "json" {
		return a.printJSON(v, indented)
	}
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	text(t)
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func (a *app) printJSON(v any, options ...json.Options) error {
	out, err := json.Marshal(v, append(options, json.Deterministic(true))...)
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	if _, err := a.stdout.Write(append(out, '\n')); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// row writes cells for a tabwriter. A value may come from a client: what could
// break the table or drive the terminal is shown, not sent.
func row(w io.Writer, cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = visible(fmt.Sprint(c))
	}
	fmt.Fprintln(w, strings.TrimRight(strings.Join(texts, "\t"), "\t"))
}

// visible replaces control characters.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '�'
		}
		return r
	}, s)
}

// local is a time for people, in their zone; "-" for none.
func local(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// orDash is s, or "-" for an empty cell.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// parseMoment reads a time: RFC 3339, a date, or how long ago (15m, 2d).
func parseMoment(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation("2006-01-02", text, time.Local); err == nil {
		return t, nil
	}
	if d, err := config.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, usagef("--%s %q is no time; write 2026-11-23, 2026-11-23T13:20:00Z, or how long ago: 15m, 2d", flag, text)
}

// object prints the members of a JSON object as a table, in their order, times
// in the local zone.
func object(w io.Writer, v jsontext.Value) error {
	d := jsontext.NewDecoder(strings.NewReader(string(v)))
	if token, err := d.ReadToken(); err != nil || token.Kind() != '{' {
		return errors.Join(errors.New("the answer is no object"), err)
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		key := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		row(w, key, cell(value))
	}
	return nil
}

func cell(v jsontext.Value) string {
	var s string
	if v.Kind() != '"' || json.Unmarshal(v, &s) != nil {
		return string(v)
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.Local().Format("2006-01-02 15:04:05.000")
	}
	return s
}

// isTerminal reports whether somebody sits at a standard stream: a line there may
// move, and a question is answered. /dev/null is a character device, too, and none.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
