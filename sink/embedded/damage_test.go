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
