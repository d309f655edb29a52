package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/wal/message"

	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"
)

// blockedMessages never answers: the database is gone, and so is what asks it.
type blockedMessages struct{}

func (blockedMessages) Get(ctx context.Context, _ string, _ message.ID) (message.Record, error) {
	<-ctx.Done()
	return message.Record{}, ctx.Err()
}

func (blockedMessages) List(ctx context.Context, _ message.Query) (message.Page, error) {
	<-ctx.Done()
	return message.Page{}, ctx.Err()
}

func (blockedMessages) Wait(ctx context.Context, _ message.ID) (message.State, error) {
	<-ctx.Done()
	return message.State{}, ctx.Err()
}

// The HTTP half: whatever is submitted, no time passes between the log's answer
// and ours. A client that asks to wait waits as long as it asked, no longer.
func TestProperty16_AnswerWaitsForTheLogOnly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		body := fmt.Sprintf(`{"channel":"store","body":%q,"priority":%q}`, rapid.StringMatching(`[a-z]{1,20}`).Draw(rt, "body"),
			rapid.SampledFrom([]string{"critical", "high", "normal", "low"}).Draw(rt, "priority"))
		append := time.Duration(rapid.IntRange(0, 5000).Draw(rt, "append")) * time.Millisecond
		wait := rapid.IntRange(0, 40).Draw(rt, "wait")
		rapid.SyncTest(rt, func(rt *rapid.T) {
			log := &memoryLog{keys: map[string]int{}, before: func([]*message.Message) { <-time.After(append) }}
			api, err := New(Config{Log: log, Messages: blockedMessages{}, Keys: memoryKeys{}})
			if err != nil {
				rt.Fatal(err)
			}
			start := time.Now()
			rec := httptest.NewRecorder()
			api.Handler().ServeHTTP(rec, request("POST", "/v1/messages", body, "Prefer", fmt.Sprintf("wait=%d", wait)))
			want := max(append, time.Duration(min(wait, 30))*time.Second)
			if took := time.Since(start); rec.Code != 202 || took != want {
				rt.Fatalf("append takes %s, wait=%d: got %d after %s, want 202 after %s", append, wait, rec.Code, took, want)
			}
		})
	})
}

// Every accepted message has an id at once, which is valid, its own, and the
// name under which it can be asked for.
func TestProperty17_EveryAcceptedMessageHasItsID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		n := rapid.IntRange(1, 50).Draw(t, "submissions")
		ids := make([]string, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				rec := w.do("POST", "/v1/messages", fmt.Sprintf(`{"channel":"store","body":"%d"}`, i))
				var answer struct{ ID string }
				if json.Unmarshal(rec.Body.Bytes(), &answer) == nil && rec.Code == 202 {
					ids[i] = answer.ID
				}
			})
		}
		wg.Wait()
		seen := map[string]bool{}
		for i, text := range ids {
			id, err := message.ParseID(text)
			if err != nil || seen[text] || time.Since(id.Time()).Abs() > time.Minute {
				t.Fatalf("submission %d: id %q: %v, seen before: %v", i, text, err, seen[text])
			}
			seen[text] = true
			if rec := w.do("GET", "/v1/messages/"+text, ""); rec.Code != 200 || !strings.Contains(rec.Body.String(), text) {
				t.Fatalf("get %s: %d %s", text, rec.Code, rec.Body)
			}
		}
	})
}

// Counters agree with what was sent, whatever was sent.
func TestProperty20_CountersAgree(t *testing.T) {
	kindsOfRequest := []struct {
		target, body string
		header       []string
		code         string // of the refusal; empty: accepted
		status       string
		route        string
	}{
		{"/v1/messages", hello, nil, "", "202", "POST /v1/messages"},
		{"/v1/messages", `{"channel":"store","body":"b","priority":"low"}`, nil, "", "202", "POST /v1/messages"},
		{"/v1/messages", `{"channel":"store"}`, nil, "invalid", "422", "POST /v1/messages"},
		{"/v1/messages", `{`, nil, "malformed", "400", "POST /v1/messages"},
		{"/v1/messages", hello, []string{"Authorization", ""}, "unauthenticated", "401", "POST /v1/messages"},
		{"/v1/messages/batch", hello, nil, "unsupported_media_type", "415", "POST /v1/messages/batch"},
		{"/elsewhere", hello, nil, "", "404", "none"},
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		requests, refused := map[string]float64{}, map[string]float64{}
		accepted := map[string]float64{}
		total := 0.0
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(kindsOfRequest)-1), 0, 60).Draw(t, "requests") {
			k := kindsOfRequest[i]
			w.do("POST", k.target, k.body, k.header...)
			requests[k.route+" "+k.status]++
			total++
			switch {
			case k.code != "":
				refused[k.code]++
			case i == 0:
				accepted["store normal"]++
			case i == 1:
				accepted["store low"]++
			}
		}
		families, err := w.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		checkFamily(t, families, "forebay_http_requests_total", requests, "route", "code")
		checkFamily(t, families, "forebay_messages_refused_total", refused, "code")
		checkFamily(t, families, "forebay_messages_accepted_total", accepted, "channel", "priority")
		observed := 0.0
		for _, m := range family(families, "forebay_http_request_duration_seconds") {
			observed += float64(m.GetHistogram().GetSampleCount())
		}
		if observed != total {
			t.Fatalf("%v requests, %v observations", total, observed)
		}
		in := w.Intake()
		if want := accepted["store normal"] + accepted["store low"]; float64(in.AcceptedTotal) != want {
			t.Fatalf("intake: accepted %d, want %v", in.AcceptedTotal, want)
		}
		for code, n := range refused {
			if float64(in.RefusedByCode[code]) != n {
				t.Fatalf("intake: refused %v, want %v", in.RefusedByCode, refused)
			}
		}
	})
}

func family(families []*dto.MetricFamily, name string) []*dto.Metric {
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	return nil
}

func checkFamily(t *rapid.T, families []*dto.MetricFamily, name string, want map[string]float64, labels ...string) {
	for _, m := range family(families, name) {
		var parts []string
		for _, l := range labels {
			for _, p := range m.GetLabel() {
				if p.GetName() == l {
					parts = append(parts, p.GetValue())
				}
			}
		}
		key := strings.Join(parts, " ")
		if got := m.GetCounter().GetValue(); got != want[key] {
			t.Fatalf("%s{%s}: got %v, want %v", name, key, got, want[key])
		}
	}
}

// Rates and quantiles agree with what was observed.
func TestProperty20_WindowAgrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		latencies := rapid.SliceOfN(rapid.Int64Range(int64(20*time.Microsecond), int64(30*time.Second)), 1, 50).Draw(rt, "latencies")
		rapid.SyncTest(rt, func(rt *rapid.T) {
			var w window
			high := time.Duration(0)
			for _, l := range latencies {
				w.accept(time.Now())
				w.observe(time.Now(), time.Duration(l))
				high = max(high, time.Duration(l))
			}
			if rate, latency := w.read(time.Now()); rate != 0 || latency != (Latency{}) {
				rt.Fatalf("the slot being filled counts already: %v %v", rate, latency)
			}
			<-time.After(2 * time.Second)
			rate, latency := w.read(time.Now())
			if want := float64(len(latencies)) / 10; rate != want {
				rt.Fatalf("got rate %v, want %v", rate, want)
			}
			if latency.P99 < high.Seconds()*.999 || latency.P99 > high.Seconds()*1.126 || latency.P50 > latency.P90 || latency.P90 > latency.P99 {
				rt.Fatalf("got %+v, highest was %s", latency, high)
			}
			<-time.After(10 * time.Second)
			if rate, latency := w.read(time.Now()); rate != 0 || latency != (Latency{}) {
				rt.Fatalf("old counts are still there: %v %v", rate, latency)
			}
		})
	})
}

func TestIntakeOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, err := New(Config{Log: &memoryLog{keys: map[string]int{}}, Messages: blockedMessages{}, Keys: memoryKeys{}})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			api.Handler().ServeHTTP(httptest.NewRecorder(), request("POST", "/v1/messages", hello))
		}
		<-time.After(2 * time.Second)
		if in := api.Intake(); in.Rate != 2 || in.AcceptedTotal != 20 || in.Latency.P50 == 0 {
			t.Errorf("got %+v", in)
		}
	})
}
