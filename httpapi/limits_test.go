package httpapi

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"
)

// onPlan are keys whose accounts are on a plan.
type onPlan struct {
	memoryKeys
	plan Plan
}

func (k onPlan) Authenticate(key string) (Principal, error) {
	p, err := k.memoryKeys.Authenticate(key)
	p.Plan = k.plan
	return p, err
}

// TestRateLimitTellsWhatIsLeft: what was not accepted anew has used up nothing, and
// the answer's own head says so.
func TestRateLimitTellsWhatIsLeft(t *testing.T) {
	l := &tokens{left: 10}
	w := newWorld(t, func(c *Config) {
		c.Limiter, c.Keys = limiterOf{l}, onPlan{plan: Plan{RequestsPerMinute: 1000, Burst: 10, Concurrent: 1000}}
	})
	const other = `{"channel":"store","body":"other"}`
	for _, step := range []struct {
		what, key, body string
		status          int
		left            string
	}{
		{"accepted", "k", hello, 202, "9"},
		{"the same again", "k", hello, 202, "9"},
		{"another with its key", "k", other, 422, "9"},
		{"another", "l", other, 202, "8"},
	} {
		rec := w.do("POST", "/v1/messages", step.body, "Idempotency-Key", step.key)
		if want := `"burst";r=` + step.left + `;t=1`; rec.Code != step.status || rec.Header().Get("RateLimit") != want {
			t.Errorf("%s: got %d and %s, want %d and %s", step.what, rec.Code, rec.Header().Get("RateLimit"), step.status, want)
		}
	}
}

// limitedBy refuses everything for one reason.
type limitedBy struct {
	tokens
	code Code
}

func (l *limitedBy) Enter(context.Context, string, Plan) (Pass, error) {
	return &l.tokens, &Limited{Code: l.code, Retry: 1500 * time.Millisecond}
}

func (l *limitedBy) Quota(string, Plan) (Quota, bool) { return Quota{}, false }

// TestLimitedIsAsDocumented holds the refusals by limits against the document.
func TestLimitedIsAsDocumented(t *testing.T) {
	doc := document(t)
	for code, policy := range map[Code]string{CodeRateLimited: "minute", CodeBurstLimited: "burst", CodeTooManyConcurrent: "concurrent"} {
		w := newWorld(t, func(c *Config) {
			c.Limiter, c.Keys = &limitedBy{code: code}, onPlan{plan: Plan{RequestsPerMinute: 1, Burst: 1, Concurrent: 1}}
		})
		r := request("POST", "/v1/messages", hello)
		rec := httptest.NewRecorder()
		w.Handler().ServeHTTP(rec, r)
		checkProblem(t, rec, string(code))
		checkExchange(t, doc, w.API, r, hello, rec)
		var p struct {
			Violated []string `json:"violated-policies"`
			Retry    int      `json:"retry_after_seconds"`
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if rec.Code != 429 || len(p.Violated) != 1 || p.Violated[0] != policy || p.Retry != 2 || rec.Header().Get("Retry-After") != "2" {
			t.Errorf("%s: got %d %v %s", code, rec.Code, rec.Header(), rec.Body)
		}
	}
}
