package appliance_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// readiness is the answer of /readyz.
func readiness(t *testing.T, n *appliancetest.Node) (status int, r admin.Readiness) {
	t.Helper()
	status, err := n.Target().Get("/readyz", &r)
	must(t, "ask /readyz", err)
	return status, r
}

// TestDatabaseFaults breaks the database in many ways while messages come in.
// Each is accepted all the same; when the database is whole again each is there,
// once and unchanged.
func TestDatabaseFaults(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	rename := func(from, to string) func() {
		return func() { pg.ExecSQL("ALTER TABLE " + from + " RENAME TO " + to) }
	}
	for _, fault := range []struct {
		name        string
		begin, heal func()
	}{
		{"stopped", func() { pg.Stop(sinktest.Fast) }, pg.Start},
		{"killed", pg.Kill, pg.Start},
		{"paused", func() { pg.Pause() }, pg.Resume},
		{"out of connections", func() { takeConnections(pg) }, func() { pg.ExecSQL("ALTER ROLE forebay CONNECTION LIMIT -1") }},
		{"table renamed by its operator", rename("messages", "elsewhere"), rename("elsewhere", "messages")},
	} {
		t.Run(strings.ReplaceAll(fault.name, " ", "_"), func(t *testing.T) {
			pg.ExecSQL("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION forebay")
			n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), withCapacity(200))
			ledger := appliancetest.NewLedger()
			loadWhile(ledger, n.Target(), 8, "fault-", 1, func() {
				appliancetest.Eventually(t, time.Minute, "messages are taken, and the store is up", func() bool {
					_, r := readiness(t, n)
					return ledger.Count("202") > 50 && r.Checks["store"].Status == "ok"
				})
				fault.begin()
				appliancetest.Eventually(t, time.Minute, "/readyz is degraded by the store, and 200", func() bool {
					status, r := readiness(t, n)
					return status == http.StatusOK && r.Status == admin.Degraded && r.Checks["store"].Status == "degraded"
				})
				before := ledger.Count("202")
				appliancetest.Eventually(t, time.Minute, "messages are accepted meanwhile", func() bool { return ledger.Count("202") > before+300 })
				must(t, "look up while the database is down", ledger.LookUp(n.Target(), waiting(t, n, ledger), ""))
				fault.heal()
				appliancetest.Eventually(t, time.Minute, "/readyz says that the store is up", func() bool {
					_, r := readiness(t, n)
					return r.Checks["store"].Status == "ok"
				})
			})
			must(t, "the answers", checkOutcomes(ledger, "202"))
			awaitDrained(t, n.Admin)
			checkAudit(t, n.Admin)
			must(t, "look up all", ledger.LookUp(n.Target(), ledger.Acked(), "stored"))
			must(t, "compare the database with what was sent", ledger.Compare(appliancetest.PostgresRows(t, pg.URL())))
			t.Log(ledger.Summary())
			must(t, "stop", n.Stop())
		})
	}
}

// takeConnections leaves none for the appliance: what it has is cut, and what it
// asks for is refused as when the server has too many (SQLSTATE 53300).
func takeConnections(pg *sinktest.Postgres) {
	pg.ExecSQL("ALTER ROLE forebay CONNECTION LIMIT 0")
	pg.ExecSQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'forebay'")
}

func withCapacity(n int) appliancetest.Option {
	return func(c *config.Config) { c.Buffer.Capacity, c.Buffer.BackpressureThreshold = n, n*8/10 }
}

func withNode(number uint16) appliancetest.Option {
	return func(c *config.Config) { c.Node = number }
}

// waiting is what was acknowledged in the last moment, and so is surely in the
// log while nothing drains: a message that was just sent for this.
func waiting(t *testing.T, n *appliancetest.Node, ledger *appliancetest.Ledger) map[string]string {
	t.Helper()
	acked := map[string]string{}
	for i := range 20 {
		ref := fmt.Sprint("waiting-", i)
		a := ledger.Submit(n.Target(), appliancetest.Submission{Ref: ref, Priority: message.Priority(i % message.Lanes), Body: "w"})
		if a.Status != http.StatusAccepted {
			t.Fatalf("submit while the database is down: %+v", a)
		}
		acked[a.ID] = ref
	}
	return acked
}

// TestRefusedRow: what the database refuses for its own fault is set aside alone,
// and its sender sees why.
func TestRefusedRow(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()))
	if status, a := submit(t, n, `{"channel":"store","body":"first"}`, "Prefer", "wait=30"); status != http.StatusCreated {
		t.Fatalf("%d %+v", status, a)
	}
	pg.ExecSQL("ALTER TABLE messages ADD CONSTRAINT no_poison CHECK (body <> 'poison')")
	ledger := appliancetest.NewLedger()
	var poisoned []string
	for i := range 300 {
		s := appliancetest.Submission{Ref: fmt.Sprint("row-", i), Priority: message.Priority(i % message.Lanes), Body: fmt.Sprint("body ", i)}
		if i%50 == 25 {
			_, a := submit(t, n, fmt.Sprintf(`{"channel":"store","body":"poison","client_ref":"poison-%d"}`, i))
			poisoned = append(poisoned, a.ID)
		}
		if a := ledger.Submit(n.Target(), s); a.Status != http.StatusAccepted {
			t.Fatalf("%+v", a)
		}
	}
	awaitDrained(t, n.Admin)
	checkAudit(t, n.Admin)
	must(t, "look up the good ones", ledger.LookUp(n.Target(), ledger.Acked(), "stored"))
	for _, id := range poisoned {
		var v struct {
			Status string
			Final  bool
			Error  struct{ Code, Category, Message string }
		}
		status, err := n.Target().Get("/v1/messages/"+id, &v)
		if err != nil || status != http.StatusOK || v.Status != "failed" || !v.Final || v.Error.Code != "store_refused" || v.Error.Category != "store" {
			t.Errorf("the refused message: %d %+v %v", status, v, err)
		}
		if strings.Contains(v.Error.Message, "no_poison") {
			t.Errorf("the answer names parts of the database: %q", v.Error.Message)
		}
	}
	status, a := submit(t, n, `{"channel":"store","body":"poison"}`, "Prefer", "wait=30")
	if status != http.StatusCreated || a.Status != "failed" {
		t.Errorf("Prefer: wait for a row that is refused: %d %+v", status, a)
	}
}

// TestProperty09_AllConnectionsInUse: with any number of connections and any
// number of callers over it, each call waits its turn and none fails.
func TestProperty09_AllConnectionsInUse(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	rapid.Check(t, func(rt *rapid.T) {
		pool := rapid.IntRange(1, 3).Draw(rt, "connections")
		callers := rapid.IntRange(10, 60).Draw(rt, "callers")
		n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), func(c *config.Config) { c.Database.MinPoolSize, c.Database.MaxPoolSize = 1, pool })
		defer n.Stop()
		var calls sync.WaitGroup
		failures := make(chan string, 3*callers)
		for i := range callers {
			calls.Go(func() {
				a := appliancetest.NewLedger().Submit(n.Target(), appliancetest.Submission{Ref: fmt.Sprint("call-", i), Body: "b", Wait: 30})
				if a.Status != http.StatusCreated {
					failures <- fmt.Sprintf("submit: %+v", a)
				}
				for _, path := range []string{"/v1/messages?limit=100", "/v1/messages/" + a.ID} {
					var v any
					if status, err := n.Target().Get(path, &v); err != nil || status != http.StatusOK {
						failures <- fmt.Sprintf("GET %s: %d %v %v", path, status, v, err)
					}
				}
			})
		}
		calls.Wait()
		close(failures)
		for f := range failures {
			rt.Error(f)
		}
	})
}

// TestProperty16_AnswerDoesNotWaitForTheDatabase: any messages sent while the
// database answers nothing at all are acknowledged before it answers again.
func TestProperty16_AnswerDoesNotWaitForTheDatabase(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), withCapacity(100))
	if status, a := submit(t, n, `{"channel":"store","body":"first"}`, "Prefer", "wait=30"); status != http.StatusCreated {
		t.Fatalf("%d %+v", status, a)
	}
	ledger, round := appliancetest.NewLedger(), 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		submissions := submissionsOf(rt, fmt.Sprintf("p%d-", round), 50, 300, 20_000)
		pg.Pause()
		defer pg.Resume()
		sendAll(ledger, n.Target(), submissions, 8)
		if err := checkOutcomes(ledger, "202"); err != nil {
			rt.Fatal(err)
		}
	})
	awaitDrained(t, n.Admin)
	audit, err := n.Admin.Audit(context.Background(), time.Time{})
	if err != nil || audit.Missing != 0 || audit.Stored != uint64(1+len(ledger.Acked())) {
		t.Fatalf("audit: %+v %v", audit, err)
	}
	must(t, "look up all", ledger.LookUp(n.Target(), ledger.Acked(), "stored"))
	t.Log(ledger.Summary())
}

// submissionsOf draws so many messages with bodies of up to max characters.
func submissionsOf(rt *rapid.T, prefix string, least, most, max int) []appliancetest.Submission {
	return rapid.Custom(func(rt *rapid.T) []appliancetest.Submission {
		seed := rapid.Uint64().Draw(rt, "seed")
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 300), rapid.IntRange(1, max)), least, most).Draw(rt, "sizes")
		lane := rapid.SampledFrom([]int{message.Lanes, 0, 1, 2, 3}).Draw(rt, "lane") // Lanes: a mix
		return makeSubmissions(prefix, seed, sizes, lane)
	}).Draw(rt, "submissions")
}
