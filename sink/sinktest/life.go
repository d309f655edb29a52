package sinktest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/sink"
	"forebay/wal/message"
)

// mail is a message of the account that goes somewhere.
func mail(account string) message.Message {
	m := plain(account)
	m.Channel, m.To = message.ChannelWhatsApp, "+4915112345678"
	return m
}

// update updates a batch that must not fail.
func (s *suite) update(t tb, batch ...message.Record) []message.State {
	t.Helper()
	states, err := s.store.Update(context.Background(), batch)
	if err != nil {
		t.Fatalf("update %d records: %v", len(batch), err)
	}
	if len(states) != len(batch) {
		t.Fatalf("update %d records: %d states", len(batch), len(states))
	}
	return states
}

func at(ms int64) time.Time { return time.UnixMilli(1_700_000_000_000 + ms).UTC() }

// sentState is what we write when the provider has taken a message.
func sentState(provider string) message.State {
	return message.State{Status: message.Sent, SentAt: at(10), ProviderID: provider,
		Attempts: []message.Attempt{{N: 1, At: at(5), Outcome: "sent", ChannelCode: "200", Duration: 1500 * time.Microsecond}}}
}

// testUpdate: states are merged; what is not there is named; a repeat and an
// older state change nothing; the message itself is untouched.
func (s *suite) testUpdate(t *testing.T) {
	n, account := s.node(), s.account()
	a, b, unknown := n.accept(mail(account)), n.accept(mail(account)), n.accept(mail(account))
	for i, res := range s.insert(t, a, b) {
		[]*message.Record{&a, &b}[i].State = res.State
	}
	up := func(r message.Record, state message.State) message.Record { r.State = state; return r }
	retry := message.State{Status: message.Queued, NextAttemptAt: at(1000), HoldReason: "retry",
		Error:    &message.Failure{Code: "unavailable", Category: "provider", Retryable: true, ChannelCode: "503"},
		Attempts: []message.Attempt{{N: 1, At: at(1), Outcome: "transient"}}}
	want := a.State.Merge(message.State{Status: message.Sending}).Merge(retry)
	got := s.update(t, up(a, message.State{Status: message.Sending}), up(unknown, retry), up(a, retry))
	equal(t, "states", got, []message.State{want, {}, want})
	equal(t, "record", s.get(t, account, a.ID), up(a, want))
	equal(t, "record beside", s.get(t, account, b.ID), b)

	done := sentState("wamid." + account)
	done.Attempts = append(slices.Clone(retry.Attempts), done.Attempts...)
	want = want.Merge(done)
	for range 2 {
		equal(t, "states", s.update(t, up(a, done), up(b, message.State{Status: message.Canceled})),
			[]message.State{want, b.Merge(message.State{Status: message.Canceled})})
	}
	equal(t, "an older state", s.update(t, up(a, retry), up(b, sentState("late"))), []message.State{want, b.Merge(message.State{Status: message.Canceled}).Merge(sentState("late"))})
	equal(t, "record", s.get(t, account, a.ID), up(a, want))
	if got := s.update(t); len(got) != 0 {
		t.Errorf("states of nothing: %v", got)
	}
	page, err := s.store.List(context.Background(), message.Query{Account: account, Status: message.Sent, Limit: 10})
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	equal(t, "page of the sent", page, message.Page{Records: []message.Record{up(a, want)}})
	tally, err := s.store.Count(context.Background(), n.number, 1, 3)
	if err != nil {
		t.Fatalf("count: %v", err)
	}
	equal(t, "tally", tally, sink.Tally{Stored: 2, Final: 1})
}

// testUsage: messages count on their day (UTC), by what has become of them.
func (s *suite) testUsage(t *testing.T) {
	n, account, other := s.node(), s.account(), s.account()
	midnight := time.Now().UTC().Truncate(24 * time.Hour)
	n.ms = uint64(midnight.Add(-24*time.Hour - time.Second).UnixMilli())
	var records []message.Record
	for i := range 60 {
		m := mail([]string{account, account, other}[i%3])
		if i%4 == 0 {
			m = plain(m.Account)
		}
		m.Test, m.Callback = i%7 == 0, i%5 == 2
		records = append(records, n.accept(m))
		n.wait(50 * time.Millisecond)
		if i == 40 {
			n.wait(23*time.Hour + 59*time.Minute + 57*time.Second)
		}
	}
	for i, res := range s.insert(t, records...) {
		records[i].State = res.State
	}
	for _, r := range records[:10] {
		equal(t, "record", s.get(t, r.Account, r.ID), r) // also: whether it is a callback
	}
	sent := slices.Clone(records[10:30])
	for i := range sent {
		sent[i].State = sentState("")
		if i%3 == 0 {
			sent[i].State = message.State{Status: message.Failed, FailedAt: at(1)}
		}
	}
	for i, state := range s.update(t, sent...) {
		records[10+i].State = state
	}
	for _, q := range []message.UsageQuery{{From: midnight.Add(-72 * time.Hour), To: midnight.Add(24 * time.Hour)},
		{From: midnight.Add(-24 * time.Hour), To: midnight}, {From: midnight.Add(24 * time.Hour), To: midnight.Add(48 * time.Hour)}} {
		for _, q.Account = range []string{account, other, "nobody"} {
			got, err := s.store.Usage(context.Background(), q)
			if err != nil {
				t.Fatalf("usage: %v", err)
			}
			equal(t, fmt.Sprintf("usage %+v", q), got, usageOf(records, q))
		}
	}
}

// testLifeModel drives the store and Memory with the same updates and reports, in
// any order, and wants the same of both; and no transition that is forbidden.
func (s *suite) testLifeModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, account := s.node(), s.account()
		model := &Memory{}
		var all []message.Record
		for range 4 {
			all = append(all, n.accept(mail(account)))
		}
		some := rapid.SampledFrom(all)
		provider := rapid.SampledFrom([]string{"", account + "p", account + "q"})
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			before, _ := model.List(context.Background(), message.Query{Limit: 10})
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				r := some.Draw(t, "insert")
				if rapid.Bool().Draw(t, "sent already") {
					r.State = sentState(account + "of" + r.ID.String())
				}
				got := s.insert(t, r)[0]
				want, _ := model.Insert(context.Background(), []message.Record{r})
				if got.Outcome != want[0].Outcome || got.State.Status != want[0].State.Status {
					t.Fatalf("insert: %v %v, want %v %v", got.Outcome, got.State.Status, want[0].Outcome, want[0].State.Status)
				}
			case 1:
				r := some.Draw(t, "update")
				r.State = progress().Draw(t, "state")
				r.ProviderID = provider.Draw(t, "provider id")
				if slices.ContainsFunc(before.Records, func(b message.Record) bool { return b.ID != r.ID && b.ProviderID == r.ProviderID }) {
					r.ProviderID = "" // two messages with one are no provider's doing
				}
				got := s.update(t, r)
				want, _ := model.Update(context.Background(), []message.Record{r})
				got[0].StoredAt, want[0].StoredAt = time.Time{}, time.Time{}
				equal(t, "update", got, want)
			case 2:
				r := message.Report{Channel: message.ChannelWhatsApp, ProviderID: provider.Draw(t, "provider id"), At: at(rapid.Int64Range(1, 9).Draw(t, "at")),
					Status: rapid.SampledFrom([]message.Status{message.Sent, message.Delivered, message.Read, message.Undelivered}).Draw(t, "status")}
				if rapid.Bool().Draw(t, "names ours") {
					r.ProviderID, r.ID = "", some.Draw(t, "of").ID
				}
				got := s.report(t, r)
				want, _ := model.Report(context.Background(), []message.Report{r})
				for _, w := range want {
					g := got[w.ID]
					g.StoredAt, w.StoredAt = time.Time{}, time.Time{}
					equal(t, "changed", g, w)
					delete(got, w.ID)
				}
				if len(got) > 0 {
					t.Fatalf("%d records too many changed", len(got))
				}
			}
			for _, b := range before.Records {
				if now := s.get(t, account, b.ID); now.Status != b.Status && !b.Status.CanReach(now.Status) {
					t.Fatalf("%v became %v", b.Status, now.Status)
				}
			}
		}
		for _, want := range model.Records() {
			got := s.get(t, account, want.ID)
			got.StoredAt, want.StoredAt = time.Time{}, time.Time{}
			equal(t, "record at the end", got, want)
		}
	})
}
