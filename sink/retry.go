package sink

import (
	"math/bits"
	"time"
)

// Backoff is a schedule of retries: exponential, with full jitter and a cap.
// Full jitter, a delay anywhere between nothing and the ceiling, spreads those
// who failed together the furthest and costs the fewest calls (M. Brooker,
// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
type Backoff struct {
	Base time.Duration // ceiling of the first retry, > 0
	Max  time.Duration // no ceiling is higher, ≥ Base
}

// Ceiling is the longest delay before retry number attempt, counted from 1:
// Base, twice that, four times that, and never more than Max.
func (b Backoff) Ceiling(attempt int) time.Duration {
	doublings := max(attempt-1, 0)
	// Shifting Max down cannot overflow where shifting Base up could.
	if doublings >= 63 || b.Max>>doublings < b.Base {
		return b.Max
	}
	return b.Base << doublings
}

// Delay is how long to wait before retry number attempt, counted from 1, given
// 64 random bits: uniform from 0 to Ceiling(attempt), both included.
func (b Backoff) Delay(attempt int, random uint64) time.Duration {
	delay, _ := bits.Mul64(random, uint64(b.Ceiling(attempt))+1)
	return time.Duration(delay)
}
