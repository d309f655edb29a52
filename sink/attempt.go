package sink

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"forebay/wal/message"
)

// What ends an attempt, in metrics and in a message's list of attempts.
const (
	outcomeSent       = "sent"
	outcomePermanent  = "permanent"
	outcomeRetryAfter = "retry_after"
	outcomeThrottled  = "throttled"
	outcomeStop       = "stop"
	outcomeUnknown    = "unknown"
	outcomeTransient  = "transient"
)

var outcomes = []string{outcomeSent, outcomePermanent, outcomeRetryAfter, outcomeThrottled, outcomeStop, outcomeUnknown, outcomeTransient}

// Why a message waits (hold_reason).
const (
	HoldBreaker   = "breaker_open"
	HoldThrottled = "throttled"
	HoldScheduled = "scheduled"
	HoldRetry     = "retry"
	HoldCap       = "account_cap"
	HoldStoreDown = "store_down"
	HoldStopped   = "channel_stopped"
	HoldOff       = "channel_off"
)

// attempt makes one attempt at a job, if it may be made, and records its end
// before it returns.
func (o *outlet) attempt(ctx context.Context, j *job, sender Channel, policy Policy) {
	present := now()
	if expired(&j.rec, present) {
		o.d.conclude(ctx, j, expiredState(j.rec.State, present))
		return
	}
	if until := o.restUntil(j, present); !until.IsZero() {
		o.hold(ctx, j, HoldThrottled, until)
		return
	}
	if s, ok := o.reported(ctx, j); ok {
		o.d.conclude(ctx, j, s)
		return
	}
	permit, ok := o.acquire(j)
	if !ok {
		o.shelveIll(ctx, j)
		return
	}
	o.begin(j)
	s := j.rec.State
	s.Status, s.HoldReason, s.NextAttemptAt = message.Sending, "", time.Time{}
	if !o.tellSending(ctx, j, s) {
		permit.Done(Neutral, "")
		return
	}
	j.adopt(s)
	o.d.publish(j)
	if policy == PolicyFail {
		j.become(s)
		// Durable before the call: after a kill the attempt must count as made.
		if err := o.d.cfg.Journal.Progress(ctx, []message.Entry{j.entry}); err != nil {
			permit.Done(Neutral, "")
			o.d.fail(ctx, err)
			return
		}
	}
	n := attemptsOf(&j.rec.State) + 1
	started := time.Now()
	sent, err := o.send(ctx, j, sender, n)
	took := time.Since(started)
	if ctx.Err() != nil && err != nil && !errors.As(err, new(*Unknown)) {
		permit.Done(Neutral, "")
		return // stopped: the log hands it out again, as it was before
	}
	verdict := verdictOf(err)
	why := ""
	if verdict == Failure {
		why = whyOf(err)
	}
	permit.Done(verdict, why)
	o.learn(j, verdict, err)
	o.judge(ctx, j, result{n, present, took, sent, err, policy})
}

// acquire asks the service's breaker, and learns from its answer.
func (o *outlet) acquire(j *job) (Permit, bool) {
	if o.d.cfg.Breakers == nil || j.rec.Test {
		return noPermit{}, true
	}
	permit, ok := o.d.cfg.Breakers.Acquire(j.service)
	if !ok {
		o.d.mu.Lock()
		j.host.credit, j.host.ill = 1, true
		o.d.mu.Unlock()
	}
	return permit, ok
}

type noPermit struct{}

func (noPermit) Done(Verdict, string) {}

// begin is the moment from which a message is being sent.
func (o *outlet) begin(j *job) {
	o.d.mu.Lock()
	defer o.d.mu.Unlock()
	j.phase = sending
	o.d.begun[j.rec.ID] = j
}

func (o *outlet) send(ctx context.Context, j *job, sender Channel, n int) (Sent, error) {
	o.d.mu.Lock()
	timeout := o.d.delivery.AttemptTimeout
	o.d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if j.rec.Test {
		return simulate(ctx, &j.rec, n)
	}
	return o.d.sendSafely(ctx, sender, &Delivery{Record: j.rec, Attempt: n})
}

// result is how an attempt ended.
type result struct {
	n      int
	at     time.Time
	took   time.Duration
	sent   Sent
	err    error
	policy Policy
}

// judge turns the end of an attempt into what follows.
func (o *outlet) judge(ctx context.Context, j *job, r result) {
	var (
		permanent *Permanent
		after     *RetryAfter
		throttled *Throttled
		stop      *StopChannel
		unknown   *Unknown
		transient *Transient
	)
	switch {
	case r.err == nil:
		o.succeeded(ctx, j, r)
	case uncalled(r.err):
		o.postponed(ctx, j)
	case errors.As(r.err, &permanent):
		o.lost(ctx, j, r, outcomePermanent, permanent.Failure, false)
	case errors.As(r.err, &throttled):
		o.throttled(ctx, j, r, throttled)
	case errors.As(r.err, &stop):
		o.stopped(ctx, j, r, stop)
	case errors.As(r.err, &after):
		o.again(ctx, j, r, outcomeRetryAfter, after.Failure, after.After)
	case errors.As(r.err, &unknown) && r.policy == PolicyFail:
		o.lost(ctx, j, r, outcomeUnknown, unknown.Failure, true)
	case errors.As(r.err, &unknown):
		o.again(ctx, j, r, outcomeUnknown, unknown.Failure, 0)
	case errors.As(r.err, &transient):
		o.again(ctx, j, r, outcomeTransient, transient.Failure, 0)
	default:
		o.d.log.Warn("An attempt ended with an error of no kind; it counts as transient.", "channel", o.channel.String(), "id", j.rec.ID, "err", r.err)
		o.again(ctx, j, r, outcomeTransient, message.Failure{Code: "channel_unavailable", Category: "channel",
			Message: "the attempt failed for a reason that the channel did not name"}, 0)
	}
}

// noted returns the state with the attempt in its list and nothing to wait for.
func (o *outlet) noted(j *job, r result, outcome, code string) message.State {
	o.d.metrics.attempt(o.channel, outcome, r.took)
	s := j.rec.State
	s.HoldReason, s.NextAttemptAt = "", time.Time{}
	s.Attempts = addAttempt(s.Attempts, message.Attempt{N: r.n, At: r.at, Outcome: outcome, ChannelCode: code, Duration: r.took})
	return s
}

// keptAttempts bounds the list that is kept with a message: its number goes on.
const keptAttempts = 20

func addAttempt(list []message.Attempt, a message.Attempt) []message.Attempt {
	if len(list) >= keptAttempts {
		list = list[len(list)-keptAttempts+1:]
	}
	return append(list[:len(list):len(list)], a)
}

// attemptsOf is how many attempts have been used up.
func attemptsOf(s *message.State) int {
	if n := len(s.Attempts); n > 0 {
		return s.Attempts[n-1].N
	}
	return 0
}

func (o *outlet) succeeded(ctx context.Context, j *job, r result) {
	s := o.noted(j, r, outcomeSent, r.sent.ChannelCode)
	s.Status, s.SentAt, s.Error = message.Sent, now(), nil
	s.ProviderID = providerID(r.sent.ProviderID)
	if r.sent.Delivered {
		s.Status, s.DeliveredAt = message.Delivered, s.SentAt
	}
	o.d.mu.Lock()
	o.meter.add(time.Now(), 1)
	o.d.mu.Unlock()
	o.d.conclude(ctx, j, s)
}

// lost ends a message that will not be tried again.
func (o *outlet) lost(ctx context.Context, j *job, r result, outcome string, why message.Failure, retryable bool) {
	s := o.noted(j, r, outcome, why.ChannelCode)
	why.Retryable = retryable
	s.Status, s.FailedAt, s.Error = message.Failed, now(), &why
	o.d.mu.Lock()
	o.failed++
	o.d.mu.Unlock()
	o.d.conclude(ctx, j, s)
}

// again parks the message until its next attempt, or ends it after the last.
func (o *outlet) again(ctx context.Context, j *job, r result, outcome string, why message.Failure, floor time.Duration) {
	o.d.mu.Lock()
	most, backoff := o.d.delivery.MaxAttempts, Backoff{o.d.delivery.BaseDelay, o.d.delivery.MaxDelay}
	o.d.mu.Unlock()
	if r.n >= most {
		o.lost(ctx, j, r, outcome, why, true)
		return
	}
	s := o.noted(j, r, outcome, why.ChannelCode)
	why.Retryable = true
	s.Error = &why
	j.become(s)
	o.hold(ctx, j, HoldRetry, time.Now().Add(max(backoff.Delay(r.n, rand.Uint64()), floor)))
}

// postponed parks a message of which no attempt could be made.
func (o *outlet) postponed(ctx context.Context, j *job) {
	o.d.mu.Lock()
	backoff := Backoff{o.d.delivery.BaseDelay, o.d.delivery.MaxDelay}
	o.d.mu.Unlock()
	// A step further than a retry, so that it is never at once.
	delay := backoff.Base + backoff.Delay(attemptsOf(&j.rec.State)+2, rand.Uint64())
	o.hold(ctx, j, HoldRetry, time.Now().Add(delay))
}

// throttled slows down what the service asked to, and gives the attempt back.
func (o *outlet) throttled(ctx context.Context, j *job, r result, t *Throttled) {
	r.n = attemptsOf(&j.rec.State)
	s := o.noted(j, r, outcomeThrottled, t.Failure.ChannelCode)
	why := t.Failure
	why.Retryable = true
	s.Error = &why
	j.become(s)
	o.d.mu.Lock()
	var until time.Time
	switch t.Scope {
	case ScopeRecipient:
		until = o.d.recipients.throttle(recipient{o.channel, j.rec.To}, time.Now(), t.After)
	case ScopeAccount:
		until = o.pace.pause(time.Now(), max(t.After, time.Minute))
	default:
		until = o.pace.pause(time.Now(), t.After)
	}
	o.d.mu.Unlock()
	o.hold(ctx, j, HoldThrottled, until)
}

// restUntil is when the recipient may be tried; zero: now.
func (o *outlet) restUntil(j *job, present time.Time) time.Time {
	o.d.mu.Lock()
	defer o.d.mu.Unlock()
	return o.d.recipients.until(recipient{o.channel, j.rec.To}, present)
}

// stopped pauses the channel: nothing can be sent until an operator acts. One
// message tries from time to time whether that has happened.
func (o *outlet) stopped(ctx context.Context, j *job, r result, stop *StopChannel) {
	o.d.metrics.attempt(o.channel, outcomeStop, r.took)
	s := j.rec.State
	s.Status, s.HoldReason, s.NextAttemptAt = message.Queued, HoldStopped, time.Time{}
	j.become(s)
	o.d.publish(j)
	o.d.mu.Lock()
	news := !time.Now().Before(o.stoppedUntil)
	if news {
		o.stops++
		o.stoppedUntil = time.Now().Add(Backoff{30 * time.Second, 10 * time.Minute}.Ceiling(o.stops))
	}
	until := o.stoppedUntil
	j.host.credit = 1
	rest := o.emptyLocked()
	o.d.mu.Unlock()
	if news {
		o.d.log.Error("The channel has stopped: nothing can be sent until an operator acts. Its messages wait and lose no attempt.",
			"channel", o.channel.String(), "code", stop.Failure.Code, "channel_code", stop.Failure.ChannelCode, "next_probe", until, "err", stop)
		if o.d.cfg.OnStop != nil {
			why := stop.Failure
			o.d.cfg.OnStop(o.channel, &why, until)
		}
	}
	for _, other := range rest {
		s := other.rec.State
		s.HoldReason = HoldStopped
		other.become(s)
	}
	o.shelve(ctx, kindHost, append(rest, j)...)
}

// shelveIll puts a job to rest whose breaker is open.
func (o *outlet) shelveIll(ctx context.Context, j *job) {
	s := j.rec.State
	s.HoldReason, s.NextAttemptAt = HoldBreaker, o.retryAt(j.service)
	j.become(s)
	o.shelve(ctx, kindHost, j)
}

func (o *outlet) retryAt(service string) time.Time {
	if o.d.cfg.Breakers == nil {
		return time.Time{}
	}
	at := o.d.cfg.Breakers.RetryAt(service)
	if at.IsZero() {
		return at
	}
	return at.UTC().Truncate(time.Millisecond)
}

// hold parks a job until a time, or until it expires if that is sooner.
func (o *outlet) hold(ctx context.Context, j *job, reason string, until time.Time) {
	if exp := j.rec.ExpiresAt(); !exp.IsZero() && exp.Before(until) {
		until = exp
	}
	s := j.rec.State
	tried := s.Status == message.Sending
	s.Status, s.HoldReason, s.NextAttemptAt = message.Queued, reason, until.UTC().Truncate(time.Millisecond)
	j.become(s)
	if tried {
		o.d.publish(j)
	}
	o.d.park(ctx, until, j)
}

func expired(r *message.Record, at time.Time) bool {
	exp := r.ExpiresAt()
	return !exp.IsZero() && !at.Before(exp)
}

func expiredState(s message.State, at time.Time) message.State {
	s.Status, s.FailedAt, s.HoldReason, s.NextAttemptAt = message.Expired, at, "", time.Time{}
	if s.Error == nil {
		s.Error = &message.Failure{Code: "expired", Category: "lifecycle", Message: "the message was not sent within its time to live"}
	}
	return s
}
