package httpapi

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	slotLength = int64(2 * time.Second)
	slots      = 6 // five whole ones and the one being filled

	// Latency is counted in buckets of 1/8 octave, from 16 µs to 2^36 µs.
	subBits      = 3
	firstOctave  = 4
	lastOctave   = 36
	histogramLen = (lastOctave - firstOctave + 1) << subBits
)

// window is a sliding view of the last seconds: acceptances and latencies in a
// ring of slots. All of it is atomic. When a slot is taken over for a new time,
// a few counts that come in at that very moment may be lost: this is for people
// to look at, the exact numbers are the counters'.
type window struct {
	ring [slots]slot
}

type slot struct {
	epoch    atomic.Int64 // Unix time divided by slotLength; which stretch the counts are of
	accepted atomic.Uint64
	latency  [histogramLen]atomic.Uint32
}

func (w *window) at(now time.Time) *slot {
	epoch := now.UnixNano() / slotLength
	s := &w.ring[epoch%slots]
	if old := s.epoch.Load(); old != epoch && s.epoch.CompareAndSwap(old, epoch) {
		s.accepted.Store(0)
		for i := range s.latency {
			s.latency[i].Store(0)
		}
	}
	return s
}

func (w *window) accept(now time.Time) { w.at(now).accepted.Add(1) }

func (w *window) observe(now time.Time, took time.Duration) {
	w.at(now).latency[bucketOf(took)].Add(1)
}

// read returns the rate and the latency over the slots that are complete; in
// the first seconds, over what there is.
func (w *window) read(now time.Time) (rate float64, latency Latency) {
	epoch := now.UnixNano() / slotLength
	var counts [histogramLen]uint64
	var accepted, total uint64
	for i := range w.ring {
		s := &w.ring[i]
		if e := s.epoch.Load(); e <= epoch-slots || e >= epoch {
			continue
		}
		accepted += s.accepted.Load()
		for b := range s.latency {
			n := uint64(s.latency[b].Load())
			counts[b] += n
			total += n
		}
	}
	rate = float64(accepted) / (float64((slots-1)*slotLength) / float64(time.Second))
	quantile := func(q float64) float64 {
		rank, seen := uint64(q*float64(total)), uint64(0)
		for b, n := range counts {
			if seen += n; n > 0 && seen > rank {
				return upperBound(b).Seconds()
			}
		}
		return 0
	}
	if total > 0 {
		latency = Latency{P50: quantile(.5), P90: quantile(.9), P99: quantile(.99)}
	}
	return rate, latency
}

// bucketOf is the bucket of a duration: its octave in µs, and the next three
// bits below the highest.
func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 1<<firstOctave))
	octave := bits.Len64(us) - 1
	if octave > lastOctave {
		return histogramLen - 1
	}
	sub := int(us>>(octave-subBits)) & (1<<subBits - 1)
	return (octave-firstOctave)<<subBits + sub
}

// upperBound is the end of a bucket.
func upperBound(bucket int) time.Duration {
	octave, sub := bucket>>subBits+firstOctave, bucket&(1<<subBits-1)
	return time.Duration((uint64(sub)+1+1<<subBits)<<(octave-subBits)) * time.Microsecond
}
