package appliance

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"

	"forebay/httpapi"
	"forebay/wal/message"
)

// A message can be canceled as long as it is in the log of the node that has
// accepted it, whether or not a store has it yet. So who looks for messages by
// their reference asks the logs of all nodes.

const callFind = "message/find"

type findQuestion struct {
	Owner string `json:"owner"`
	Ref   string `json:"client_ref"`
	Limit int    `json:"limit"`
}

// answerFinds registers what other nodes may ask of this one's log.
func (a *Appliance) answerFinds() {
	a.group.Handle(callFind, func(ctx context.Context, _ uint16, body []byte) ([]byte, error) {
		var q findQuestion
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, fmt.Errorf("read question: %w", err)
		}
		ids, err := (*life)(a).findHere(ctx, q)
		if err != nil {
			return nil, err
		}
		return json.Marshal(ids)
	})
}

// Find implements httpapi.Life.
func (l *life) Find(ctx context.Context, owner, ref string, limit int) ([]message.ID, error) {
	q := findQuestion{owner, ref, limit}
	var (
		mu   sync.Mutex // guards what follows
		all  []message.ID
		miss error
		asks sync.WaitGroup
	)
	take := func(ids []message.ID, err error) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, ids...)
		if err != nil {
			miss = err
		}
	}
	for _, m := range l.group.Status().Members {
		if m.Node != l.cfg.Node {
			asks.Go(func() { take(l.findThere(ctx, m.Node, q)) })
		}
	}
	take(l.findHere(ctx, q))
	asks.Wait()
	return newest(all, limit), miss
}

func newest(ids []message.ID, limit int) []message.ID {
	slices.SortFunc(ids, func(x, y message.ID) int { return bytes.Compare(y[:], x[:]) })
	return ids[:min(len(ids), limit)]
}

// findHere searches this node's log, one search at a time: each may read all of it.
func (l *life) findHere(ctx context.Context, q findQuestion) ([]message.ID, error) {
	select {
	case l.delivery.searching <- struct{}{}:
		defer func() { <-l.delivery.searching }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", httpapi.ErrUnavailable, context.Cause(ctx))
	}
	ref := []byte(q.Ref)
	ids, err := l.log.Find(ctx, func(payload []byte) bool {
		if !bytes.Contains(payload, ref) { // most are done with here
			return false
		}
		m, err := message.Decode(payload)
		return err == nil && m.Account == q.Owner && m.ClientRef == q.Ref
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
	}
	return newest(ids, q.Limit), nil
}

// findThere asks another node for what is in its log.
func (l *life) findThere(ctx context.Context, node uint16, q findQuestion) (ids []message.ID, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, ownerLimit)
	defer cancel()
	answer, err := l.group.Call(ctx, node, callFind, body)
	if err == nil {
		err = json.Unmarshal(answer, &ids)
	}
	if err != nil {
		return nil, fmt.Errorf("messages of node %d: %w: %w", node, httpapi.ErrAway, err)
	}
	return ids, nil
}
