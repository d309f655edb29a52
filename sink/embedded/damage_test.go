package embedded

import (
	"context"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// TestDamagePassed: a message that cannot be read fails nothing that is done to
// others together with it, is named in the log, and is made good by what its node
// still has of it.
func TestDamagePassed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	batch := make([]message.Record, 2)
	for i := range batch {
		batch[i] = w.accept(message.Message{Account: "a", To: "+4915112345678", Body: "x"})
		batch[i].Channel = message.ChannelWhatsApp
	}
	batch = w.insert(batch...)
	at := time.Now().UTC().Truncate(time.Millisecond)
	for i := range batch {
		batch[i].Status, batch[i].SentAt, batch[i].ProviderID = message.Sent, at, "same"
	}
	if _, err := w.Update(context.Background(), batch); err != nil {
		t.Fatalf("update: %v", err)
	}
	w.edit(func(txn *badger.Txn) error { return txn.Set(messageKey(batch[0].ID), []byte("rubbish")) })
	states, err := w.Update(context.Background(), batch)
	if err != nil || states[0].Status.Valid() || states[1].Status != message.Sent {
		t.Errorf("update: %+v, %v, want nothing of the first and the second as it was", states, err)
	}
	report := func(id message.ID, provider string) message.Report {
		return message.Report{Channel: message.ChannelWhatsApp, ID: id, ProviderID: provider, Status: message.Delivered, At: at.Add(time.Second)}
	}
	changed, err := w.Report(context.Background(), []message.Report{report(batch[0].ID, ""), report(message.ID{}, "same")})
	if err != nil || len(changed) != 1 || changed[0].ID != batch[1].ID {
		t.Errorf("report: %+v, %v, want the second", changed, err)
	}
	if _, err := w.Unreported(context.Background(), at.Add(time.Hour), 10, func([]message.Record) error { return nil }); err != nil {
		t.Errorf("unreported: %v", err)
	}
	found, err := w.Numbered(context.Background(), batch[0].ID.Node(), []uint64{batch[0].Seq, batch[1].Seq})
	if err != nil || len(found) != 1 || found[0].ID != batch[1].ID {
		t.Errorf("numbered: %+v, %v, want the second", found, err)
	}
	if !contains(w.log, batch[0].ID.String()) {
		t.Error("the damaged message is not named")
	}
	if _, err := w.Insert(context.Background(), batch[:1]); err != nil {
		t.Fatalf("insert: %v", err)
	}
	if r, err := w.Get(context.Background(), "a", batch[0].ID); err != nil || r.Status != message.Delivered || r.Body != "x" {
		t.Errorf("after the log brought it again: %v, %v, want delivered, for its report was kept", r.Status, err)
	}
}

// TestDamageListed: whichever index a list walks, it leaves out the message that is
// damaged, names it in the log and goes on with the others, over pages, too; and what
// an index says wrong of a message, the message itself says right.
func TestDamageListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	batch := make([]message.Record, 4)
	for i := range batch {
		batch[i] = w.accept(message.Message{Account: "a", ClientRef: "ref", To: "b@c.example", Body: "x"})
		batch[i].Channel = message.ChannelEmail
	}
	batch = w.insert(batch...)
	at := time.Now().UTC().Truncate(time.Millisecond)
	for i := range batch {
		batch[i].Status, batch[i].FailedAt = message.Failed, at
	}
	if _, err := w.Update(context.Background(), batch); err != nil {
		t.Fatalf("update: %v", err)
	}
	queries := map[string]message.Query{"account": {Account: "a"}, "client_ref": {Account: "a", ClientRef: "ref"}, "status": {Account: "a", Status: message.Failed},
		"status of all": {Status: message.Failed}, "all": {}, "recipient": {Account: "a", To: "b@c.example"}}
	wants := func(when string, want ...message.Record) {
		t.Helper()
		for name, q := range queries {
			for q.Limit = 1; q.Limit <= len(batch); q.Limit++ {
				var got []message.ID
				for page, more := q, true; more; {
					listed, err := w.List(context.Background(), page)
					if err != nil {
						t.Fatalf("%s, by %s: %v", when, name, err)
					}
					for _, r := range listed.Records {
						got = append(got, r.ID)
					}
					if more = listed.More; more {
						page.Before = got[len(got)-1]
					}
				}
				if len(got) != len(want) {
					t.Fatalf("%s, by %s, %d a page: %v, want %d messages", when, name, q.Limit, got, len(want))
				}
				for i := range got {
					if got[i] != want[len(want)-1-i].ID {
						t.Errorf("%s, by %s, %d a page: %v", when, name, q.Limit, got)
					}
				}
			}
		}
	}
	counted := func(when string, want uint64) {
		t.Helper()
		counts, err := w.Usage(context.Background(), message.UsageQuery{Account: "a", From: at.Add(-48 * time.Hour), To: at.Add(48 * time.Hour)})
		var sum uint64
		for _, c := range counts {
			sum += c.Count
		}
		if err != nil || sum != want {
			t.Errorf("%s: usage of %d messages, %v, want %d", when, sum, err, want)
		}
	}
	wants("whole", batch...)
	w.edit(func(txn *badger.Txn) error { return txn.Set(messageKey(batch[1].ID), []byte("rubbish")) })
	wants("a damaged message", batch[0], batch[2], batch[3])
	if !contains(w.log, batch[1].ID.String()) {
		t.Error("the damaged message is not named")
	}
	counted("a damaged message", 4)
	w.edit(func(txn *badger.Txn) error { return txn.Set(accountKey("a", batch[2].ID), []byte("bad")) })
	wants("a damaged index, too", batch[0], batch[2], batch[3])
	counted("a damaged index, too", 4)
	w.edit(func(txn *badger.Txn) error { return txn.Set(accountKey("a", batch[1].ID), []byte("bad")) })
	counted("a damaged message with a damaged index", 3)
	if seq, err := w.FirstSince(context.Background(), batch[1].ID.Node(), batch[1].ID.Time()); err != nil || seq != batch[2].Seq {
		t.Errorf("first since the damaged one: %d, %v, want %d", seq, err, batch[2].Seq)
	}
}
