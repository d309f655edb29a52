package sinktest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// testGet: a message is found by its account and by those who may see every
// account, and by nobody else.
func (s *suite) testGet(t *testing.T) {
	n, account, other := s.node(), s.account(), s.account()
	r, unknown := n.accept(plain(account)), n.accept(plain(account))
	r.State = s.insert(t, r)[0].State
	equal(t, "record", s.get(t, account, r.ID), r)
	equal(t, "record for an operator", s.get(t, "", r.ID), r)
	for _, c := range []struct {
		account string
		id      message.ID
	}{{other, r.ID}, {account, unknown.ID}, {"", unknown.ID}} {
		if _, err := s.store.Get(context.Background(), c.account, c.id); !errors.Is(err, sink.ErrNotFound) {
			t.Errorf("get %s of %q: error %v, want not found", c.id, c.account, err)
		}
	}
}

// testListPages: pages follow each other newest first without a gap and without
// an overlap, also where many messages of several nodes share a millisecond.
func (s *suite) testListPages(t *testing.T) {
	account, neighbour := s.account(), s.account()
	nodes := []*node{s.node(), s.node(), s.node()}
	var records []message.Record
	for i := range 60 {
		n := nodes[i%3]
		n.ms = nodes[0].ms
		m := plain(account)
		m.Priority = message.Priority(i % message.Lanes)
		records = append(records, n.accept(m))
		if i%20 == 19 {
			nodes[0].wait(time.Millisecond)
		}
		records = append(records, n.accept(plain(neighbour)))
	}
	for i, res := range s.insert(t, records...) {
		records[i].State = res.State
	}
	want := slices.DeleteFunc(slices.Clone(records), func(r message.Record) bool { return r.Account != account })
	newestFirst(want)
	for _, limit := range []int{1, 7, 30, 60, 1000} {
		var got []message.Record
		q := message.Query{Account: account, Limit: limit}
		for {
			page, err := s.store.List(context.Background(), q)
			if err != nil {
				t.Fatalf("list: %v", err)
			}
			got = append(got, page.Records...)
			if len(page.Records) > limit || page.More && len(page.Records) < limit || len(got) > len(want) {
				t.Fatalf("page of %d records, %d so far, more %v, with a limit of %d", len(page.Records), len(got), page.More, limit)
			}
			if !page.More {
				break
			}
			q.Before = page.Records[len(page.Records)-1].ID
		}
		equal(t, "records of all pages", got, want)
	}
	page, err := s.store.List(context.Background(), message.Query{Account: account, Before: want[59].ID, Limit: 10})
	if err != nil || len(page.Records) != 0 || page.More {
		t.Errorf("page behind the last: %d records, more %v, error %v", len(page.Records), page.More, err)
	}
}

// testListFilters: each filter alone and all together select exactly what they
// say; a time is compared as it is, also between two milliseconds.
func (s *suite) testListFilters(t *testing.T) {
	n, account := s.node(), s.account()
	var records []message.Record
	for i := range 48 {
		m := plain(account)
		m.Channel = message.Channels[i%2]
		m.To = []string{"", "+4915112345678", "+491511234567", "a@b.example"}[i%4]
		m.ClientRef = []string{"", "ref", "Ref"}[i%3]
		if i%8 == 7 {
			m.IdempotencyKey = "same for all"
		}
		records = append(records, n.accept(m))
		n.wait(time.Duration(i%3) * time.Millisecond)
	}
	for i, res := range s.insert(t, records...) {
		records[i].State = res.State
	}
	from, to := records[10].AcceptedAt(), records[30].AcceptedAt()
	queries := []message.Query{{}, {Status: message.Stored}, {Status: message.Queued}, {Status: message.Duplicate},
		{Status: message.Failed}, {Channel: message.ChannelWhatsApp}, {Channel: message.ChannelWebhook},
		{To: "+491511234567"}, {To: "nobody"}, {ClientRef: "ref"}, {ClientRef: "re"}, {ClientRef: "Ref", To: "a@b.example"},
		{AcceptedAfter: from}, {AcceptedBefore: to}, {AcceptedAfter: from, AcceptedBefore: to},
		{AcceptedAfter: from.Add(1), AcceptedBefore: to.Add(1)}, {AcceptedAfter: from.Add(-1), AcceptedBefore: to.Add(-1)},
		{AcceptedAfter: to, AcceptedBefore: from}, {Before: records[20].ID}, {Before: records[20].ID, AcceptedAfter: from, ClientRef: "ref"},
		{AcceptedBefore: from, Before: records[20].ID}, {AcceptedBefore: to, Before: records[20].ID, Status: message.Stored},
		{Status: message.Queued, Channel: message.ChannelWhatsApp, To: "+4915112345678", ClientRef: "Ref", AcceptedAfter: from, AcceptedBefore: to},
	}
	for _, q := range queries {
		q.Account = account
		for _, limit := range []int{1000, 3} {
			q.Limit = limit
			got, err := s.store.List(context.Background(), q)
			if err != nil {
				t.Fatalf("list %+v: %v", q, err)
			}
			equal(t, "page", got, selectFrom(records, q))
			if t.Failed() {
				t.Fatalf("query %+v", q)
			}
		}
	}
}

// testListDue: a scheduled message whose time has come is listed with those that are
// queued, and with those that are scheduled until then.
func (s *suite) testListDue(t *testing.T) {
	n, account := s.node(), s.account()
	due := time.UnixMilli(int64(n.ms)).UTC().Add(time.Hour)
	var records []message.Record
	for i := range 12 {
		m := plain(account)
		m.Channel = message.ChannelEmail
		m.ClientRef = []string{"", "ref"}[i%2]
		r := n.accept(m)
		if i%3 > 0 {
			r.Status, r.ScheduledAt = message.Scheduled, due.Add(time.Duration(i/3-2)*time.Millisecond)
			r.NextAttemptAt, r.HoldReason = r.ScheduledAt, sink.HoldScheduled
		}
		records = append(records, r)
	}
	for i, res := range s.insert(t, records...) {
		records[i].State = res.State
	}
	seen := map[int]bool{} // how many were queued
	for _, at := range []time.Time{{}, due.Add(-time.Hour), due.Add(-time.Millisecond), due, due.Add(time.Hour)} {
		for _, q := range []message.Query{{Status: message.Queued}, {Status: message.Scheduled}, {Status: message.Queued, ClientRef: "ref"}, {}} {
			q.Account, q.At, q.Limit = account, at, 1000
			got, err := s.store.List(context.Background(), q)
			if err != nil {
				t.Fatalf("list %+v: %v", q, err)
			}
			equal(t, "page", got, selectFrom(records, q))
			if t.Failed() {
				t.Fatalf("query %+v", q)
			}
			if q.Status == message.Queued && q.ClientRef == "" {
				seen[len(got.Records)] = true
			}
		}
	}
	if len(seen) < 3 {
		t.Errorf("the times did not tell messages apart: %v were queued", seen)
	}
}

// testListEveryAccount: a query without an account is an operator's.
func (s *suite) testListEveryAccount(t *testing.T) {
	n, a, b := s.node(), s.account(), s.account()
	var records []message.Record
	for i := range 9 {
		m := plain([]string{a, b}[i%2])
		m.ClientRef = "seen by operators " + a
		records = append(records, n.accept(m))
	}
	for i, res := range s.insert(t, records...) {
		records[i].State = res.State
	}
	for _, limit := range []int{4, 9, 10} {
		q := message.Query{ClientRef: "seen by operators " + a, Limit: limit}
		got, err := s.store.List(context.Background(), q)
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		equal(t, "page", got, selectFrom(records, q))
	}
}

// newestFirst sorts records as List returns them.
func newestFirst(records []message.Record) {
	slices.SortFunc(records, func(a, b message.Record) int { return bytes.Compare(b.ID[:], a.ID[:]) })
}

// selectFrom answers a query the obvious way.
func selectFrom(records []message.Record, q message.Query) message.Page {
	var page message.Page
	for _, r := range records {
		at := r.AcceptedAt()
		status := r.Status
		if !q.At.IsZero() && status == message.Scheduled && !r.ScheduledAt.After(q.At) {
			status = message.Queued // its time has come
		}
		if q.Account != "" && r.Account != q.Account || q.Status != 0 && status != q.Status ||
			q.Channel != 0 && r.Channel != q.Channel || q.To != "" && r.To != q.To ||
			q.ClientRef != "" && r.ClientRef != q.ClientRef ||
			!q.AcceptedAfter.IsZero() && at.Before(q.AcceptedAfter) ||
			!q.AcceptedBefore.IsZero() && !at.Before(q.AcceptedBefore) ||
			!q.Before.IsZero() && bytes.Compare(r.ID[:], q.Before[:]) >= 0 {
			continue
		}
		page.Records = append(page.Records, r)
	}
	newestFirst(page.Records)
	if len(page.Records) > q.Limit {
		page.Records, page.More = page.Records[:q.Limit], true
	}
	return page
}
