package message

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func drawTime(t *rapid.T, label string) time.Time {
	ms := rapid.Int64Range(0, 1<<42).Draw(t, label)
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func drawID(t *rapid.T, label string) ID {
	if rapid.Bool().Draw(t, label+" set") {
		return NewID(rapid.Uint64Range(0, 1<<48-1).Draw(t, label), 1, 7, Low, 9)
	}
	return ID{}
}

func drawMessage(t *rapid.T) Message {
	text := rapid.StringN(0, 40, -1)
	m := Message{
		Account: text.Draw(t, "account"), Channel: rapid.SampledFrom(Channels).Draw(t, "channel"),
		Priority: Priority(rapid.IntRange(0, Lanes-1).Draw(t, "priority")), Test: rapid.Bool().Draw(t, "test"),
		To: text.Draw(t, "to"), Subject: text.Draw(t, "subject"), Body: text.Draw(t, "body"), HTML: text.Draw(t, "html"),
		SendAt: drawTime(t, "send at"), TTL: time.Duration(rapid.Int64Range(0, 1<<32).Draw(t, "ttl")) * time.Second,
		ClientRef: text.Draw(t, "client ref"), CallbackURL: text.Draw(t, "callback"),
		Metadata:       MetadataFrom(rapid.MapOfN(text, text, 0, 5).Draw(t, "metadata")),
		IdempotencyKey: text.Draw(t, "key"), TraceParent: text.Draw(t, "trace"), RequestID: text.Draw(t, "request"),
		RequeueOf: drawID(t, "requeue of"),
	}
	copy(m.Fingerprint[:], rapid.SliceOfN(rapid.Byte(), 0, 16).Draw(t, "fingerprint"))
	if rapid.Bool().Draw(t, "templated") {
		m.Template = &Template{Name: text.Draw(t, "name"), Language: text.Draw(t, "language"), Parameters: rapid.SliceOfN(text, 0, 4).Draw(t, "parameters")}
	}
	return m
}

func drawState(t *rapid.T) State {
	text := rapid.StringN(0, 40, -1)
	s := State{
		Status: rapid.SampledFrom(Statuses).Draw(t, "status"), StoredAt: drawTime(t, "stored"), ScheduledAt: drawTime(t, "scheduled"),
		SentAt: drawTime(t, "sent"), DeliveredAt: drawTime(t, "delivered"), ReadAt: drawTime(t, "read"), FailedAt: drawTime(t, "failed"),
		NextAttemptAt: drawTime(t, "next"), HoldReason: text.Draw(t, "hold"), ProviderID: text.Draw(t, "provider"), DuplicateOf: drawID(t, "duplicate"),
	}
	if rapid.Bool().Draw(t, "error") {
		s.Error = &Failure{text.Draw(t, "code"), text.Draw(t, "category"), rapid.Bool().Draw(t, "retryable"), text.Draw(t, "channel code"), text.Draw(t, "text")}
	}
	for range rapid.IntRange(0, 4).Draw(t, "attempts") {
		s.Attempts = append(s.Attempts, Attempt{N: rapid.IntRange(0, 1000).Draw(t, "n"), At: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "at")).UTC(),
			Outcome: text.Draw(t, "outcome"), ChannelCode: text.Draw(t, "code"), Duration: time.Duration(rapid.IntRange(0, 1<<30).Draw(t, "took")) * time.Microsecond})
	}
	return s
}

func TestMessagesComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := drawMessage(r)
		b := m.Append([]byte("before"))
		if !bytes.HasPrefix(b, []byte("before")) {
			r.Fatal("what was there is gone")
		}
		if b = b[6:]; m.SizeHint() < len(b) {
			r.Fatalf("size hint %d for %d bytes", m.SizeHint(), len(b))
		}
		got, err := Decode(b)
		if err != nil {
			r.Fatal(err)
		}
		if diff := cmp.Diff(m, got, cmpopts.EquateEmpty()); diff != "" {
			r.Fatal(diff)
		}
		if !bytes.Equal(got.Append(nil), b) {
			r.Fatal("equal messages have different bytes")
		}
	})
}

func TestStatesComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := drawState(r)
		got, err := DecodeState(s.Append(nil))
		if err != nil {
			r.Fatal(err)
		}
		if diff := cmp.Diff(s, got, cmpopts.EquateEmpty()); diff != "" {
			r.Fatal(diff)
		}
	})
}

func TestEntriesDecodeToRecords(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := Record{ID: NewID(1, 2, 3, High, 4), Seq: 5, Message: drawMessage(r), State: drawState(r)}
		e := Entry{ID: want.ID, Seq: want.Seq, Payload: want.Message.Append(nil), Progress: want.State.Append(nil)}
		got, err := e.Record()
		if err != nil {
			r.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			r.Fatal(diff)
		}
		e.Progress = nil
		if got, err = e.Record(); err != nil || got.Status != Accepted {
			r.Fatal(got.Status, err)
		}
	})
}

// TestFingerprintsTellPayloads: a retry has the same, another payload another.
func TestFingerprintsTellPayloads(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := drawMessage(r)
		retry := m
		retry.TraceParent, retry.RequestID, retry.IdempotencyKey, retry.Fingerprint = "other", "other", "other", Fingerprint{1}
		if m.PayloadFingerprint() != retry.PayloadFingerprint() {
			r.Fatal("a retry has another fingerprint")
		}
		other := m
		other.Body += "!"
		if m.PayloadFingerprint() == other.PayloadFingerprint() {
			r.Fatal("another body has the same fingerprint")
		}
	})
}

// FuzzDecode: no bytes make the decoders panic, and what decodes as a message
// has one encoding, which decodes to the same.
func FuzzDecode(f *testing.F) {
	f.Add((&Message{Account: "acme", Channel: ChannelEmail, Metadata: []Pair{{"a", "b"}}, Template: &Template{Name: "t"}}).Append(nil))
	f.Add((&State{Status: Sent, ProviderID: "p", Error: &Failure{Code: "c"}, Attempts: []Attempt{{N: 1}}}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := Decode(b); err == nil {
			again, err := Decode(m.Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, again, cmpopts.EquateEmpty()); diff != "" {
				t.Fatal(diff)
			}
		}
		if s, err := DecodeState(b); err == nil {
			again, err := DecodeState(s.Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s, again, cmpopts.EquateEmpty()); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

func TestIDsKeepTheirPartsAndOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		ms, counter := rapid.Uint64Range(0, 1<<48-1).Draw(r, "ms"), uint16(rapid.IntRange(0, 4095).Draw(r, "counter"))
		node, lane := uint16(rapid.IntRange(1, 65535).Draw(r, "node")), Priority(rapid.IntRange(0, 3).Draw(r, "lane"))
		id := NewID(ms, counter, node, lane, rapid.Uint64().Draw(r, "random"))
		if id.Millis() != ms || id.Counter() != counter || id.Node() != node || id.Lane() != lane || !id.Valid() || id.IsZero() {
			r.Fatalf("%s: %d %d %d %s", id, id.Millis(), id.Counter(), id.Node(), id.Lane())
		}
		for _, text := range []string{id.String(), string(bytes.ToUpper([]byte(id.String())))} {
			if back, err := ParseID(text); err != nil || back != id {
				r.Fatal(text, err)
			}
		}
		if later := NewID(ms+1, 0, node, lane, 0); ms < 1<<48-1 && later.Compare(id) <= 0 {
			r.Fatal(later, id)
		}
		if later := NewID(ms, counter+1, node, Critical, 0); counter < 4095 && later.Compare(id) <= 0 {
			r.Fatal(later, id)
		}
		var zero ID
		if text, err := zero.MarshalText(); err != nil || id.UnmarshalText(text) != nil || !id.IsZero() {
			r.Fatal(text, err)
		}
	})
}

func TestParseIDRefusesWhatIsNoneOfOurs(t *testing.T) {
	good := NewID(1, 2, 3, High, 4).String()
	for _, text := range []string{"", good[:35], good + "0", "x" + good[1:], good[:8] + "0" + good[9:],
		"00000000-0000-0000-0000-000000000000", "00000000-0001-4002-8000-d00000000004", "00000000-0001-7002-c000-d00000000004",
		"00000000-0001-7002-8000-100000000004"} {
		if id, err := ParseID(text); err != ErrBadID {
			t.Errorf("%q: %s, %v", text, id, err)
		}
	}
}

// TestStatusTransitions: the final ones are dead ends, but for what a provider
// reports late, and everything accepted can come to an end.
func TestStatusTransitions(t *testing.T) {
	for _, s := range Statuses {
		if back, ok := ParseStatus(s.String()); !ok || back != s {
			t.Errorf("%s does not parse", s)
		}
		exits := 0
		for _, to := range Statuses {
			if s.CanBecome(to) {
				exits++
			}
		}
		if s.Final() && exits > 0 && s != Delivered {
			t.Errorf("%s is final and has %d ways out", s, exits)
		}
		if !s.Final() && exits == 0 {
			t.Errorf("%s is not final and has no way out", s)
		}
		if s.CanBecome(s) || s.CanBecome(Accepted) {
			t.Errorf("%s can become itself or accepted", s)
		}
		if !s.Final() && !reachesFinal(s, map[Status]bool{}) {
			t.Errorf("%s never ends", s)
		}
	}
	if Status(0).Valid() || Status(15).Valid() || Channel(0).Valid() {
		t.Error("a zero value is valid")
	}
}

func reachesFinal(s Status, seen map[Status]bool) bool {
	if s.Final() {
		return true
	}
	seen[s] = true
	for _, to := range Statuses {
		if s.CanBecome(to) && !seen[to] && reachesFinal(to, seen) {
			return true
		}
	}
	return false
}

// TestWhatARecordSharesWithItsPayload: the text of a message is in memory once, and
// the account does not keep it there.
func TestWhatARecordSharesWithItsPayload(t *testing.T) {
	m := Message{Account: "acme", Channel: ChannelEmail, To: "a@b.example", Body: strings.Repeat("x", 1000)}
	e := Entry{Payload: m.Append(nil)}
	r, err := e.Record()
	if err != nil {
		t.Fatal(err)
	}
	shared := func(s string) bool {
		from := uintptr(unsafe.Pointer(unsafe.SliceData(e.Payload)))
		at := uintptr(unsafe.Pointer(unsafe.StringData(s)))
		return at >= from && at < from+uintptr(len(e.Payload))
	}
	if !shared(r.Body) {
		t.Error("the body is a copy")
	}
	if r.Account != m.Account || shared(r.Account) {
		t.Errorf("the account %q is a part of the payload", r.Account)
	}
}
