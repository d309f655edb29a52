package email

import (
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// sendAndRead sends a message to a stand-in and reads what arrived.
func sendAndRead(t *testing.T, r message.Record) (*mail.Message, sinktest.Mail) {
	t.Helper()
	s := sinktest.NewSMTP(t, sinktest.SMTPOptions{}, nil, nil)
	d := delivery(1, r.To)
	d.Record = r
	if _, err := newChannel(t, configOf(s)).Send(t.Context(), d); err != nil {
		t.Fatalf("%v; %q", err, s.Wrong())
	}
	got := s.Latest()[0]
	m, err := mail.ReadMessage(strings.NewReader(got.Text))
	if err != nil {
		t.Fatal(err)
	}
	return m, got
}

func TestMailIsComplete(t *testing.T) {
	r := delivery(1, "ännchen@müller.example").Record
	r.Subject, r.Body, r.HTML = "Grüße 😀", "Guten Tag\n.\nvon uns", "<p>Guten <b>Täg</b></p>"
	r.Metadata = []message.Pair{{Key: MetadataUnsubscribe, Value: "https://u.example.org/u?t=1"}}
	r.SendAt, r.TraceParent = r.AcceptedAt().Add(time.Hour), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	m, got := sendAndRead(t, r)
	if got.To != "ännchen@xn--mller-kva.example" || got.From != "noreply@mail.example.org" || !got.UTF8 {
		t.Errorf("envelope: got %+v", got)
	}
	want := map[string]string{
		"Message-Id": "<" + r.ID.String() + "@mail.example.org>", "Date": r.SendAt.Format(time.RFC1123Z), "Auto-Submitted": "auto-generated",
		"List-Unsubscribe": "<https://u.example.org/u?t=1>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click", "Subject": r.Subject,
		"From": "\"Größe & Co\" <noreply@mail.example.org>", "User-Agent": "", "X-Mailer": "", "Traceparent": r.TraceParent,
	}
	headers := map[string]string{}
	for name := range want {
		text, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get(name))
		if err != nil {
			t.Error(err)
		}
		headers[name] = text
	}
	if from, err := m.Header.AddressList("From"); err != nil || from[0].Name != "Größe & Co" {
		t.Errorf("From: %v, %v", from, err)
	}
	delete(want, "From")
	delete(headers, "From")
	if diff := cmp.Diff(want, headers); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Guten Tag\r\n.\r\nvon uns", "<p>Guten <b>Täg</b></p>"}, parts(t, m)); diff != "" {
		t.Errorf("parts (-want +got):\n%s", diff)
	}
}

// parts returns the texts of a mail, plain first.
func parts(t *testing.T, m *mail.Message) (texts []string) {
	t.Helper()
	kind, parameters, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("%s, %v", kind, err)
	}
	for r := multipart.NewReader(m.Body, parameters["boundary"]); ; {
		p, err := r.NextPart() // it undoes quoted-printable
		if err == io.EOF {
			return texts
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
}

func TestOnePart(t *testing.T) {
	r := delivery(1, "a@example.org").Record
	r.Body = "From here on: ä = é\n" + strings.Repeat("long ", 400)
	m, got := sendAndRead(t, r)
	text, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil || strings.ReplaceAll(strings.TrimSuffix(string(text), "\r\n"), "\r\n", "\n") != r.Body || got.UTF8 {
		t.Errorf("got %q, %v, SMTPUTF8 %v", text, err, got.UTF8)
	}
	r.Body, r.HTML = "", "<p>x</p>"
	if m, _ := sendAndRead(t, r); !strings.HasPrefix(m.Header.Get("Content-Type"), "text/html") || m.Header.Get("List-Unsubscribe") != "" {
		t.Errorf("HTML alone: got %v", m.Header)
	}
}

func TestRelayWithoutUTF8(t *testing.T) {
	s := sinktest.NewSMTP(t, sinktest.SMTPOptions{NoUTF8: true}, nil, nil)
	c := newChannel(t, configOf(s))
	_, err := c.Send(t.Context(), delivery(1, "ä@example.org"))
	if got, fault := outcomeOf(t, err); got != "permanent" || fault.Failure.ChannelCode != "5.6.7" {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := c.Send(t.Context(), delivery(2, "a@müller.example")); err != nil {
		t.Errorf("an international domain is ASCII on the wire: %v", err)
	}
	if s.Dialled() != 1 {
		t.Errorf("%d connections", s.Dialled())
	}
}

// TestNothingBecomesAHeader: whatever a client writes, the mail has the headers
// that we gave it and one recipient.
func TestNothingBecomesAHeader(t *testing.T) {
	from, ok := parseFrom(sender)
	if !ok {
		t.Fatal("sender")
	}
	known := map[string]bool{"Message-Id": true, "Date": true, "From": true, "To": true, "Subject": true, "Mime-Version": true, "Content-Type": true,
		"Content-Transfer-Encoding": true, "Auto-Submitted": true, "List-Unsubscribe": true, "List-Unsubscribe-Post": true}
	evil := rapid.StringOf(rapid.OneOf(rapid.Rune(), rapid.SampledFrom([]rune("\r\n:<>,;\" \t\x00=?@ab"))))
	rapid.Check(t, func(t *rapid.T) {
		r := delivery(1, "").Record
		r.To = rapid.OneOf(evil, rapid.Just("a@example.org")).Draw(t, "to")
		r.Subject, r.Body, r.HTML = evil.Draw(t, "subject"), evil.Draw(t, "body"), evil.Draw(t, "html")
		r.Metadata = []message.Pair{{Key: MetadataUnsubscribe, Value: rapid.SampledFrom([]string{"", "https://h/", "mailto:"}).Draw(t, "scheme") + evil.Draw(t, "link")}}
		to, _, ok := parseAddress(r.To)
		if !ok {
			to = "a@example.org"
		}
		// Not after Check: render must be safe by itself.
		m, err := render(&r, from, to)
		if err != nil { // for the link
			r.Metadata = nil
			if m, err = render(&r, from, to); err != nil {
				t.Fatal(err)
			}
		}
		var b strings.Builder
		if _, err := m.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		got, err := mail.ReadMessage(strings.NewReader(b.String()))
		if err != nil {
			t.Fatalf("%v:\n%s", err, b.String())
		}
		for name, values := range got.Header {
			if !known[name] || len(values) != 1 {
				t.Errorf("header %s: %q", name, values)
			}
		}
		if list, err := got.Header.AddressList("To"); err != nil || len(list) != 1 {
			t.Errorf("recipients: %v, %v", list, err)
		}
	})
}
