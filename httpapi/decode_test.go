package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"forebay/wal/message"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func FuzzDecode(f *testing.F) {
	for _, s := range []string{hello, `{}`, `[]`, `{"channel":"email","to":"a@b.example","subject":"s","body":"b","metadata":{"b":"\u00e4","a":"1"},"ttl_seconds":1}`,
		`{"channel":"whatsapp","to":"+4915112345678","template":{"name":"n","language":"de","parameters":["1",""]},"send_at":"2026-11-23T13:20:00.1239Z"}`,
		`{"channel":"store","body":"\ud83d\ude00\u0000"}`, `{"body":"\ud800"}`, `{"channel":"store","body":"x","send_at":"0001-01-01T00:00:00Z"}`} {
		f.Add([]byte(s))
	}
	api := newWorld(f).API
	now := time.Date(2026, 11, 23, 13, 20, 0, 0, time.UTC)
	from := origin{who: Principal{Account: account, Channels: ChannelsOf(message.Channels...)}, key: "k"}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		var m message.Message
		var in form
		if decodeMessage(body, &m, &in) != nil {
			return
		}
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		if !json.Valid(body) {
			t.Fatalf("accepted what is not JSON: %q", body)
		}
		if api.complete(&m, &in, &from, now) != nil {
			return
		}
		for _, s := range stringsOf(&m) {
			if strings.Contains(s, "\x00") || !utf8.ValidString(s) {
				t.Fatalf("accepted %q in %q", s, body)
			}
		}
		again, err := message.Decode(m.Append(nil))
		if err != nil {
			t.Fatalf("accepted %q, and the codec does not: %v", body, err)
		}
		if diff := cmp.Diff(m, again, cmp.Transformer("", normalTemplate)); diff != "" {
			t.Fatalf("message, and decoded again (-want +got):\n%s", diff)
		}
	})
}

// normalTemplate makes no difference between no parameters and none.
func normalTemplate(t message.Template) [3]string {
	return [3]string{t.Name, t.Language, strings.Join(t.Parameters, "\x00")}
}

func stringsOf(m *message.Message) []string {
	all := []string{m.To, m.Subject, m.Body, m.HTML, m.ClientRef, m.CallbackURL}
	for _, p := range m.Metadata {
		all = append(all, p.Key, p.Value)
	}
	if m.Template != nil {
		all = append(append(all, m.Template.Name, m.Template.Language), m.Template.Parameters...)
	}
	return all
}

// What is sent is what is decoded, however it is escaped.
func TestDecodeKeepsEveryCharacter(t *testing.T) {
	text := rapid.StringOfN(rapid.Rune().Filter(func(r rune) bool { return r != 0 && utf8.ValidRune(r) }), 0, 40, -1)
	rapid.Check(t, func(t *rapid.T) {
		want := map[string]any{"channel": "store", "body": text.Draw(t, "body"), "to": text.Draw(t, "to"),
			"client_ref": text.Draw(t, "ref"), "metadata": rapid.MapOfN(text, text, 0, 5).Draw(t, "metadata")}
		body, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "escaped") {
			body = escapeAll(body)
		}
		var m message.Message
		var in form
		if p := decodeMessage(body, &m, &in); p != nil {
			t.Fatalf("%s: %v", body, p)
		}
		if m.Body != want["body"] || m.To != want["to"] || m.ClientRef != want["client_ref"] || in.channel != "store" {
			t.Fatalf("%s: got %+v", body, m)
		}
		if diff := cmp.Diff(message.MetadataFrom(want["metadata"].(map[string]string)), m.Metadata); diff != "" {
			t.Fatalf("metadata (-want +got):\n%s", diff)
		}
	})
}

// escapeAll escapes every character above ASCII, and the letter h.
func escapeAll(body []byte) []byte {
	var b bytes.Buffer
	for _, r := range string(body) {
		switch {
		case r == 'h':
			b.WriteString(`\u0068`)
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

// A decoder that comes from the pool has nothing of the message before, and a
// message keeps its text when the buffer of its body is used again.
func TestProperty18_PooledBuffersAreNotShared(t *testing.T) {
	w := newWorld(t)
	letter := rapid.SampledFrom([]string{"a", "b", `\u00e4`, `\\`, "é"})
	rapid.Check(t, func(t *rapid.T) {
		type sent struct {
			m    message.Message
			want string
		}
		var all []sent
		for i := range rapid.IntRange(2, 6).Draw(t, "messages") {
			text := strings.Repeat(letter.Draw(t, "letter"), rapid.IntRange(1, 800).Draw(t, "length"))
			body := `{"channel":"store","body":"` + text + `","metadata":{"k` + fmt.Sprint(i) + `":"` + text + `"}}`
			if rapid.IntRange(0, 4).Draw(t, "broken") == 0 {
				body = body[:len(body)/2]
			}
			var s sent
			var in form
			held, p := w.receive(request("POST", "/v1/messages", body), &s.m, &in)
			if p != nil {
				continue
			}
			w.bodies.release(held)
			var want struct{ Body string }
			if err := json.Unmarshal([]byte(body), &want); err != nil {
				t.Fatal(err)
			}
			s.want = want.Body
			all = append(all, s)
			scribble(w)
		}
		for _, s := range all {
			if s.m.Body != s.want || s.m.Metadata[0].Value != s.want {
				t.Fatalf("got body %q, want %q", s.m.Body, s.want)
			}
		}
		if n := w.bodies.inUse.Load(); n != 0 {
			t.Fatalf("%d bytes are counted and not in use", n)
		}
	})
}

// scribble takes buffers and decoders from the pools and overwrites them.
func scribble(w *world) {
	var buffers []*buffer
	for range 4 {
		if b, ok := w.bodies.pool.Get().(*buffer); ok {
			whole := b.b[:cap(b.b)]
			for i := range whole {
				whole[i] = '!'
			}
			buffers = append(buffers, b)
		}
		d := decoders.Get().(*decoder)
		if d.text != "" || d.source.Len() != 0 {
			panic("a pooled decoder holds on to a message")
		}
		whole := d.scratch[:cap(d.scratch)]
		for i := range whole {
			whole[i] = '!'
		}
		decoders.Put(d)
	}
	for _, b := range buffers {
		w.bodies.pool.Put(b)
	}
}

func TestUnknownFieldNamesTheNearest(t *testing.T) {
	for name, want := range map[string]string{"chanel": "channel", "bdoy": "body", "sendAt": "send_at", "ttl": "to", "zzzzzzzz": ""} {
		p := unknownField("#", name, fieldNames())
		if got := p.Errors[0].Detail; want != "" && !strings.Contains(got, "did you mean "+want+"?") || want == "" && strings.Contains(got, "mean") {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestRecipients(t *testing.T) {
	tests := []struct {
		channel message.Channel
		to      string
		good    bool
	}{
		{message.ChannelWhatsApp, "+4915112345678", true},
		{message.ChannelWhatsApp, "+0000000001", true}, // a test number
		{message.ChannelWhatsApp, "+1234567", true},
		{message.ChannelWhatsApp, "+123456", false},
		{message.ChannelWhatsApp, "+1234567890123456", false},
		{message.ChannelWhatsApp, "+0915112345678", false},
		{message.ChannelWhatsApp, "4915112345678", false},
		{message.ChannelWhatsApp, "+49 151 123", false},
		{message.ChannelEmail, "a@b", true},
		{message.ChannelEmail, "first.last+tag@sub.example.com", true},
		{message.ChannelEmail, "ü@münchen.example", true},
		{message.ChannelEmail, "Name <a@b.example>", false},
		{message.ChannelEmail, "a@b.example,c@d.example", false},
		{message.ChannelEmail, "a\r\n@b.example", false},
		{message.ChannelEmail, "@b.example", false},
		{message.ChannelEmail, "a@", false},
		{message.ChannelEmail, "a..b@c.example", false},
		{message.ChannelEmail, strings.Repeat("a", 65) + "@b.example", false},
		{message.ChannelEmail, "a@b_c.example", false},
		{message.ChannelWebhook, "https://a.example/x?y=z", true},
		{message.ChannelWebhook, "https://[::1]:8443/", true},
		{message.ChannelWebhook, "http://a.example/", false},
		{message.ChannelWebhook, "https://user:pass@a.example/", false},
		{message.ChannelWebhook, "https:///x", false},
		{message.ChannelWebhook, "https://a.example/\n", false},
		{message.ChannelStore, "anything at all", true},
		{message.ChannelStore, "a\tb", false},
		{message.ChannelStore, strings.Repeat("x", maxTo+1), false},
	}
	for _, tt := range tests {
		var v validation
		v.recipient(&message.Message{Channel: tt.channel, To: tt.to})
		if good := len(v.errors) == 0; good != tt.good {
			t.Errorf("%s %q: good %v, want %v", tt.channel, tt.to, good, tt.good)
		}
	}
}

func TestIdempotencyKeyHeader(t *testing.T) {
	for header, want := range map[string]string{"abc": "abc", `"abc"`: "abc", `"a\"b\\c"`: `a"b\c`, `a"b`: `a"b`, "a b": "a b",
		`"`: "!", `""`: "!", `"a"b"`: "!", `"a\b"`: "!", `"abc";x=1`: "!", "ä": "!", strings.Repeat("k", 255): strings.Repeat("k", 255)} {
		got, p := idempotencyKey(map[string][]string{headerIdempotencyKey: {header}})
		if p != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", header, got, want)
		}
	}
	if _, p := idempotencyKey(map[string][]string{headerIdempotencyKey: {"a", "b"}}); p == nil {
		t.Error("two keys were taken")
	}
}

func TestTraceParentHeader(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for header, want := range map[string]string{good: good, "cc" + good[2:] + "-more": "cc" + good[2:], good + "-more": "", "ff" + good[2:]: "",
		strings.ToUpper(good): "", good[:54]: "", "": "", "00-" + strings.Repeat("0", 32) + good[35:]: "", good[:36] + strings.Repeat("0", 16) + good[52:]: ""} {
		if got := traceParent(map[string][]string{headerTraceParent: {header}}); got != want {
			t.Errorf("%s: got %q, want %q", header, got, want)
		}
	}
}

func TestRequestIDHeader(t *testing.T) {
	for _, header := range []string{"", "a b", "ä", strings.Repeat("x", 129)} {
		if got := requestID(map[string][]string{headerRequestID: {header}}); got == header || len(got) != 16 {
			t.Errorf("%q: got %q", header, got)
		}
	}
	if ids := []string{requestID(nil), requestID(nil)}; slices.Equal(ids[:1], ids[1:]) {
		t.Errorf("the same id twice: %v", ids)
	}
}
