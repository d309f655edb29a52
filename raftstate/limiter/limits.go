package limiter

import "time"

// Limits are what a plan allows one account.
type Limits struct {
	Rate       int64 // messages in any window, ≥ 1
	Burst      int64 // messages at once, ≥ 1
	Concurrent int64 // requests in flight, ≥ 1
	Shadow     bool  // count, and refuse nothing
}

func (l Limits) below(old Limits) bool {
	return l.Rate < old.Rate || l.Burst < old.Burst || l.Concurrent < old.Concurrent
}

// Reason says which limit a request is over.
type Reason uint8

// The reasons, in the order in which they are looked at.
const (
	Allowed     Reason = iota
	Concurrent         // too many requests in flight
	Burst              // too many at once
	Rate               // too many in the window
	Unavailable        // the group cannot be asked, and nothing is left
)

var reasonNames = [...]string{"allowed", "concurrent", "burst", "rate", "unavailable"}

// String returns the reason's name in metrics.
func (r Reason) String() string { return reasonNames[r] }

// LeaseTime is how long a holding may be spent after the last exchange, in
// cluster time. Nodes stop at nodeLease by their own clocks: the difference
// covers clocks that run apart, and messages that are slow on their way to disk.
const (
	LeaseTime = 2 * time.Minute
	nodeLease = LeaseTime * 9 / 10
	// slotGrace is how much longer slots stay counted: requests that were
	// admitted last may still be in flight.
	slotGrace = time.Minute
)

// DefaultWindow is the window until the group has been told another.
const DefaultWindow = time.Minute

const (
	subWindows  = 128 // what is spent is kept in so many parts of the window
	reportParts = 256 // a node reports at the latest after so small a part of Rate
	// calmReportParts is the same while more than half of Rate is left: nobody is
	// near the limit, and to know exactly is not worth a command.
	calmReportParts = 16
	floorParts      = 10 // one in so many tokens of Rate stands ready on the nodes
)

// hold is how long a spent token counts, in ms; see the package comment.
func hold(window int64) int64 { return window + window/500 + 1 }

// floorOf is how much of an account's limits stands ready on each of n nodes.
func floorOf(l Limits, nodes int64) int64 {
	return min(max(1, l.Rate/(floorParts*nodes)), max(1, l.Burst/(2*nodes)))
}
