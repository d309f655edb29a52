package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/wal/message"
)

// model is what a log must be, and the log itself. Its methods are the actions
// of a rapid state machine; after each, Check holds the one against the other.
type model struct {
	t        testing.TB
	cfg      Config
	log      *Log
	made     int // messages so far
	seq      uint64
	last     message.ID
	waiting  [message.Lanes][]message.ID // to be handed out, in order
	taken    map[message.ID]message.Entry
	parked   map[message.ID]parking
	shelved  map[message.ID]Shelf
	recalled map[message.ID]bool // since the log was opened
	done     []message.ID
	payload  held
	state    map[message.ID]string // progress
	keys     map[string]message.ID
	crashes  int
}

type parking struct {
	message.Entry
	due bool // in the past
}

func newModel(t testing.TB, cfg Config) *model {
	m := &model{t: t, cfg: cfg, payload: held{}, taken: map[message.ID]message.Entry{},
		parked: map[message.ID]parking{}, shelved: map[message.ID]Shelf{}, recalled: map[message.ID]bool{}, state: map[message.ID]string{}, keys: map[string]message.ID{}}
	m.open(nil)
	return m
}

type fataler interface {
	Fatal(...any)
	Fatalf(string, ...any)
	Helper()
}

func (m *model) fail(t fataler, format string, args ...any) {
	if t == nil {
		m.t.Fatalf(format, args...)
	}
	t.Fatalf(format, args...)
}

func (m *model) open(t fataler) {
	l, err := tryOpen(m.t, m.cfg)
	if err != nil {
		m.fail(t, "open: %v", err)
	}
	m.log = l
}

func (m *model) message(t *rapid.T) *message.Message {
	m.made++
	msg := bigMessage(m.made, rapid.SampledFrom([]int{0, 10, 300, 20_000}).Draw(t, "size"))
	msg.Priority = message.Priority(rapid.IntRange(0, message.Lanes-1).Draw(t, "lane"))
	if rapid.IntRange(0, 3).Draw(t, "keyed") == 0 {
		msg.IdempotencyKey = fmt.Sprint("k", m.made)
		msg.Fingerprint = msg.PayloadFingerprint()
	}
	return msg
}

func (m *model) accepted(t fataler, msg *message.Message, r Receipt) {
	if r.Seq != m.seq+1 || r.ID.Compare(m.last) <= 0 || !r.ID.Valid() || r.ID.Lane() != msg.Priority || r.ID.Node() != m.cfg.Node {
		m.fail(t, "receipt %+v after number %d, %s", r, m.seq, m.last)
	}
	m.seq, m.last = r.Seq, r.ID
	m.waiting[msg.Priority] = append(m.waiting[msg.Priority], r.ID)
	m.payload[r.ID] = msg.Append(nil)
	if msg.IdempotencyKey != "" {
		m.keys[msg.IdempotencyKey] = r.ID
	}
}

func (m *model) Append(t *rapid.T) {
	msg := m.message(t)
	r, err := m.log.Append(background(), msg)
	if err != nil {
		t.Fatal(err)
	}
	m.accepted(t, msg, r)
}

func (m *model) AppendBatch(t *rapid.T) {
	ms := make([]*message.Message, rapid.IntRange(1, 60).Draw(t, "messages"))
	for i := range ms {
		ms[i] = m.message(t)
	}
	out := make([]Receipt, len(ms))
	if err := m.log.AppendBatch(background(), ms, out); err != nil {
		t.Fatal(err)
	}
	for i, r := range out {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		m.accepted(t, ms[i], r)
	}
}

// Replay sends a key again.
func (m *model) Replay(t *rapid.T) {
	if len(m.keys) == 0 {
		t.Skip("no keys")
	}
	names := make([]string, 0, len(m.keys))
	for name := range m.keys {
		names = append(names, name)
	}
	slices.Sort(names)
	key := rapid.SampledFrom(names).Draw(t, "key")
	again := testMessage(0)
	again.IdempotencyKey = key
	again.Fingerprint[0] = 1 // another payload
	if _, err := m.log.Append(background(), again); !errors.Is(err, ErrKeyMismatch) {
		t.Fatalf("another payload under %s: %v", key, err)
	}
	if id := m.keys[key]; m.payload[id] != nil {
		first, err := message.Decode(m.payload[id])
		if err != nil {
			t.Fatal(err)
		}
		r, err := m.log.Append(background(), &first)
		if err != nil || !r.Replayed || r.ID != id {
			t.Fatalf("%s again: %+v, %v, want %s", key, r, err, id)
		}
	}
}

func (m *model) Next(t *rapid.T) {
	n := rapid.SampledFrom([]int{1, 7, 50, 1000}).Draw(t, "max")
	if m.log.Waiting() == 0 {
		t.Skip("nothing waits")
	}
	got, err := m.log.Next(background(), n, 0)
	if err != nil || len(got) == 0 || len(got) > n {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	var came [message.Lanes]int
	for _, e := range got {
		m.take(t, e, &came)
	}
}

// take checks that e may be handed out now: the first of its lane, or one that
// came back from parking, and nothing waits in a higher lane, but for those whose
// place in this batch was taken by what came back meanwhile.
func (m *model) take(t *rapid.T, e message.Entry, came *[message.Lanes]int) {
	lane := e.ID.Lane()
	for higher := range lane {
		if len(m.waiting[higher]) > came[higher] {
			t.Fatalf("%s of lane %s is handed out, %d wait in lane %s", e.ID, lane, len(m.waiting[higher]), higher)
		}
	}
	if w := m.waiting[lane]; len(w) == 0 || w[0] != e.ID {
		// Parked messages come back by themselves, at a moment of their own.
		p, ok := m.parked[e.ID]
		if !ok || !p.due {
			t.Fatalf("%s is handed out, and is not the first of lane %s, nor came back", e.ID, lane)
		}
		delete(m.parked, e.ID)
		came[lane]++
	} else {
		m.waiting[lane] = w[1:]
	}
	if !bytes.Equal(e.Payload, m.payload[e.ID]) || string(e.Progress) != m.state[e.ID] {
		t.Fatalf("%s has another payload or progress %q, want %q", e.ID, e.Progress, m.state[e.ID])
	}
	m.taken[e.ID] = e
}

// some draws taken messages, in a fixed order.
func (m *model) some(t *rapid.T) []message.Entry {
	if len(m.taken) == 0 {
		t.Skip("nothing is taken")
	}
	all := make([]message.Entry, 0, len(m.taken))
	for _, e := range m.taken {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b message.Entry) int { return a.ID.Compare(b.ID) })
	from := rapid.IntRange(0, len(all)-1).Draw(t, "from")
	return all[from : from+rapid.IntRange(1, len(all)-from).Draw(t, "count")]
}

func (m *model) Complete(t *rapid.T) {
	some := m.some(t)
	if err := m.log.Complete(background(), some); err != nil {
		t.Fatal(err)
	}
	for _, e := range some {
		m.done = append(m.done, e.ID)
		delete(m.taken, e.ID)
		delete(m.payload, e.ID)
		delete(m.state, e.ID)
		delete(m.recalled, e.ID)
	}
}

func (m *model) Progress(t *rapid.T) {
	some := slices.Clone(m.some(t))
	for i := range some {
		some[i].Progress = fmt.Append(nil, "state ", m.made, i)
		if !m.recalled[some[i].ID] {
			m.state[some[i].ID] = string(some[i].Progress)
		}
		m.taken[some[i].ID] = some[i]
	}
	if err := m.log.Progress(background(), some); err != nil {
		t.Fatal(err)
	}
}

func (m *model) Park(t *rapid.T) {
	some, due := slices.Clone(m.some(t)), rapid.Bool().Draw(t, "due")
	until := time.Now().Add(time.Hour)
	if due {
		until = time.Now().Add(-time.Second)
	}
	for i := range some {
		some[i].Progress = fmt.Append(nil, "parked ", m.made, i)
		if !m.recalled[some[i].ID] {
			m.state[some[i].ID] = string(some[i].Progress)
		}
		m.parked[some[i].ID] = parking{some[i], due || m.recalled[some[i].ID]}
		delete(m.taken, some[i].ID)
	}
	if err := m.log.Park(background(), until, some); err != nil {
		t.Fatal(err)
	}
}

// shelfOf gives each lane a shelf of its own, and one that all share.
func shelfOf(t *rapid.T) Shelf { return Shelf(rapid.IntRange(0, 2).Draw(t, "shelf")) }

func (m *model) Shelve(t *rapid.T) {
	some, shelf := slices.Clone(m.some(t)), shelfOf(t)
	if slices.ContainsFunc(some, func(e message.Entry) bool { return m.recalled[e.ID] }) {
		t.Skip("its state is no longer the holder's")
	}
	for i := range some {
		id := some[i].ID
		some[i].Progress = fmt.Append(nil, "shelved ", m.made, i)
		m.state[id] = string(some[i].Progress)
		m.shelved[id] = shelf
		delete(m.taken, id)
	}
	if err := m.log.Shelve(background(), shelf, some); err != nil {
		t.Fatal(err)
	}
}

// Fetch brings back those of the shelf with the smallest ids, and no others.
func (m *model) Fetch(t *rapid.T) {
	shelf, n := shelfOf(t), rapid.IntRange(1, 20).Draw(t, "n")
	var there []message.ID
	for id, on := range m.shelved {
		if on == shelf {
			there = append(there, id)
		}
	}
	slices.SortFunc(there, message.ID.Compare)
	var after message.ID
	seen := there
	if len(there) > 1 {
		after, seen = there[0], there[1:]
	}
	seen = seen[:min(n, len(seen))]
	browsed, err := m.log.Browse(shelf, after, n)
	if ids := idsOf(browsed); err != nil || !slices.Equal(ids, seen) {
		t.Fatalf("browsed %v of shelf %d after %s, %v, want %v", ids, shelf, after, err, seen)
	}
	got, more, err := m.log.Fetch(background(), shelf, n)
	if want := min(n, len(there)); err != nil || got != want || !more && got < len(there) {
		t.Fatalf("fetched %d of shelf %d, perhaps more: %v, %v, want %d of %d", got, shelf, more, err, want, len(there))
	}
	for _, id := range there[:got] {
		delete(m.shelved, id)
		m.parked[id] = parking{due: true}
	}
}

// Recall gives any message that is not complete another state. It comes back if
// it was parked or on a shelf, and keeps the state whatever its holder says.
func (m *model) Recall(t *rapid.T) {
	if len(m.payload) == 0 {
		t.Skip("nothing is there")
	}
	ids := slices.SortedFunc(maps.Keys(m.payload), message.ID.Compare)
	id := rapid.SampledFrom(ids).Draw(t, "id")
	state := fmt.Sprint("recalled ", m.made, len(m.state))
	e, err := m.log.Recall(background(), id, []byte(state))
	if err != nil || !bytes.Equal(e.Payload, m.payload[id]) {
		t.Fatalf("recall %s: %v", id, err)
	}
	m.state[id], m.recalled[id] = state, true
	if _, ok := m.parked[id]; ok {
		m.parked[id] = parking{due: true}
	}
	if _, ok := m.shelved[id]; ok {
		delete(m.shelved, id)
		m.parked[id] = parking{due: true}
	}
}

func (m *model) Spill(t *rapid.T) { m.log.Spill(rapid.Bool().Draw(t, "on")) }

func (m *model) Scrub(t *rapid.T) {
	if err := m.log.scrub(background()); err != nil {
		t.Fatal(err)
	}
}

// Reopen closes the log and opens it again.
func (m *model) Reopen(t *rapid.T) {
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	m.untake()
	m.open(t)
}

// Crash goes on with a copy of the directory as a kill would leave it now.
func (m *model) Crash(t *rapid.T) {
	m.crashes++
	to := filepath.Join(filepath.Dir(m.cfg.Dir), fmt.Sprint("crash", m.crashes))
	copyTree(m.t, m.cfg.Dir, to)
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	m.cfg.Dir = to
	m.untake()
	m.open(t)
}

// untake: what was handed out and not completed is handed out again, in order.
// What may or may not have come back from parking is in an order of its own.
func (m *model) untake() {
	for id := range m.taken {
		m.waiting[id.Lane()] = append(m.waiting[id.Lane()], id)
	}
	clear(m.taken)
	clear(m.recalled) // the state is on disk, and whoever holds it next has read it
	for lane := range m.waiting {
		slices.SortFunc(m.waiting[lane], message.ID.Compare)
	}
}

func (m *model) Check(t *rapid.T) {
	for id := range m.payload {
		e, err := m.log.Lookup(id)
		if err != nil || string(e.Payload) != string(m.payload[id]) || string(e.Progress) != m.state[id] {
			t.Fatalf("look up %s: %v, progress %q, want %q", id, err, e.Progress, m.state[id])
		}
	}
	for _, id := range m.done {
		if _, err := m.log.Lookup(id); !errors.Is(err, ErrNotFound) {
			t.Fatalf("look up %s, which is complete: %v", id, err)
		}
	}
	s := m.log.Stats()
	if total := s.Waiting + s.Taken + s.Parked; s.LastSeq != m.seq {
		t.Fatalf("last number %d, want %d", s.LastSeq, m.seq)
	} else if s.Taken != len(m.taken) || total < len(m.payload)-1000 {
		t.Fatalf("%+v; %d taken, %d in all", s, len(m.taken), len(m.payload))
	}
	if s.InMemory > m.cfg.Capacity+unparkBatch+loadAtLeast {
		t.Fatalf("%d records in memory", s.InMemory)
	}
}

// finish takes what waits, after everything due has come back, and closes.
func (m *model) finish(t *rapid.T) {
	eventually(m.t, "everything due has come back", func() bool {
		for m.log.Waiting() > 0 {
			m.Next(t)
		}
		for _, p := range m.parked {
			if p.due {
				return false
			}
		}
		return true
	})
	for lane, w := range m.waiting {
		if len(w) > 0 {
			t.Fatalf("%d messages of lane %d were not handed out", len(w), lane)
		}
	}
	m.Check(t)
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestProperty08_NothingIsLostWhateverHappens runs random sequences of every
// operation, closing and crashing at any moment, against the model.
func TestProperty08_NothingIsLostWhateverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		cfg := smallConfig(t)
		cfg.Capacity, cfg.Threshold = rapid.IntRange(1, 100).Draw(r, "capacity"), 1
		cfg.Threshold = rapid.IntRange(1, cfg.Capacity).Draw(r, "threshold")
		m := newModel(t, cfg)
		defer func() { _ = m.log.Close() }()
		r.Repeat(map[string]func(*rapid.T){
			"append": m.Append, "batch": m.AppendBatch, "replay": m.Replay, "next": m.Next, "complete": m.Complete,
			"progress": m.Progress, "park": m.Park, "shelve": m.Shelve, "fetch": m.Fetch, "recall": m.Recall,
			"spill": m.Spill, "scrub": m.Scrub, "reopen": m.Reopen, "crash": m.Crash,
			"": m.Check,
		})
		m.finish(r)
	})
}

func idsOf(entries []message.Entry) []message.ID {
	var ids []message.ID
	for i := range entries {
		ids = append(ids, entries[i].ID)
	}
	return ids
}
