package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// testRowRefused: the database has a rule against some rows. They are set aside,
// alone, with a reason for operators and words for the client.
func testRowRefused(t *testing.T, pg *sinktest.Postgres) {
	w := newWorldOn(t, pg, nil)
	for name, rule := range map[string]struct{ make, drop string }{
		"check": {"ALTER TABLE messages ADD CONSTRAINT no_secrets CHECK (body NOT LIKE 'bad%')", "ALTER TABLE messages DROP CONSTRAINT no_secrets"},
		"trigger": {`CREATE OR REPLACE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no_secrets'; END $$;
			CREATE TRIGGER complain BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.body LIKE 'bad%') EXECUTE FUNCTION complain()`,
			"DROP TRIGGER complain ON messages"},
		"unique": {"CREATE UNIQUE INDEX no_secrets ON messages (id, left(body, 3)) WHERE body LIKE 'bad%'; " +
			"ALTER TABLE messages ADD CONSTRAINT no_secrets CHECK (body NOT LIKE 'bad%')", "DROP INDEX no_secrets; ALTER TABLE messages DROP CONSTRAINT no_secrets"},
	} {
		for _, keyed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/keyed=%v", name, keyed), func(t *testing.T) {
				testOneRule(t, w, rule.make, rule.drop, keyed)
			})
		}
	}
}

func testOneRule(t *testing.T, w *world, rule, drop string, keyed bool) {
	account, first := t.Name(), w.n.seq+1
	before := w.n.record("bad, but before the rule")
	before.Account = account
	stored := w.insert(t, before)[0]
	w.exec(t, strings.Replace(rule, "CHECK (body NOT LIKE 'bad%')", "CHECK (body NOT LIKE 'bad%') NOT VALID", 1))

	batch := w.n.records(200)
	bad := map[int]bool{0: true, 17: true, 18: true, 199: true}
	for i := range batch {
		batch[i].Account = account
		if bad[i] {
			batch[i].Body = "bad and private"
		}
		if keyed {
			batch[i].IdempotencyKey = batch[i].ID.String()
		}
	}
	results := w.insert(t, append(batch, before)...)
	for i := range batch {
		want := sink.New
		if bad[i] {
			want = sink.SetAside
		}
		if results[i].Outcome != want {
			t.Errorf("outcome of %d = %v, want %v", i, results[i].Outcome, want)
		}
	}
	if diff := cmp.Diff(sink.Result{Outcome: sink.Known, State: stored.State}, results[200]); diff != "" {
		t.Errorf("repeat of what was stored before the rule (-want +got):\n%s", diff)
	}
	e := results[0].State.Error
	if e == nil || e.Code != "store_refused" || e.Category != "store" || e.Retryable || strings.Contains(e.Message, "no_secrets") {
		t.Errorf("error for the client = %+v", e)
	}
	if n := w.number(t, "SELECT count(*) FROM set_aside WHERE reason LIKE '%no_secrets%' AND account = $1", account); n != 4 {
		t.Errorf("%d rows set aside for that reason, want 4", n)
	}
	if log := w.log.String(); !strings.Contains(log, "no_secrets") || strings.Contains(log, "private") {
		t.Errorf("the log does not name the rule, or quotes the message:\n%s", log)
	}
	if n := w.number(t, "SELECT count(*) FROM claims WHERE account = $1 AND id IN (SELECT id FROM set_aside)", account); n != 0 {
		t.Errorf("%d refused messages hold their key", n)
	}
	page, err := w.List(context.Background(), message.Query{Account: account, Status: message.Failed, Limit: 3})
	if err != nil || len(page.Records) != 3 || !page.More || page.Records[0].ID != batch[199].ID || page.Records[0].Body != "bad and private" {
		t.Errorf("list of the failed: %d records, more %v, error %v", len(page.Records), page.More, err)
	}

	// A repeat changes nothing; without the rule it stores what was set aside,
	// and that is then the message.
	again := w.insert(t, batch...)
	for i := range batch {
		if want := (sink.Result{Outcome: sink.Known, State: results[i].State}); !cmp.Equal(want, again[i]) {
			t.Errorf("repeat of %d (-want +got):\n%s", i, cmp.Diff(want, again[i]))
		}
	}
	w.exec(t, drop)
	if r := w.insert(t, batch[0])[0]; r.Outcome != sink.New || r.State.Status != message.Stored {
		t.Errorf("repeat without the rule: %v %v, want new and stored", r.Outcome, r.State.Status)
	}
	tally, err := w.Count(context.Background(), w.n.number, first, w.n.seq)
	if err != nil || tally != (sink.Tally{Stored: 201, Final: 201}) {
		t.Errorf("tally = %+v, error %v, want all 201", tally, err)
	}
	page, err = w.List(context.Background(), message.Query{Account: account, Limit: 1000})
	if err != nil || len(page.Records) != 201 {
		t.Errorf("list of all: %d records, error %v, want 201", len(page.Records), err)
	}
}

// testSwallowed: a trigger drops rows without an error. They are not known, and
// they are not lost.
func testSwallowed(t *testing.T, pg *sinktest.Postgres) {
	w := newWorldOn(t, pg, nil)
	w.exec(t, `CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
		CREATE TRIGGER swallow BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.seq % 10 = 0) EXECUTE FUNCTION swallow()`)
	for i, r := range w.insert(t, w.n.records(50)...) {
		switch {
		case (i+1)%10 == 0 && r.Outcome != sink.SetAside:
			t.Errorf("outcome of a swallowed row = %v, want set aside", r.Outcome)
		case (i+1)%10 != 0 && r.State.Status != message.Stored:
			t.Errorf("status of another row = %v, want stored", r.State.Status)
		}
	}
	if missing, err := w.Missing(context.Background(), w.n.number, 1, w.n.seq, 10); err != nil || len(missing) != 0 {
		t.Errorf("missing %v, error %v", missing, err)
	}
}

// testPoison: what no text of PostgreSQL can hold, in each field that a client
// fills. (httpapi lets none of it in; the store must not depend on that.)
func testPoison(t *testing.T, pg *sinktest.Postgres) {
	w := newWorldOn(t, pg, nil)
	for _, poison := range []string{"nul \x00", "half \xc3", "surrogate \xed\xa0\x80"} {
		fields := map[string]func(*message.Record){
			"account":     func(r *message.Record) { r.Account = poison },
			"to":          func(r *message.Record) { r.To = poison },
			"body":        func(r *message.Record) { r.Body = poison },
			"client ref":  func(r *message.Record) { r.ClientRef = poison },
			"request id":  func(r *message.Record) { r.RequestID = poison },
			"key":         func(r *message.Record) { r.IdempotencyKey = poison },
			"provider id": func(r *message.Record) { r.ProviderID = poison },
		}
		if !strings.Contains(poison, "\x00") { // in json a NUL is only six harmless characters
			fields["template"] = func(r *message.Record) { r.Template = &message.Template{Name: poison} }
			fields["metadata"] = func(r *message.Record) { r.Metadata = []message.Pair{{Key: "k", Value: poison}} }
			fields["error"] = func(r *message.Record) { r.Error = &message.Failure{Message: poison} }
		}
		for field, spoil := range fields {
			good, bad := w.n.record("good"), w.n.record("bad")
			spoil(&bad)
			results := w.insert(t, bad, good)
			if results[0].Outcome != sink.SetAside || results[1].Outcome != sink.New {
				t.Errorf("%s %q: outcomes %v and %v", field, poison, results[0].Outcome, results[1].Outcome)
			}
			got, err := w.Get(context.Background(), bad.Account, bad.ID)
			bad.State = results[0].State
			if diff := cmp.Diff(bad, got); err != nil || diff != "" {
				t.Errorf("%s %q came back with error %v and (-want +got):\n%s", field, poison, err, diff)
			}
		}
		// A question with poison in it is the asker's fault, not an outage.
		var down *sink.Down
		if _, err := w.List(context.Background(), message.Query{Account: poison, Limit: 1}); err == nil || errors.As(err, &down) {
			t.Errorf("list of account %q: error %v", poison, err)
		}
	}
}
