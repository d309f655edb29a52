package appliance_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/sink/sinktest"
)

// TestIdempotency: under one key there is one message, whoever asks, however
// often, also at the same time and after a restart.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, w world) {
		var options []appliancetest.Option
		if w.pg != nil {
			options = append(options, appliancetest.WithPostgres(w.pg.URL()))
		}
		n := appliancetest.Start(t, options...)
		ledger := appliancetest.NewLedger()
		one := appliancetest.Submission{Ref: "one", Body: "first", Key: "k-1"}
		first := ledger.Submit(n.Target(), one)
		if first.Status != http.StatusAccepted || first.Replayed {
			t.Fatalf("first: %+v", first)
		}
		other := ledger.Submit(n.Target(), appliancetest.Submission{Ref: "two", Body: "first", Key: "k-2"})
		if other.Status != http.StatusAccepted || other.ID == first.ID {
			t.Fatalf("another key: %+v", other)
		}
		again := func(when string) {
			t.Helper()
			if a := ledger.Submit(n.Target(), one); a.Status != http.StatusAccepted || a.ID != first.ID || !a.Replayed {
				t.Errorf("the same again %s: %+v, want %s replayed", when, a, first.ID)
			}
			if status, a := submit(t, n, `{"channel":"store","priority":"critical","client_ref":"one","body":"something else"}`, "Idempotency-Key", one.Key); status != 422 || a.Code != "idempotency_mismatch" {
				t.Errorf("another payload %s: %d %+v", when, status, a)
			}
		}
		again("at once")
		awaitDrained(t, n.Admin)
		again("after it was stored")
		n = n.Restart()
		again("after a restart")

		ids := concurrently(ledger, n.Target(), 60, 6)
		for key, answers := range ids {
			distinct := slices.Compact(slices.Sorted(slices.Values(answers)))
			if len(distinct) != 1 {
				t.Errorf("%s was accepted as %q, want one id", key, distinct)
			}
		}
		must(t, "the answers", checkOutcomes(ledger, "202", "409 in_progress"))
		awaitDrained(t, n.Admin)
		checkAudit(t, n.Admin)
		must(t, "stop", n.Stop())
		rows := w.rows(t, n.Dir())
		if len(rows) != 2+len(ids) {
			t.Errorf("%d rows, want %d", len(rows), 2+len(ids))
		}
		must(t, "compare the store with what was sent", ledger.Compare(rows))
	})
}

// concurrently sends each of so many keyed messages several times at once and
// returns the ids by key.
func concurrently(ledger *appliancetest.Ledger, target appliancetest.Target, keys, times int) map[string][]string {
	var mu sync.Mutex
	ids := map[string][]string{}
	var senders sync.WaitGroup
	for k := range keys {
		for range times {
			senders.Go(func() {
				s := appliancetest.Submission{Ref: fmt.Sprint("same-", k), Body: "b", Key: fmt.Sprint("same-", k)}
				a := ledger.Submit(target, s)
				for a.Status == http.StatusConflict { // in progress: the client asks again
					a = ledger.Submit(target, s)
				}
				mu.Lock()
				defer mu.Unlock()
				ids[s.Key] = append(ids[s.Key], a.ID)
			})
		}
	}
	senders.Wait()
	return ids
}

// TestClaimsAcrossNodes: two appliances with one database do not see each
// other's keys at the door. The database decides: one message is stored, the
// other is a duplicate of it.
func TestClaimsAcrossNodes(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	one := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()))
	two := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), withNode(2))
	body := `{"channel":"store","body":"once","client_ref":"once"}`
	_, a := submit(t, one, body, "Idempotency-Key", "shared", "Prefer", "wait=30")
	_, b := submit(t, two, body, "Idempotency-Key", "shared", "Prefer", "wait=30")
	if a.Status != "stored" || b.Status != "duplicate" {
		t.Fatalf("first %+v, second %+v", a, b)
	}
	var v struct {
		Status      string
		Final       bool
		DuplicateOf string `json:"duplicate_of"`
	}
	if status, err := two.Target().Get("/v1/messages/"+b.ID, &v); err != nil || status != http.StatusOK || v.DuplicateOf != a.ID || !v.Final {
		t.Fatalf("the duplicate: %d %+v %v", status, v, err)
	}
}

// TestPreferWait: with the database up the answer is 201 and says what became of
// the message; with it down it is 202, after the time that was asked for.
func TestPreferWait(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()))
	ledger := appliancetest.NewLedger()
	up := ledger.Submit(n.Target(), appliancetest.Submission{Ref: "up", Body: "b", Wait: 30})
	if up.Status != http.StatusCreated || up.State != "stored" || up.Applied != "wait=30" {
		t.Fatalf("with the database up: %+v", up)
	}
	pg.Stop(sinktest.Fast)
	down := ledger.Submit(n.Target(), appliancetest.Submission{Ref: "down", Body: "b", Wait: 1})
	if down.Status != http.StatusAccepted || down.State != "accepted" || down.Took < time.Second {
		t.Fatalf("with the database down: %+v", down)
	}
	pg.Start()
	awaitDrained(t, n.Admin)
	must(t, "look up all", ledger.LookUp(n.Target(), ledger.Acked(), "stored"))
}
