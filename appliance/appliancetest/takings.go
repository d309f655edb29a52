package appliancetest

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Takings are what one account was given by all nodes, to be held against its
// plan. It is safe for concurrent use.
type Takings struct {
	mu       sync.Mutex // guards all below
	taken    []Taking
	outcomes map[string]int // of all submissions, by status and code
	sent     int
}

// Taking is one message that was accepted, at some moment from Asked to
// Answered.
type Taking struct {
	Node            int
	Asked, Answered time.Time
}

// NewTakings returns empty ones.
func NewTakings() *Takings { return &Takings{outcomes: map[string]int{}} }

// Submit sends one message to a node and writes down what came of it.
func (k *Takings) Submit(t Target, node int) Answer {
	k.mu.Lock()
	k.sent++
	ref := "taking-" + strconv.Itoa(k.sent)
	k.mu.Unlock()
	asked := time.Now()
	a := post(t, Submission{Ref: ref, Body: ref})
	answered := time.Now()
	a.Took = answered.Sub(asked)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.outcomes[outcome(a)]++
	if a.Status == http.StatusAccepted {
		k.taken = append(k.taken, Taking{node, asked, answered})
	}
	return a
}

// Load has clients send to a node, each one message after the other with a pause
// between, until ctx ends.
func (k *Takings) Load(ctx context.Context, t Target, node, clients int, pause time.Duration) {
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				k.Submit(t, node)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
	all.Wait()
}

// Count is how many submissions ended in an outcome: "202", "429 rate_limited".
func (k *Takings) Count(outcome string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.outcomes[outcome]
}

// Summary is all outcomes, for a test's log.
func (k *Takings) Summary() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprint(k.outcomes)
}

// LongestGap is the longest time between two answers after another that said 202,
// of one node, from the last one before a moment to the first one after another.
// Where nothing came after, it lasts until now.
func (k *Takings) LongestGap(node int, from, to time.Time) (longest time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var answers []time.Time
	for _, t := range k.taken {
		if t.Node == node {
			answers = append(answers, t.Answered)
		}
	}
	answers = append(answers, time.Now())
	slices.SortFunc(answers, time.Time.Compare)
	last := answers[0]
	for _, at := range answers {
		if at.After(from) && !last.After(to) {
			longest = max(longest, at.Sub(last))
		}
		last = at
	}
	return longest
}

// Check holds all that was taken against a plan: rate messages in any window,
// wherever it starts, and burst at once. When exactly each one was accepted is
// not known, so it finds what is wrong for certain: too many whose whole time
// from asked to answered lies in one interval.
func (k *Takings) Check(window time.Duration, rate, burst int) error {
	k.mu.Lock()
	taken := slices.Clone(k.taken)
	k.mu.Unlock()
	slices.SortFunc(taken, func(a, b Taking) int { return cmp.Compare(a.Answered.UnixNano(), b.Answered.UnixNano()) })
	for _, first := range taken {
		n := 0
		for _, t := range taken {
			if t.Asked.Before(first.Asked) {
				continue
			}
			n++
			span := t.Answered.Sub(first.Asked)
			if span <= window && n > rate {
				return fmt.Errorf("%d accepted within %v, the limit is %d in %v", n, span, rate, window)
			}
			// Clocks run apart by 0.2 % at most, and a millisecond is the unit of
			// cluster time.
			flown := float64(rate) * (span + time.Millisecond).Seconds() / window.Seconds() * 1.002
			if n > burst+int(flown) {
				return fmt.Errorf("%d accepted within %v, the burst is %d and %.1f have flown in", n, span, burst, flown)
			}
		}
	}
	return nil
}
