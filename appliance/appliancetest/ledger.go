package appliancetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"forebay/wal/message"
)

// Target is an appliance as a client sees it.
type Target struct {
	URL    string
	Key    string
	Client *http.Client
}

// Submission is one message to send on channel store.
type Submission struct {
	Ref      string // client_ref, unique in its ledger
	Priority message.Priority
	Body     string
	Key      string // Idempotency-Key; empty: none
	Wait     int    // Prefer: wait, in seconds; 0: not asked for
}

// Answer is what came back for a submission.
type Answer struct {
	Status     int    // 0: no answer came, and Err says why
	ID         string // of an accepted message
	State      string // its status
	Code       string // of a refusal
	RetryAfter string
	Applied    string // Preference-Applied
	Replayed   bool
	Torn       bool // an answer began and did not end
	Err        error
	Took       time.Duration
}

// Ledger remembers what was sent and what the appliance said to it, so that
// both can be held against what is there in the end. It is safe for concurrent
// use.
type Ledger struct {
	mu       sync.Mutex
	sent     map[string]fingerprint // by ref
	acked    map[string]string      // id to ref
	open     map[string]Submission  // by ref: sent, and no answer has come
	refused  map[string]bool        // refs that got nothing but refusals
	outcomes map[string]int         // answers by status and code
	slowest  time.Duration
	faults   []string // answers that break the contract whatever comes later
}

type fingerprint struct {
	body     [sha256.Size]byte
	priority message.Priority
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger {
	return &Ledger{sent: map[string]fingerprint{}, acked: map[string]string{}, open: map[string]Submission{}, refused: map[string]bool{}, outcomes: map[string]int{}}
}

// answerTimeout is far beyond what any answer may take.
const answerTimeout = 60 * time.Second

// Submit sends one message and writes down what came of it.
func (l *Ledger) Submit(t Target, s Submission) Answer {
	l.mu.Lock()
	l.sent[s.Ref] = fingerprint{sha256.Sum256([]byte(s.Body)), s.Priority}
	l.mu.Unlock()
	start := time.Now()
	a := post(t, s)
	a.Took = time.Since(start)
	l.record(s, a)
	return a
}

func (l *Ledger) record(s Submission, a Answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outcomes[outcome(a)]++
	if a.Status != 0 {
		l.slowest = max(l.slowest, a.Took)
	}
	switch {
	case a.Torn:
		l.faults = append(l.faults, fmt.Sprintf("%s: the answer was cut off: %v", s.Ref, a.Err))
	case a.Status == http.StatusAccepted || a.Status == http.StatusCreated:
		if _, err := message.ParseID(a.ID); err != nil {
			l.faults = append(l.faults, fmt.Sprintf("%s: accepted as %q: %v", s.Ref, a.ID, err))
		}
		if other, ok := l.acked[a.ID]; ok && other != s.Ref {
			l.faults = append(l.faults, fmt.Sprintf("%s and %s are both accepted as %s", s.Ref, other, a.ID))
		}
		l.acked[a.ID] = s.Ref
		delete(l.refused, s.Ref)
		delete(l.open, s.Ref)
	case a.Status == 0, a.Code == "unavailable":
		// No answer, or that of a log whose write has just failed: what it was
		// writing may be on disk all the same. That is a message its client did
		// not hear of, and must ask for again.
		l.open[s.Ref] = s
	case a.Status >= 400:
		if _, open := l.open[s.Ref]; !open {
			l.refused[s.Ref] = true
		}
		if a.Status == http.StatusServiceUnavailable && a.RetryAfter == "" {
			l.faults = append(l.faults, s.Ref+": 503 without Retry-After")
		}
	}
}

func outcome(a Answer) string {
	switch {
	case a.Torn:
		return "torn"
	case a.Status == 0:
		return "no answer"
	case a.Code != "":
		return strconv.Itoa(a.Status) + " " + a.Code
	}
	return strconv.Itoa(a.Status)
}

func post(t Target, s Submission) (a Answer) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]string{"channel": "store", "priority": s.Priority.String(), "client_ref": s.Ref, "body": s.Body})
	if err != nil {
		return Answer{Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL+"/v1/messages", bytes.NewReader(body))
	if err != nil {
		return Answer{Err: err}
	}
	req.Header.Set("Authorization", "Bearer "+t.Key)
	req.Header.Set("Content-Type", "application/json")
	if s.Key != "" {
		req.Header.Set("Idempotency-Key", s.Key)
	}
	if s.Wait > 0 {
		req.Header.Set("Prefer", "wait="+strconv.Itoa(s.Wait))
	}
	resp, err := t.Client.Do(req)
	if err != nil {
		return Answer{Err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var parsed struct{ ID, Status, Code any }
	if err == nil {
		err = json.Unmarshal(text, &parsed)
	}
	if err != nil {
		return Answer{Status: resp.StatusCode, Torn: true, Err: fmt.Errorf("%d %q: %w", resp.StatusCode, text, err)}
	}
	a = Answer{Status: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After"), Applied: resp.Header.Get("Preference-Applied"),
		Replayed: resp.Header.Get("Idempotent-Replayed") == "true"}
	a.ID, _ = parsed.ID.(string)
	a.State, _ = parsed.Status.(string)
	a.Code, _ = parsed.Code.(string)
	return a
}

// Load sends messages from so many connections at once, each one after the
// other, until ctx ends; what is under way then is waited for. next makes
// message number n, with random numbers that depend on seed alone.
func (l *Ledger) Load(ctx context.Context, t Target, connections int, seed uint64, next func(n int, r *rand.Rand) Submission) {
	var workers sync.WaitGroup
	for w := range connections {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for n := w; ctx.Err() == nil; n += connections {
				if a := l.Submit(t, next(n, r)); a.Status == 0 || a.Status == http.StatusServiceUnavailable {
					select { // the appliance is down or full: look again, do not hammer
					case <-ctx.Done():
					case <-time.After(3 * time.Millisecond):
					}
				}
			}
		})
	}
	workers.Wait()
}

// Mixed makes messages of all priorities and of many sizes up to max bytes, a
// third of them with an idempotency key. Refs begin with prefix.
func Mixed(prefix string, max int) func(n int, r *rand.Rand) Submission {
	return func(n int, r *rand.Rand) Submission {
		s := Submission{Ref: prefix + strconv.Itoa(n), Priority: message.Priority(r.IntN(message.Lanes)), Body: Text(r, 1+r.IntN(1+r.IntN(max)))}
		if n%3 == 0 {
			s.Key = "key-" + s.Ref
		}
		return s
	}
}

// Text makes text of n characters, some of them outside ASCII.
func Text(r *rand.Rand, n int) string {
	const alphabet = "etaoin shrdlu\n\"\\/<>&'%_0123456789äß€漢😀"
	letters := []rune(alphabet)
	var b strings.Builder
	for range max(n, 1) {
		b.WriteRune(letters[r.IntN(len(letters))])
	}
	return b.String()
}

// Repeat sends again what has an idempotency key and got no answer, as a client
// does that wants to be sure.
func (l *Ledger) Repeat(t Target) {
	l.mu.Lock()
	var again []Submission
	for _, s := range l.open {
		if s.Key != "" {
			again = append(again, s)
		}
	}
	l.mu.Unlock()
	for _, s := range again {
		l.Submit(t, s)
	}
}

// Acked returns a copy of what was acknowledged: id to client_ref.
func (l *Ledger) Acked() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	acked := make(map[string]string, len(l.acked))
	for id, ref := range l.acked {
		acked[id] = ref
	}
	return acked
}

// Summary is what came back, in words, and the slowest answer.
func (l *Ledger) Summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d sent, %d acknowledged; answers %v; slowest %v", len(l.sent), len(l.acked), l.outcomes, l.slowest.Round(time.Millisecond))
}

// Count is how many answers of that kind there were: "202", "503 draining",
// "no answer", "torn".
func (l *Ledger) Count(outcome string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outcomes[outcome]
}

// Outcomes returns a copy of the counts by kind.
func (l *Ledger) Outcomes() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make(map[string]int, len(l.outcomes))
	for k, n := range l.outcomes {
		counts[k] = n
	}
	return counts
}

// Compare holds what is stored against the ledger. It is an error if an
// acknowledged message is missing, is there twice, or is changed, and if there
// is a row that was never submitted, or whose submission was refused.
func (l *Ledger) Compare(rows []Row) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var faults faults
	faults.add(l.faults...)
	seen, stored := make(map[string]bool, len(rows)), make(map[string]int, len(rows))
	for _, row := range rows {
		if seen[row.ID] {
			faults.add(row.ID + " is there twice")
		}
		seen[row.ID] = true
		sent, known := l.sent[row.Ref]
		switch {
		case !known:
			faults.add(fmt.Sprintf("%s (%q) was never submitted", row.ID, row.Ref))
		case l.refused[row.Ref]:
			faults.add(fmt.Sprintf("%s (%s) was refused and is there", row.ID, row.Ref))
		case sent.body != sha256.Sum256([]byte(row.Body)) || sent.priority.String() != row.Priority:
			faults.add(fmt.Sprintf("%s (%s) is changed", row.ID, row.Ref))
		}
		if ref, ok := l.acked[row.ID]; ok && ref != row.Ref {
			faults.add(fmt.Sprintf("%s was accepted as %s and is stored as %s", row.ID, ref, row.Ref))
		}
		if row.Status != message.Duplicate.String() {
			if stored[row.Ref]++; stored[row.Ref] == 2 {
				faults.add(row.Ref + " is stored twice under two ids")
			}
		}
	}
	for id, ref := range l.acked {
		if !seen[id] {
			faults.add(fmt.Sprintf("%s (%s) was acknowledged and is missing", id, ref))
		}
	}
	return faults.err()
}

// LookUp asks for each of these messages by id. Each must be found with its own
// client_ref and, where want is not empty, have that status.
func (l *Ledger) LookUp(t Target, acked map[string]string, want string) error {
	ids := make(chan string)
	var mu sync.Mutex
	var faults faults
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for id := range ids {
				if fault := lookUp(t, id, acked[id], want); fault != "" {
					mu.Lock()
					faults.add(fault)
					mu.Unlock()
				}
			}
		})
	}
	for id := range acked {
		ids <- id
	}
	close(ids)
	workers.Wait()
	return faults.err()
}

// lookUp waits out a store that is not up yet after a start.
func lookUp(t Target, id, ref, want string) (fault string) {
	var v struct {
		ID        string
		Status    any    // a word in a message, a number in a refusal
		ClientRef string `json:"client_ref"`
	}
	deadline := time.Now().Add(answerTimeout)
	status, err := t.Get("/v1/messages/"+id, &v)
	for err == nil && status == http.StatusServiceUnavailable && time.Now().Before(deadline) {
		<-time.After(20 * time.Millisecond)
		status, err = t.Get("/v1/messages/"+id, &v)
	}
	switch {
	case err != nil:
		return fmt.Sprintf("%s (%s): %v", id, ref, err)
	case status != http.StatusOK || v.ID != id || v.ClientRef != ref:
		return fmt.Sprintf("%s (%s): %d %+v", id, ref, status, v)
	case want != "" && v.Status != want:
		return fmt.Sprintf("%s (%s) is %s, want %s", id, ref, v.Status, want)
	}
	return ""
}

// Get asks the public API and decodes the answer into v.
func (t Target) Get(path string, v any) (status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.URL+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+t.Key)
	resp, err := t.Client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return resp.StatusCode, err
	}
	return resp.StatusCode, nil
}

// faults collects what is wrong, and shows not too much of it.
type faults struct {
	shown []string
	count int
}

func (f *faults) add(texts ...string) {
	f.count += len(texts)
	f.shown = append(f.shown, texts[:min(len(texts), max(0, 10-len(f.shown)))]...)
}

func (f *faults) err() error {
	if f.count == 0 {
		return nil
	}
	return errors.New(fmt.Sprint(f.count, " faults:\n  ") + strings.Join(f.shown, "\n  "))
}
