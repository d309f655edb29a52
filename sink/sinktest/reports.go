package sinktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// What providers say of messages after they were sent, and that they may never do so.

// report brings reports that must not fail, and returns the changed records by id.
func (s *suite) report(t tb, reports ...message.Report) map[message.ID]message.Record {
	t.Helper()
	records, err := s.store.Report(context.Background(), reports)
	if err != nil {
		t.Fatalf("report: %v", err)
	}
	changed := make(map[message.ID]message.Record)
	for _, r := range records {
		if _, twice := changed[r.ID]; twice {
			t.Errorf("report names %s twice", r.ID)
		}
		changed[r.ID] = r
	}
	return changed
}

// testReports: by the provider's id or by ours, of this channel, in any order.
func (s *suite) testReports(t *testing.T) {
	n, account := s.node(), s.account()
	var batch []message.Record
	for i := range 4 {
		r := n.accept(mail(account))
		s.insert(t, r)
		r.State = sentState(fmt.Sprint("wamid ", account, " ", i))
		batch = append(batch, r)
	}
	// One's provider id is another's in another channel.
	foreign := n.accept(mail(account))
	foreign.Channel = message.ChannelEmail
	s.insert(t, foreign)
	foreign.State = sentState(batch[0].ProviderID)
	for i, state := range s.update(t, append(slices.Clone(batch), foreign)...) {
		if i < len(batch) {
			batch[i].State = state
		}
	}
	said := func(i int, status message.Status, ms int64) message.Report {
		r := message.Report{Channel: message.ChannelWhatsApp, ProviderID: batch[i].ProviderID, Status: status, At: at(ms)}
		if status == message.Undelivered {
			r.Failure = &message.Failure{Code: "undeliverable", Category: "recipient", ChannelCode: "131026", Message: "not on WhatsApp"}
		}
		return r
	}
	byID := said(3, message.Delivered, 30)
	byID.ProviderID, byID.ID = "", batch[3].ID
	reports := []message.Report{said(0, message.Read, 40), said(1, message.Undelivered, 30), said(0, message.Delivered, 30),
		said(0, message.Read, 40), byID, {Channel: message.ChannelWhatsApp, Status: message.Delivered}, {ProviderID: batch[2].ProviderID, Status: message.Read}}
	changed := s.report(t, reports...)
	if len(changed) != 3 {
		t.Errorf("%d records changed, want 3", len(changed))
	}
	for i, want := range []message.Status{message.Read, message.Undelivered, message.Sent, message.Delivered} {
		got := s.get(t, account, batch[i].ID)
		if got.Status != want {
			t.Errorf("message %d is %v, want %v", i, got.Status, want)
		}
		if c, ok := changed[got.ID]; ok {
			equal(t, "what changed", c, got)
		}
	}
	if got := s.get(t, account, batch[0].ID); !got.DeliveredAt.Equal(at(30)) || !got.ReadAt.Equal(at(40)) || !got.SentAt.Equal(at(10)) {
		t.Errorf("times of the read one: sent %v, delivered %v, read %v", got.SentAt, got.DeliveredAt, got.ReadAt)
	}
	if got := s.get(t, account, batch[1].ID); got.Error == nil || got.Error.ChannelCode != "131026" || !got.FailedAt.Equal(at(30)) {
		t.Errorf("the undelivered one failed at %v for %+v", got.FailedAt, got.Error)
	}
	if got := s.get(t, account, foreign.ID); got.Status != message.Sent {
		t.Errorf("a report of another channel made it %v", got.Status)
	}
	if again := s.report(t, reports...); len(again) != 0 {
		t.Errorf("repeated reports changed %d records", len(again))
	}
}

// testEarlyReports: what is reported before the message is known, or before the
// provider's id is, is merged when that comes, with Update and with Insert.
func (s *suite) testEarlyReports(t *testing.T) {
	n, account := s.node(), s.account()
	stored, late, byID := n.accept(mail(account)), n.accept(mail(account)), n.accept(mail(account))
	s.insert(t, stored)
	report := func(provider string, status message.Status, ms int64) message.Report {
		return message.Report{Channel: message.ChannelWhatsApp, ProviderID: provider, Status: status, At: at(ms)}
	}
	first, second, third := "early 1 "+account, "early 2 "+account, "early 3 "+account
	ours := report(third, message.Delivered, 30)
	ours.ID = byID.ID
	for range 2 { // and repeated
		changed := s.report(t, report(first, message.Read, 40), report(second, message.Delivered, 30), report(first, message.Delivered, 30), ours)
		if len(changed) != 0 {
			t.Errorf("reports of unknown messages changed %d records", len(changed))
		}
	}
	stored.State = sentState(first)
	if got := s.update(t, stored)[0]; got.Status != message.Read || !got.DeliveredAt.Equal(at(30)) {
		t.Errorf("the update came to %v, delivered %v, want read and delivered at %v", got.Status, got.DeliveredAt, at(30))
	}
	late.State, byID.State = sentState(second), sentState("")
	results := s.insert(t, late, byID)
	for i, r := range []message.Record{late, byID} {
		if got := results[i].State.Status; got != message.Delivered {
			t.Errorf("insert %d came to %v, want delivered", i, got)
		}
		equal(t, "state", s.get(t, account, r.ID).State, results[i].State)
	}
	if got := s.get(t, account, byID.ID).ProviderID; got != third {
		t.Errorf("the provider's id = %q, want the one that the report gave, %q", got, third)
	}
	// They are used up, and harm nobody who gets the same id later.
	again := n.accept(mail(account))
	s.insert(t, again)
	again.State = sentState(second)
	if got := s.update(t, again)[0]; got.Status != message.Sent {
		t.Errorf("another message with the id came to %v, want sent", got.Status)
	}
}

// testReportsRace: a report and the record of its sending that come at the same
// time both count, whichever is first.
func (s *suite) testReportsRace(t *testing.T) {
	n, account := s.node(), s.account()
	const messages = 24
	var batch []message.Record
	for range messages {
		batch = append(batch, n.accept(mail(account)))
	}
	s.insert(t, batch...)
	var wg sync.WaitGroup
	for i := range batch {
		batch[i].State = sentState(fmt.Sprint("race ", account, i))
		provider := batch[i].ProviderID
		wg.Go(func() {
			if _, err := s.store.Update(context.Background(), batch[i:i+1]); err != nil {
				t.Errorf("update: %v", err)
			}
		})
		wg.Go(func() {
			report := message.Report{Channel: message.ChannelWhatsApp, ProviderID: provider, Status: message.Delivered, At: at(30)}
			if _, err := s.store.Report(context.Background(), []message.Report{report}); err != nil {
				t.Errorf("report: %v", err)
			}
		})
	}
	wg.Wait()
	for _, r := range batch {
		if got := s.get(t, account, r.ID); got.Status != message.Delivered || len(got.Attempts) != 1 {
			t.Errorf("%s is %v with %d attempts, want delivered with 1", r.ID, got.Status, len(got.Attempts))
		}
	}
}

// testUnreported: what was sent long ago becomes final, in batches, and only that.
func (s *suite) testUnreported(t *testing.T) {
	n, account := s.node(), s.account()
	var batch []message.Record
	for i := range 7 {
		r := n.accept(mail(account))
		r.State = sentState(fmt.Sprint("unreported ", account, i))
		r.SentAt = time.UnixMilli(int64(1000 + i)).UTC() // before all other tests' messages
		batch = append(batch, r)
	}
	s.insert(t, batch...)
	s.report(t, message.Report{Channel: message.ChannelWhatsApp, ProviderID: batch[0].ProviderID, Status: message.Delivered, At: at(0)})
	var given []message.ID
	s.testUnreportedIsToldFirst(t, batch[1])
	for n := 1; n > 0; {
		told := map[message.ID]bool{}
		records, err := s.store.Unreported(context.Background(), time.UnixMilli(1005).UTC(), 3, func(rs []message.Record) error {
			for _, r := range rs {
				told[r.ID] = true
			}
			return nil
		})
		if err != nil {
			t.Fatalf("unreported: %v", err)
		}
		if n = len(records); n > 3 {
			t.Errorf("%d records, want 3 at most", n)
		}
		for _, r := range records {
			if r.Account != account {
				continue // of a test before this one
			}
			given = append(given, r.ID)
			if !told[r.ID] {
				t.Errorf("%s was given up, and nobody told first", r.ID)
			}
			equal(t, "record", s.get(t, account, r.ID), r)
			if r.Status != message.Sent || r.Error == nil || r.Error.Code != message.CodeNoReport || !r.Final() {
				t.Errorf("%s is %v with %+v, want sent for good with %s", r.ID, r.Status, r.Error, message.CodeNoReport)
			}
		}
	}
	want := []message.ID{batch[1].ID, batch[2].ID, batch[3].ID, batch[4].ID}
	slices.SortFunc(given, message.ID.Compare)
	equal(t, "given up", given, want)
	tally, err := s.store.Count(context.Background(), n.number, 1, n.seq)
	if err != nil {
		t.Fatalf("count: %v", err)
	}
	equal(t, "tally", tally, sink.Tally{Stored: 7, Final: 5})
	s.report(t, message.Report{Channel: message.ChannelWhatsApp, ProviderID: batch[1].ProviderID, Status: message.Delivered, At: at(0)})
	if got := s.get(t, account, batch[1].ID); got.Status != message.Delivered || got.Error != nil {
		t.Errorf("a late report made it %v with %+v, want delivered", got.Status, got.Error)
	}
}

// testUnreportedIsToldFirst: who is told of what will be given up finds it as it
// was; where that fails, it stays so; and what is heard meanwhile counts.
func (s *suite) testUnreportedIsToldFirst(t *testing.T, r message.Record) {
	t.Helper()
	crash := errors.New("a crash between what is told and what is changed")
	var seen []message.Record
	records, err := s.store.Unreported(context.Background(), r.SentAt.Add(time.Millisecond), 100, func(rs []message.Record) error {
		seen = append(seen, rs...)
		return crash
	})
	if !errors.Is(err, crash) || len(records) != 0 {
		t.Errorf("unreported: %d records, %v, want what tell returned", len(records), err)
	}
	at := slices.IndexFunc(seen, func(got message.Record) bool { return got.ID == r.ID })
	if at < 0 || !seen[at].Final() || seen[at].Error.Code != message.CodeNoReport {
		t.Fatalf("%d were told, want %s among them as it will be", len(seen), r.ID)
	}
	if got := s.get(t, r.Account, r.ID); got.Error != nil || got.Final() {
		t.Errorf("after the crash it is %v with %+v, want it sent", got.Status, got.Error)
	}
}
