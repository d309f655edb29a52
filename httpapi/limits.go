package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
)

// Plan is what limits an account.
type Plan struct {
	Name              string
	RequestsPerMinute int // messages in any window
	Burst             int // messages at once
	Concurrent        int // requests in flight
	Shadow            bool
}

// Limiter holds accounts to their plans. It waits only if it must ask others.
type Limiter interface {
	// Enter admits one request of the account into its concurrent ones. The
	// error is a *Limited, whose Pass is not to be left unless it is a shadow's.
	// No Pass and no error: nothing is limited.
	Enter(ctx context.Context, account string, plan Plan) (Pass, error)
	// Quota is what an account has left; false: nothing is limited.
	Quota(account string, plan Plan) (Quota, bool)
}

// Pass is a request in flight.
type Pass interface {
	// Take takes up to n messages' tokens and returns how many are to be settled.
	// The error, a *Limited, says why not all; without one, or with a shadow's, all n
	// may go.
	Take(ctx context.Context, n int) (int, error)
	// Settle says how many of the messages that were admitted count; the others
	// have used up nothing.
	Settle(admitted, counted int)
	Quota() Quota
	// Leave ends the request.
	Leave()
}

// Limited says that a limit, or not knowing one, keeps something out.
type Limited struct {
	Code   Code          // CodeRateLimited, CodeBurstLimited, CodeTooManyConcurrent or CodeUnavailable
	Retry  time.Duration // enough for a client that is alone
	Shadow bool          // it is counted only: go on
}

// Error implements error.
func (l *Limited) Error() string { return "limited: " + string(l.Code) }

// Quota is what an account has left of its plan.
type Quota struct {
	Minute, Burst, Concurrent int64 // left
	InFlight                  int64
	Window, Reset, Refill     time.Duration // Reset: until something of the window comes back
}

// The names of the policies in RateLimit fields and problems.
const (
	policyMinute     = "minute"
	policyBurst      = "burst"
	policyConcurrent = "concurrent"
)

// violated names the policy that a code is about; empty: none.
func violated(code Code) string {
	switch code {
	case CodeRateLimited:
		return policyMinute
	case CodeBurstLimited:
		return policyBurst
	case CodeTooManyConcurrent:
		return policyConcurrent
	}
	return ""
}

// problem is what the client is told.
func (l *Limited) problem() *Problem {
	p := &Problem{Code: l.Code, RetryAfter: max(l.Retry, time.Millisecond)}
	switch l.Code {
	case CodeRateLimited:
		p.Detail = "The account has sent as many messages as its plan allows in its window."
	case CodeBurstLimited:
		p.Detail = "The account has sent as many messages at once as its plan allows."
	case CodeTooManyConcurrent:
		p.Detail = "The account has as many requests in flight as its plan allows."
	default:
		p.Detail, p.cause = "The limits of the account cannot be checked at the moment.", l
	}
	return p
}

// enter admits the request, or returns the problem. Who calls it must leave the
// pass, if there is one.
func (a *API) enter(x *exchange, who *Principal) (Pass, error) {
	if a.cfg.Limiter == nil {
		return nil, nil
	}
	pass, err := a.cfg.Limiter.Enter(x.r.Context(), who.Account, who.Plan)
	x.plan = who.Plan
	limited, ok := errors.AsType[*Limited](err)
	switch {
	case ok && limited.Shadow:
		return pass, nil
	case ok:
		x.quota(a, pass)
		return nil, limited.problem()
	case err != nil:
		return nil, fmt.Errorf("enter: %w", err)
	}
	return pass, nil
}

func leave(pass Pass) {
	if pass != nil {
		pass.Leave()
	}
}

// admit takes one message's token and says so in the answer's head.
func (a *API) admit(x *exchange, pass Pass) (admitted int, err error) {
	if pass == nil {
		return 0, nil
	}
	admitted, err = pass.Take(x.r.Context(), 1)
	x.quota(a, pass)
	if limited, ok := errors.AsType[*Limited](err); ok && !limited.Shadow {
		return 0, limited.problem()
	}
	return admitted, nil
}

// settle says whether an admitted message counts, by what became of it. One of
// which nobody knows whether it is in the log does. The answer's head then says
// again what is left.
func (a *API) settle(x *exchange, pass Pass, admitted int, replayed bool, err error) {
	if admitted == 0 {
		return
	}
	counted := admitted
	if replayed || refused(err) {
		counted = 0
	}
	pass.Settle(admitted, counted)
	if counted < admitted {
		x.quota(a, pass)
	}
}

// refused reports whether the log has surely not taken the message.
func refused(err error) bool {
	for _, target := range [...]error{ErrInProgress, ErrMismatch, ErrStorageFull, ErrStalled, ErrOverloaded, ErrDraining, ErrTooLarge, ErrNotFound, ErrNotFailed} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// quota sets the fields of draft-ietf-httpapi-ratelimit-headers.
func (x *exchange) quota(a *API, pass Pass) {
	if pass == nil {
		return
	}
	q := pass.Quota()
	x.w.Header()["Ratelimit-Policy"] = a.policies.of(x.plan, &q)
	x.setValue(valueRateLimit, "Ratelimit", string(q.append(make([]byte, 0, 40), x.plan)))
}

// append appends the field for the policy nearest its end.
func (q *Quota) append(b []byte, plan Plan) []byte {
	name, left, reset := policyMinute, q.Minute, q.Reset
	share := float64(left) / float64(plan.RequestsPerMinute)
	if s := float64(q.Burst) / float64(plan.Burst); s < share {
		name, left, reset, share = policyBurst, q.Burst, q.Refill/time.Duration(plan.Burst), s
	}
	if s := float64(q.Concurrent) / float64(plan.Concurrent); s < share {
		name, left, reset = policyConcurrent, q.Concurrent, time.Second
	}
	b = append(append(append(b, '"'), name...), `";r=`...)
	b = strconv.AppendInt(b, left, 10)
	return strconv.AppendInt(append(b, ";t="...), seconds(reset), 10)
}

// seconds rounds up, to at least one.
func seconds(d time.Duration) int64 { return max(1, int64((d+time.Second-1)/time.Second)) }

func policyField(plan Plan, q *Quota) string {
	return fmt.Sprintf(`"%s";q=%d;w=%d,"%s";q=%d;w=%d,"%s";q=%d;qu="concurrent-requests"`,
		policyMinute, plan.RequestsPerMinute, seconds(q.Window), policyBurst, plan.Burst, seconds(q.Refill),
		policyConcurrent, plan.Concurrent)
}

// limitsView is the answer of GET /v1/limits.
type limitsView struct {
	Plan      string     `json:"plan"`
	Mode      string     `json:"mode"` // enforce, shadow, off
	Limits    limitsOf   `json:"limits"`
	Remaining *limitsFor `json:"remaining,omitzero"`
	Resets    *resets    `json:"resets,omitzero"`
	InFlight  int64      `json:"in_flight"`
}

type limitsOf struct {
	RequestsPerMinute int   `json:"requests_per_minute"`
	Burst             int   `json:"burst"`
	Concurrent        int   `json:"concurrent"`
	WindowSeconds     int64 `json:"window_seconds,omitzero"`
}

type limitsFor struct {
	Minute     int64 `json:"minute"`
	Burst      int64 `json:"burst"`
	Concurrent int64 `json:"concurrent"`
}

// resets are in seconds: until something comes back. 0: all is there.
type resets struct {
	Minute int64 `json:"minute"`
	Burst  int64 `json:"burst"`
}

// limits answers GET /v1/limits.
func (a *API) limits(x *exchange) error {
	who, err := a.authenticate(x)
	if err != nil {
		return err
	}
	v := limitsView{Plan: who.Plan.Name, Mode: "off",
		Limits: limitsOf{who.Plan.RequestsPerMinute, who.Plan.Burst, who.Plan.Concurrent, 0}}
	if a.cfg.Limiter != nil {
		if q, ok := a.cfg.Limiter.Quota(who.Account, who.Plan); ok {
			v.fill(&q, &who.Plan)
		}
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("render limits: %w", err)
	}
	h := x.w.Header()
	h[headerContentType] = valuesJSON
	h["Cache-Control"] = valuesNoStore
	x.write(http.StatusOK, body)
	return nil
}

func (v *limitsView) fill(q *Quota, plan *Plan) {
	v.Mode = "enforce"
	if plan.Shadow {
		v.Mode = "shadow"
	}
	v.Limits.WindowSeconds = seconds(q.Window)
	v.Remaining = &limitsFor{q.Minute, q.Burst, q.Concurrent}
	v.InFlight = q.InFlight
	v.Resets = &resets{}
	if q.Minute < int64(plan.RequestsPerMinute) {
		v.Resets.Minute = seconds(q.Reset)
	}
	if q.Burst < int64(plan.Burst) {
		v.Resets.Burst = seconds(q.Refill / time.Duration(plan.Burst))
	}
}
