package appliance_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"pgregory.net/rapid"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// TestProperty02_OverCapacity and 06: any load over a tiny capacity, while the
// database is away and comes back, is kept on disk or refused; what was accepted
// is in the database, unchanged, and what was refused is not.
func TestProperty02_OverCapacity(t *testing.T) {
	t.Parallel()
	overCapacity(t, "p02-", 256*config.KiB, "202")
}

// TestProperty06_FullBuffer: the same with a body limit that refuses some of
// them: a refusal is whole, and takes nothing with it.
func TestProperty06_FullBuffer(t *testing.T) {
	t.Parallel()
	overCapacity(t, "p06-", 4*config.KiB, "202", "413 too_large")
}

func overCapacity(t *testing.T, prefix string, maxBody config.Size, allowed ...string) {
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), withCapacity(100), func(c *config.Config) { c.HTTP.MaxBodyBytes = maxBody })
	if status, a := submit(t, n, `{"channel":"store","body":"first","client_ref":"first"}`, "Prefer", "wait=30"); status != http.StatusCreated {
		t.Fatalf("%d %+v", status, a)
	}
	ledger, round := appliancetest.NewLedger(), 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		bursts := rapid.IntRange(1, 3).Draw(rt, "bursts")
		connections := rapid.IntRange(1, 64).Draw(rt, "connections")
		pg.Pause()
		for b := range bursts {
			sendAll(ledger, n.Target(), submissionsOf(rt, fmt.Sprintf("%s%d-%d-", prefix, round, b), 100, 500, 10_000), connections)
			if b == bursts-1 {
				pg.Resume() // the drain begins before the last burst, or after it
			}
		}
		if err := checkOutcomes(ledger, allowed...); err != nil {
			rt.Fatal(err)
		}
		awaitDrained(t, n.Admin)
		rows := slices.DeleteFunc(appliancetest.PostgresRows(t, pg.URL()), func(r appliancetest.Row) bool { return r.Ref == "first" })
		if err := ledger.Compare(rows); err != nil {
			rt.Fatal(err)
		}
	})
	checkAudit(t, n.Admin)
	t.Log(ledger.Summary())
}

// TestProperty17_IDsAcrossRestarts: ids are valid, unique and rise in the order
// of acceptance, also from one start to the next.
func TestProperty17_IDsAcrossRestarts(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t)
	ledger, round := appliancetest.NewLedger(), 0
	var last message.ID
	rapid.Check(t, func(rt *rapid.T) {
		round++
		for _, a := range sendAll(ledger, n.Target(), submissionsOf(rt, fmt.Sprintf("p17-%d-", round), 20, 100, 300), 1) {
			id, err := message.ParseID(a.ID)
			if err != nil || id.Compare(last) <= 0 || id.Node() != 1 || a.Status != http.StatusAccepted {
				rt.Fatalf("%+v after %v: %v", a, last, err)
			}
			last = id
		}
		if rapid.Bool().Draw(rt, "restart") {
			n = n.Restart()
		}
	})
}

// TestProperty20_MetricsAgreeWithWhatWasSent: what /metrics and /status count is
// what clients saw.
func TestProperty20_MetricsAgreeWithWhatWasSent(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t)
	ledger, round := appliancetest.NewLedger(), 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		bad := rapid.IntRange(0, 20).Draw(rt, "invalid")
		sendAll(ledger, n.Target(), submissionsOf(rt, fmt.Sprintf("p20-%d-", round), 20, 100, 2000), 8)
		for range bad {
			if status, a := submit(t, n, `{"channel":"store"}`); status != http.StatusUnprocessableEntity {
				rt.Fatalf("%d %+v", status, a)
			}
		}
		before := metric(t, n, `forebay_messages_refused_total{code="invalid"}`)
		submit(t, n, `{"channel":"store"}`)
		if after := metric(t, n, `forebay_messages_refused_total{code="invalid"}`); after != before+1 {
			rt.Fatalf("refused: %v, then %v", before, after)
		}
		awaitDrained(t, n.Admin)
		want := float64(ledger.Count("202"))
		if got := metric(t, n, `forebay_messages_accepted_total{`); got != want {
			rt.Fatalf("accepted: counted %v, sent %v", got, want)
		}
		if got := metric(t, n, `forebay_store_rows_total{outcome="new"}`); got != want {
			rt.Fatalf("stored: counted %v, sent %v", got, want)
		}
		// Each request is in the histogram of its route once, and each row came by
		// one batch: what the two count together is what was sent.
		answered := metric(t, n, `forebay_http_requests_total{code="202",route="POST /v1/messages"}`)
		asked := answered + metric(t, n, `forebay_http_requests_total{code="422",route="POST /v1/messages"}`)
		timed := metric(t, n, `forebay_http_request_duration_seconds_count{route="POST /v1/messages"}`)
		if refused := metric(t, n, `forebay_messages_refused_total{code="invalid"}`); answered != want || timed != want+refused || asked != timed {
			rt.Fatalf("%v answers 202 (want %v), %v requests counted, %v timed (want %v)", answered, want, asked, timed, want+refused)
		}
		if batched, committed := metric(t, n, `forebay_store_batch_messages_sum`), metric(t, n, `forebay_wal_batch_messages_sum`); batched != want || committed != want {
			rt.Fatalf("batches hold %v and commits %v messages, sent %v", batched, committed, want)
		}
		s, err := n.Admin.Status(context.Background())
		if err != nil || float64(s.Intake.AcceptedTotal) != want {
			rt.Fatalf("status: %+v %v, sent %v", s.Intake, err, want)
		}
	})
}

// TestProperty20_EveryCountIsTheSame: however messages came, of clients or accepted
// anew, with callbacks or without, and whatever became of them, the counters, the
// audit and an account's usage say the same of them.
func TestProperty20_EveryCountIsTheSame(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, withWebhooks)
	told := newHookReceiver(t)
	stored, failed, submitted := 0, []string{}, 0
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(0, 10).Draw(rt, "stored") {
			post(t, n, map[string]any{"channel": "store", "body": "x"})
			stored++
		}
		for range rapid.IntRange(0, 5).Draw(rt, "rejected") { // for where they lead
			m := map[string]any{"channel": "webhook", "to": "https://10.0.0.1/x", "body": "x"}
			if rapid.Bool().Draw(rt, "with a callback") {
				m["callback_url"] = told.URL + "/told"
			}
			failed = append(failed, post(t, n, m))
		}
		submitted = stored + len(failed)
		awaitDrained(t, n.Admin)
		for range rapid.IntRange(0, min(len(failed), 3)).Draw(rt, "requeued") {
			id := rapid.SampledFrom(failed).Draw(rt, "which") // perhaps once more, which accepts nothing
			if rapid.Bool().Draw(rt, "by an operator") {
				_, err := n.Admin.Requeue(t.Context(), admin.RequeueOrder{IDs: []message.ID{parseID(rt, id)}})
				must(t, "requeue", err)
			} else if status, text := ask(t, n, "POST", "/v1/messages/"+id+"/requeue", ""); status != http.StatusAccepted {
				rt.Fatalf("requeue: %d %s", status, text)
			}
		}
		awaitDrained(t, n.Admin)
		a, err := n.Admin.Audit(t.Context(), time.Time{})
		must(t, "audit", err)
		u, err := n.Admin.Usage(t.Context(), "acme", "")
		must(t, "usage", err)
		s, err := n.Admin.Status(t.Context())
		must(t, "status", err)
		accepted, callbacks := metric(t, n, `forebay_messages_accepted_total{`), metric(t, n, `forebay_callbacks_accepted_total`)
		if float64(a.Accepted) != accepted+callbacks || float64(u.Total) != accepted || float64(s.Intake.AcceptedTotal) != accepted || accepted < float64(submitted) {
			rt.Fatalf("accepted: the audit says %d, the counters %v and %v callbacks, the usage %d, the status %d; %d were submitted",
				a.Accepted, accepted, callbacks, u.Total, s.Intake.AcceptedTotal, submitted)
		}
		if rows, final := metric(t, n, `forebay_store_rows_total{outcome="new"}`), metric(t, n, `forebay_messages_final_total{`); a.Stored != a.Accepted ||
			a.Final != a.Stored || rows != float64(a.Stored) || final != float64(a.Final) {
			rt.Fatalf("the audit says %+v, the counters %v stored and %v final", a, rows, final)
		}
	})
	if again, callbacks := metric(t, n, `forebay_messages_accepted_total{`)-float64(submitted), metric(t, n, `forebay_callbacks_accepted_total`); again == 0 || callbacks == 0 {
		t.Errorf("%v were accepted anew, with %v callbacks: nothing is proved", again, callbacks)
	}
}

func parseID(t *rapid.T, text string) message.ID {
	t.Helper()
	id, err := message.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// scrape is what Prometheus sees.
func scrape(t *testing.T, n *appliancetest.Node) string {
	t.Helper()
	resp, err := n.Client.Get(n.OpsURL + "/metrics")
	must(t, "scrape", err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, "scrape", err)
	return string(text)
}

// metric is the sum of the series that begin so.
func metric(t *testing.T, n *appliancetest.Node, prefix string) (sum float64) {
	t.Helper()
	for line := range strings.Lines(scrape(t, n)) {
		if strings.HasPrefix(line, prefix) {
			var v float64
			_, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v)
			must(t, "read "+line, err)
			sum += v
		}
	}
	return sum
}

// TestMetricsAreClean: the whole of /metrics passes Prometheus's own lint.
func TestMetricsAreClean(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t)
	submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=10")
	problems, err := promlint.New(strings.NewReader(scrape(t, n))).Lint()
	must(t, "lint", err)
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "forebay_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestProperty21_CriticalFirst: of what waits while the database is away, what
// is more important is stored no later, and equals in the order of acceptance.
func TestProperty21_CriticalFirst(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), withCapacity(100), func(c *config.Config) { c.Buffer.BatchSize = 50 })
	if status, a := submit(t, n, `{"channel":"store","body":"first"}`, "Prefer", "wait=30"); status != http.StatusCreated {
		t.Fatalf("%d %+v", status, a)
	}
	ledger, round := appliancetest.NewLedger(), 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		// A first message tells the pipeline that the database is away: what is
		// taken before it knows is not ordered with what comes later.
		pg.Stop(sinktest.Fast)
		blockers := sendAll(ledger, n.Target(), makeSubmissions(fmt.Sprintf("p21-%d-first-", round), 1, slices.Repeat([]int{1}, 40), 0), 1)
		appliancetest.Eventually(t, time.Minute, "the pipeline has met the outage", func() bool {
			s, err := n.Admin.Status(context.Background())
			return err == nil && !s.Store.DownSince.IsZero()
		})
		// Each worker may take a batch before it learns of the outage, in the order
		// of acceptance and not of what comes later. So what is looked at are those
		// accepted after as many as they can hold.
		sizes := slices.Repeat([]int{rapid.IntRange(1, 50).Draw(rt, "size")}, heldByWorkers+rapid.IntRange(1800, 2200).Draw(rt, "count"))
		answers := sendAll(ledger, n.Target(), makeSubmissions(fmt.Sprintf("p21-%d-", round), rapid.Uint64().Draw(rt, "seed"), sizes, message.Lanes), 1)
		pg.Start()
		awaitDrained(t, n.Admin)
		rank := map[string]int{} // by id: place among those that waited
		for i, a := range answers {
			rank[a.ID] = i
		}
		var rows []appliancetest.Row
		found := 0
		for _, row := range appliancetest.PostgresRows(t, pg.URL()) {
			if at, ok := rank[row.ID]; ok {
				if found++; at >= heldByWorkers {
					rows = append(rows, row)
				}
			}
		}
		if found != len(answers) || len(blockers) != 40 {
			rt.Fatalf("%d rows, want %d", found, len(answers))
		}
		if err := inOrder(rows); err != nil {
			rt.Fatal(err)
		}
	})
}

// heldByWorkers is how many messages the workers of the pipeline can have in
// hand in that test: four of them, each the largest batch.
const heldByWorkers = 4 * 5 * 50

// inOrder looks that what is more important was not stored later. Batches that
// are under way at once may end in any order: so many messages may come later
// than a less important one, and no more.
func inOrder(rows []appliancetest.Row) error {
	const overtaken = heldByWorkers * 3 / 4 // of the other workers
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b appliancetest.Row) int { return cmp.Compare(a.StoredAt, b.StoredAt) })
	var later [message.Lanes]int // by lane: how many are still to come
	for _, row := range rows {
		later[laneOf(row)]++
	}
	for _, row := range rows {
		p := laneOf(row)
		later[p]--
		more := 0
		for _, n := range later[:p] {
			more += n
		}
		if more > overtaken {
			return fmt.Errorf("a message of lane %v is stored before %d that are more important", p, more)
		}
	}
	return nil
}

// TestInOrderCanFail is the control: rows in the order of acceptance.
func TestInOrderCanFail(t *testing.T) {
	t.Parallel()
	var rows []appliancetest.Row
	for i := range 1800 {
		rows = append(rows, appliancetest.Row{Priority: message.Priority(i % message.Lanes).String(), StoredAt: int64(i)})
	}
	if inOrder(rows) == nil {
		t.Error("rows that were stored as they came pass for ordered by priority")
	}
	slices.SortStableFunc(rows, func(a, b appliancetest.Row) int { return cmp.Compare(laneOf(a), laneOf(b)) })
	for i := range rows {
		rows[i].StoredAt = int64(i)
	}
	must(t, "rows in order of priority", inOrder(rows))
}

func laneOf(row appliancetest.Row) message.Priority {
	p, _ := message.ParsePriority(row.Priority)
	return p
}
