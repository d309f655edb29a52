package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/wal"
	"forebay/wal/message"
)

// A store hears of a message when it takes it in, and again when it was sent or has
// come to its end. What happens between (its time comes, it is tried, it waits for
// another try) only the node knows that has it in its log. So what a store lists is
// told as that node knows it, which is as it is told of one message, and no write
// for each step is needed to list what is true.

const (
	callPresent = "message/present"
	callSending = "message/sending"
	// presentLimit is how long another node gets to say how far its messages are.
	// Of one that does not they are listed as the store has them.
	presentLimit = time.Second
)

// answerLists registers what other nodes may ask of this one for their lists.
func (a *Appliance) answerLists() {
	m := (*messages)(a)
	a.group.Handle(callPresent, func(_ context.Context, _ uint16, body []byte) ([]byte, error) {
		var ids []message.ID
		if err := json.Unmarshal(body, &ids); err != nil {
			return nil, fmt.Errorf("read question: %w", err)
		}
		return m.answerWith(ids)
	})
	a.group.Handle(callSending, func(_ context.Context, _ uint16, body []byte) ([]byte, error) {
		var q message.Query
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, fmt.Errorf("read question: %w", err)
		}
		return m.answerWith(m.sendingHere(q))
	})
}

// answerWith is those of the messages that are in this node's log, without what they
// say: no list tells that, and much would have to travel.
func (m *messages) answerWith(ids []message.ID) ([]byte, error) {
	records, err := m.present(ids)
	if err != nil {
		return nil, err
	}
	answers := make([]messageAnswer, len(records))
	for i := range records {
		m := &records[i].Message
		m.Subject, m.Body, m.HTML, m.Template = "", "", "", nil
		answers[i] = answerOf(&records[i])
	}
	return json.Marshal(answers)
}

// List returns messages by query, newest first, as they now are.
func (m *messages) List(ctx context.Context, q message.Query) (message.Page, error) {
	q.At = time.Now()
	if q.Status == message.Sending { // of which the store hears only after it
		return m.sending(ctx, q), nil
	}
	var listed message.Page
	for rest := q; ; {
		page, err := m.store.List(ctx, rest)
		if err != nil {
			return message.Page{}, fromStore(err)
		}
		if n := len(page.Records); n > 0 {
			rest.Before = page.Records[n-1].ID
		}
		m.bringUp(ctx, page.Records, q.At)
		for _, r := range page.Records {
			if q.Matches(&r) { // else it has gone on from what the store has it for
				listed.Records = append(listed.Records, r)
			}
		}
		listed.More = page.More
		if !page.More || len(page.Records) == 0 || len(listed.Records) >= q.Limit {
			break
		}
	}
	return upTo(listed, q.Limit), nil
}

// bringUp tells of records from the store what the nodes know whose they are.
func (m *messages) bringUp(ctx context.Context, records []message.Record, at time.Time) {
	open := make(map[uint16][]message.ID)
	for i := range records {
		if id := records[i].ID; records[i].Status.Open() {
			open[id.Node()] = append(open[id.Node()], id)
		}
	}
	if len(open) == 0 {
		return
	}
	known := make(map[message.ID]message.State)
	for _, r := range m.ofNodes(ctx, func(node uint16) bool { return open[node] != nil }, callPresent,
		func(node uint16) any { return open[node] },
		func() ([]message.Record, error) { return m.present(open[m.cfg.Node]) }) {
		known[r.ID] = r.State
	}
	for i := range records {
		r := &records[i]
		if state, ok := known[r.ID]; ok {
			r.State = r.State.Merge(state)
		}
		r.State = r.Due(at)
	}
}

// present is what this node knows of those messages that it has in its log.
func (m *messages) present(ids []message.ID) (records []message.Record, err error) {
	for _, id := range ids {
		r, err := m.inLog(id)
		switch {
		case err == nil:
			records = append(records, r)
		case !errors.Is(err, wal.ErrNotFound):
			return records, err
		}
	}
	return records, nil
}

// sending lists what the nodes are sending.
func (m *messages) sending(ctx context.Context, q message.Query) message.Page {
	records := m.ofNodes(ctx, func(uint16) bool { return true }, callSending, func(uint16) any { return q },
		func() ([]message.Record, error) { return m.present(m.sendingHere(q)) })
	records = slices.DeleteFunc(records, func(r message.Record) bool { return !q.Matches(&r) })
	slices.SortFunc(records, func(x, y message.Record) int { return bytes.Compare(y.ID[:], x.ID[:]) })
	return upTo(message.Page{Records: records}, q.Limit)
}

// upTo cuts a page to its limit.
func upTo(p message.Page, limit int) message.Page {
	if len(p.Records) > limit {
		p.Records, p.More = p.Records[:limit], true
	}
	return p
}

// sendingHere is what this node is sending of what the query selects: the newest,
// one more than its limit.
func (m *messages) sendingHere(q message.Query) []message.ID {
	limit := q.Limit + 1
	q.Status = 0 // of the record in memory it is that of what follows
	return newest(m.dispatcher.Sending(q.Matches), limit)
}

// ofNodes gathers records from this node and those members of the group that are
// wanted, all at once; those that do not answer are left out.
func (m *messages) ofNodes(ctx context.Context, wanted func(node uint16) bool, path string, question func(node uint16) any,
	here func() ([]message.Record, error)) (all []message.Record) {
	ctx, cancel := context.WithTimeout(ctx, presentLimit)
	defer cancel()
	var (
		mu   sync.Mutex // guards all
		asks sync.WaitGroup
	)
	take := func(node uint16, records []message.Record, err error) {
		if err != nil {
			m.logger.Debug("a node's messages are listed as the store has them", "node", node, "err", err)
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, records...)
	}
	for _, member := range m.group.Status().Members {
		if node := member.Node; node != m.cfg.Node && wanted(node) {
			asks.Go(func() {
				records, err := m.recordsThere(ctx, node, path, question(node))
				take(node, records, err)
			})
		}
	}
	if wanted(m.cfg.Node) {
		records, err := here()
		take(m.cfg.Node, records, err)
	}
	asks.Wait()
	return all
}

// recordsThere asks another node for records.
func (m *messages) recordsThere(ctx context.Context, node uint16, path string, question any) ([]message.Record, error) {
	body, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	text, err := m.group.Call(ctx, node, path, body)
	if err != nil {
		return nil, err
	}
	var answers []messageAnswer
	if err := json.Unmarshal(text, &answers); err != nil {
		return nil, fmt.Errorf("read answer of node %d: %w", node, err)
	}
	records := make([]message.Record, len(answers))
	for i := range answers {
		if records[i], err = answers[i].record(); err != nil {
			return nil, fmt.Errorf("read answer of node %d: %w", node, err)
		}
	}
	return records, nil
}
