package sink

import (
	"strings"
	"time"

	"forebay/wal/message"
)

// pace keeps a channel to so many attempts a second: a bucket of a tenth of a
// second's worth, as a virtual time of arrival (the leaky bucket of ITU-T
// I.371). A throttle pauses it.
type pace struct {
	interval time.Duration // between attempts; 0: no pace
	slack    time.Duration
	arrival  time.Time // when the bucket would be empty
	paused   time.Time // until when
	pauses   int       // in a row
}

func (p *pace) set(perSecond float64) {
	p.interval, p.slack = 0, 0
	if perSecond > 0 {
		p.interval = time.Duration(float64(time.Second) / perSecond)
		p.slack = time.Second / 10
	}
}

// wait is how long no attempt may be made.
func (p *pace) wait(now time.Time) time.Duration {
	wait := p.paused.Sub(now)
	if p.interval > 0 {
		wait = max(wait, p.arrival.Add(-p.slack).Sub(now)) // of the zero time, Sub is the least Duration: nothing may be taken off it
	}
	return max(wait, 0)
}

func (p *pace) spend(now time.Time) {
	if p.interval == 0 {
		return
	}
	if p.arrival.Before(now) {
		p.arrival = now
	}
	p.arrival = p.arrival.Add(p.interval)
}

// pausedUntil is until when a throttle pauses the pace; zero: none does.
func (p *pace) pausedUntil(now time.Time) time.Time {
	if p.paused.After(now) {
		return p.paused
	}
	return time.Time{}
}

const maxPause = 5 * time.Minute

// pause stops the pace, longer each time in a row, and returns until when.
func (p *pace) pause(now time.Time, after time.Duration) time.Time {
	if p.paused.After(now) && after == 0 {
		return p.paused // others that were under way together say the same
	}
	if after == 0 {
		after = Backoff{time.Second, maxPause}.Ceiling(p.pauses + 1)
	}
	p.pauses++
	if until := now.Add(after); until.After(p.paused) {
		p.paused = until
	}
	return p.paused
}

// recipients are those that a service asked to be left alone for a while. It is
// bounded: where it is full, a new one waits by the schedule alone.
type recipients map[recipient]*rest

type recipient struct {
	channel message.Channel
	to      string
}

type rest struct {
	until time.Time
	times int
}

const maxRecipients = 20_000

// throttle notes that the recipient is to rest, for 4^n seconds where the
// service did not say (WhatsApp's rule for a pair), and returns until when.
func (r *recipients) throttle(who recipient, now time.Time, after time.Duration) time.Time {
	if *r == nil {
		*r = recipients{}
	}
	t := (*r)[who]
	if t == nil {
		if len(*r) >= maxRecipients {
			r.sweep(now)
		}
		t = &rest{}
		if len(*r) < maxRecipients {
			who.to = strings.Clone(who.to) // see message.Entry.Record
			(*r)[who] = t
		}
	}
	if after <= 0 {
		after = min(time.Second<<(2*min(t.times, 8)), time.Hour)
	}
	t.times++
	t.until = now.Add(after)
	return t.until
}

// well notes that a message reached the recipient: the next throttle is the first
// again, unless this one began before the last.
func (r recipients) well(who recipient, now time.Time) {
	if t := r[who]; t != nil && !t.until.After(now) {
		delete(r, who)
	}
}

// until is when the recipient may be tried; zero: now.
func (r recipients) until(who recipient, now time.Time) time.Time {
	if t := r[who]; t != nil && t.until.After(now) {
		return t.until
	}
	return time.Time{}
}

// sweep forgets those who have rested for as long again.
func (r *recipients) sweep(now time.Time) {
	for who, t := range *r {
		if now.Sub(t.until) > time.Minute {
			delete(*r, who)
		}
	}
}
