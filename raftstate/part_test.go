package raftstate

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"forebay/raftstate/account"
)

// tally is a part that adds up what its commands say, and keeps their stamps.
type tally struct{ total, last uint64 }

const tallyKind = 255

func (p *tally) name() string            { return "tally" }
func (p *tally) kinds() map[uint8]string { return map[uint8]string{tallyKind: "tally"} }

func (p *tally) apply(_ uint8, body []byte, stamp uint64) (any, error) {
	n, err := strconv.ParseUint(string(body), 10, 64)
	if err != nil {
		return nil, err
	}
	p.total, p.last = p.total+n, stamp
	return p.total, nil
}

func (p *tally) remembers(uint8) bool { return true }

func (p *tally) decodeAnswer(_ uint8, text jsontext.Value) (any, error) {
	var n uint64
	err := json.Unmarshal(text, &n)
	return n, err
}

type tallySection struct{ Total, Last uint64 }

func (s tallySection) Encode(enc *jsontext.Encoder) error { return json.MarshalEncode(enc, s) }

func (p *tally) snapshot() section { return tallySection{p.total, p.last} }

func (p *tally) restore(dec *jsontext.Decoder) (func(), error) {
	var s tallySection
	if dec != nil {
		if err := json.UnmarshalDecode(dec, &s); err != nil {
			return nil, err
		}
	}
	return func() { p.total, p.last = s.Total, s.Last }, nil
}

func tallyMachine(t *testing.T) (*machine, *tally) {
	m, p := bareMachine(func(err error) { t.Errorf("fatal: %v", err) }), &tally{}
	m.add(p)
	return m, p
}

func bytesOf(t *testing.T, m *machine) string {
	t.Helper()
	var b bytes.Buffer
	s, err := m.Snapshot()
	if err == nil {
		err = s.(*snapshot).encode(&b)
	}
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return b.String()
}

func TestPartsShareLogStampsAndSnapshot(t *testing.T) {
	m, p := tallyMachine(t)
	add := func(index uint64, request byte, stamp uint64) any {
		return m.Apply(logOf(t, index, command{kind: tallyKind, request: requestID{request}, stamp: stamp, body: []byte("5")})).(outcome).answer
	}
	add(1, 1, 70)
	m.Apply(logOf(t, 2, command{kind: uint8(account.KindSetPlans), request: requestID{2}, stamp: 90, body: []byte(`{"plans":[]}`)}))
	if got := add(3, 3, 80); got != uint64(10) || p.last != 90 {
		t.Errorf("got total %v at %d, want 10 at 90: stamps never decrease", got, p.last)
	}
	if got := add(4, 1, 95); got != uint64(5) || p.total != 10 {
		t.Errorf("a repeat: got %v and total %d, want 5 and 10", got, p.total)
	}
	saved := bytesOf(t, m)
	again, q := tallyMachine(t)
	if err := again.Restore(io.NopCloser(strings.NewReader(saved))); err != nil {
		t.Fatalf("restore: %v", err)
	}
	if *q != *p || bytesOf(t, again) != saved {
		t.Errorf("restored: got %+v, want %+v", *q, *p)
	}
	if got := again.Apply(logOf(t, 5, command{kind: tallyKind, request: requestID{3}, body: []byte("5")})).(outcome).answer; got != uint64(10) {
		t.Errorf("a repeat after the snapshot: got %v, want 10", got)
	}
	if got := bareMachine(nil).Restore(io.NopCloser(strings.NewReader(saved))); got == nil || !strings.Contains(got.Error(), `"tally"`) {
		t.Errorf("restore without the part: got %v, want an error that names it", got)
	}
}

// oldSnapshot is what the program wrote when accounts were the only part.
const oldSnapshot = `{"format":"forebay raft state","version":1,"stamp":1234,"answers":1}
{"section":"accounts","version":1,"plans":1,"accounts":1,"keys":0}
{"name":"basic","requests_per_minute":100,"burst":20,"concurrent":10,"mode":"enforce","weight":1}
{"id":"a","tier":"basic","created_at":"2026-01-01T00:00:00Z"}
{"request":"01000000000000000000000000000000","result":{"account":{"id":"a","tier":"basic","created_at":"2026-01-01T00:00:00Z"}}}
{"end":true}
`

func TestSnapshotFromBeforeThereWereParts(t *testing.T) {
	m, p := tallyMachine(t)
	m.Apply(logOf(t, 1, command{kind: tallyKind, request: requestID{1}, body: []byte("5")}))
	if err := m.Restore(io.NopCloser(strings.NewReader(oldSnapshot))); err != nil {
		t.Fatalf("restore: %v", err)
	}
	if _, ok := m.accounts.Account("a"); !ok || m.stamp != 1234 || p.total != 0 {
		t.Errorf("got account %v, stamp %d, total %d, want it there, 1234 and 0", ok, m.stamp, p.total)
	}
	create := command{kind: uint8(account.KindCreateAccount), request: requestID{1}, body: []byte(`{"id":"a","tier":"basic","at":"2026-01-01T00:00:00Z"}`)}
	if out := m.Apply(logOf(t, 2, create)).(outcome); out.answer.(account.Result).Err != nil {
		t.Errorf("a repeat of an old command: got %v, want the first answer", out.answer)
	}
	// What it came to can be written and read again.
	saved := bytesOf(t, m)
	again, _ := tallyMachine(t)
	if err := again.Restore(io.NopCloser(strings.NewReader(saved))); err != nil || bytesOf(t, again) != saved {
		t.Errorf("the new snapshot of the old one: %v", err)
	}
}
