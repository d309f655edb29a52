package sinktest

import "time"

// What Meta lets one business phone number do (Cloud API, "Throughput", "Pair
// rate limits" and "Customer service windows").
const (
	whatsappPerSecond = 80
	whatsappPairEvery = 6 * time.Second
	whatsappPairBurst = 45
	whatsappWindow    = 24 * time.Hour
)

// pace is one in so long, beyond a burst.
type pace struct {
	every time.Duration
	burst int
}

// whatsappLimits are those limits and how far each is used up. WhatsApp.mu guards
// them.
type whatsappLimits struct {
	number, pair pace
	full         time.Time            // when the number's bucket is whole again
	pairs        map[string]time.Time // and those of recipients
	wrote        map[string]time.Time // when a recipient wrote last
	everyone     bool                 // all have written just now
	met          map[int]int          // refusals, by code
}

func newWhatsAppLimits() whatsappLimits {
	return whatsappLimits{number: pace{time.Second / whatsappPerSecond, whatsappPerSecond}, pair: pace{whatsappPairEvery, whatsappPairBurst},
		pairs: map[string]time.Time{}, wrote: map[string]time.Time{}, met: map[int]int{}}
}

// SetPace gives the number another pace than a message in an 80th of a second
// beyond a burst of 80, and SetPairPace a recipient another one than a message in
// 6 s beyond a burst of 45: the same rules in scaled time.
func (w *WhatsApp) SetPace(every time.Duration, burst int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limits.number = pace{every, burst}
}

// SetPairPace is described at SetPace.
func (w *WhatsApp) SetPairPace(every time.Duration, burst int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limits.pair = pace{every, burst}
}

// Wrote opens the window of 24 hours in which the recipient may be sent text.
func (w *WhatsApp) Wrote(to string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limits.wrote[to] = at
}

// EveryoneWrote opens the windows of all recipients for good.
func (w *WhatsApp) EveryoneWrote() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limits.everyone = true
}

// Limited counts the calls that a limit refused, by Meta's code.
func (w *WhatsApp) Limited(code int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limits.met[code]
}

// limit holds a call to the limits; code 0: it may be taken.
func (w *WhatsApp) limit(call *whatsappCall, now time.Time) (status, code int, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &w.limits
	refuse := func(status, code int, why string) (int, int, string) {
		l.met[code]++
		return status, code, why
	}
	if call.Type == "text" && !l.everyone && now.Sub(l.wrote[call.To]) >= whatsappWindow {
		return refuse(400, 131047, "more than 24 hours have passed since the customer last replied")
	}
	pair, ok := l.pair.spend(l.pairs[call.To], now)
	if !ok {
		return refuse(429, 131056, "too many messages from this phone number to the same phone number")
	}
	number, ok := l.number.spend(l.full, now)
	if !ok {
		return refuse(400, 130429, "Cloud API message throughput has been reached")
	}
	l.pairs[call.To], l.full = pair, number
	return 0, 0, ""
}

// spend takes one from a bucket that is whole again at full, and says when it is
// then (GCRA); false: it is empty.
func (p pace) spend(full, now time.Time) (time.Time, bool) {
	if full.Before(now) {
		full = now
	}
	full = full.Add(p.every)
	return full, full.Sub(now) <= time.Duration(p.burst)*p.every
}
