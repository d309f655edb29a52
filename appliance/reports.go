package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"forebay/httpapi"
	"forebay/raftstate"
	"forebay/sink"
	"forebay/sink/whatsapp"
	"forebay/wal/message"
)

// This file wires what providers report of messages, to whichever node, and that
// they may never do so.

// whatsAppHook is what WhatsApp's servers talk to. The secrets are read anew for
// each request, which comes seldom, so that a file that changes is in force.
type whatsAppHook Appliance

// Subscription implements httpapi.Hook.
func (h *whatsAppHook) Subscription(query url.Values) (string, bool) {
	token := h.secret((*Appliance)(h).current().Channels.WhatsApp.VerifyTokenFile)
	return whatsapp.VerifySubscription(token, query)
}

// Receive implements httpapi.Hook.
func (h *whatsAppHook) Receive(ctx context.Context, signature string, body []byte) error {
	secret := h.secret((*Appliance)(h).current().Channels.WhatsApp.AppSecretFile)
	if !whatsapp.VerifySignature(secret, signature, body) {
		return httpapi.ErrForged
	}
	reports, err := whatsapp.ParseReports(body)
	if err != nil {
		return fmt.Errorf("%w: %w", httpapi.ErrMalformed, err)
	}
	return h.take(ctx, reports)
}

const (
	callReports      = "message/reports"
	codeReportsLater = "unavailable"
)

// answerReports registers that other nodes hand over what providers report to them of
// this one's messages.
func (a *Appliance) answerReports() {
	a.group.Handle(callReports, func(ctx context.Context, _ uint16, body []byte) ([]byte, error) {
		var reports []message.Report
		if err := json.Unmarshal(body, &reports); err != nil {
			return nil, fmt.Errorf("read reports: %w", err)
		}
		if err := (*whatsAppHook)(a).takeHere(ctx, reports); err != nil {
			return nil, &raftstate.CallError{Code: codeReportsLater, Detail: err.Error()}
		}
		return nil, nil
	})
}

// take brings each report to the node whose message it is of: that one may be about
// to send it once more, its store may be its own, and it tells of everything else that
// becomes of the message. Where it does not answer, a store that all nodes have takes
// the report here, and is asked before the message is sent again; without one, the
// provider is to report again later.
func (h *whatsAppHook) take(ctx context.Context, reports []message.Report) error {
	here, others := h.sorted(reports)
	var (
		mu     sync.Mutex // guards here and failed
		failed error
		asks   sync.WaitGroup
	)
	for node, theirs := range others {
		asks.Go(func() {
			_, err := (*Appliance)(h).askOwner(ctx, theirs[0].ID, callReports, theirs)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, httpapi.ErrNotFound) || (*Appliance)(h).sharesStore() {
				here = append(here, theirs...)
				return
			}
			failed = fmt.Errorf("%w: hand %d reports to node %d: %w", httpapi.ErrUnavailable, len(theirs), node, err)
		})
	}
	asks.Wait()
	return errors.Join(h.takeHere(ctx, here), failed)
}

// sorted tells reports of other nodes' messages, by node, from the rest.
func (h *whatsAppHook) sorted(reports []message.Report) (here []message.Report, others map[uint16][]message.Report) {
	others = map[uint16][]message.Report{}
	for _, r := range reports {
		if r.ID.IsZero() || r.ID.Node() == h.cfg.Node {
			here = append(here, r)
		} else {
			others[r.ID.Node()] = append(others[r.ID.Node()], r)
		}
	}
	return here, others
}

// sharesStore reports whether the nodes have one store.
func (a *Appliance) sharesStore() bool { return a.cfg.Database.URL.Reveal() != "" }

// takeHere makes reports durable, ends what this node would send again without them,
// and tells of what they change.
func (h *whatsAppHook) takeHere(ctx context.Context, reports []message.Report) error {
	if len(reports) == 0 {
		return nil
	}
	records, err := h.store.Report(ctx, reports)
	if err != nil {
		return fromStore(err)
	}
	// What is not told when we fail, or crash, is told when Meta sends the reports
	// again, which then change nothing any more.
	if err := h.dispatcher.Reported(ctx, records); err != nil {
		return fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
	}
	if err := h.dispatcher.Changed(ctx, records); err != nil {
		return fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
	}
	again, err := h.repeated(ctx, reports, records)
	if err != nil {
		return fromStore(err)
	}
	if err := h.dispatcher.Reported(ctx, again); err != nil {
		return fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
	}
	if err := h.dispatcher.Callbacks(ctx, again); err != nil {
		return fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
	}
	return nil
}

// repeated returns the messages that are as they are reported to be and were so
// before. That a message was sent is told by who sent it.
func (h *whatsAppHook) repeated(ctx context.Context, reports []message.Report, changed []message.Record) (again []message.Record, err error) {
	seen := make(map[message.ID]bool, len(changed))
	for i := range changed {
		seen[changed[i].ID] = true
	}
	for _, report := range reports {
		if report.ID.IsZero() || report.Status == message.Sent || seen[report.ID] {
			continue
		}
		r, err := h.store.Get(ctx, "", report.ID)
		if errors.Is(err, sink.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if r.Channel == report.Channel && r.Status == report.Status {
			seen[report.ID] = true
			again = append(again, r)
		}
	}
	return again, nil
}

// secret reads a file; empty, which verifies nothing, if it cannot be read.
func (h *whatsAppHook) secret(path string) string {
	if path == "" {
		return ""
	}
	text, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(text))
	}
	h.logger.Error("a secret of WhatsApp's hook cannot be read", "file", path, "err", err)
	return ""
}

const (
	// reportPatience is how long a report of a sent message is waited for: as long
	// as stores keep reports that come early.
	reportPatience = sink.EarlyReports
	sweepEvery     = time.Minute
	sweepBatch     = 500
)

// sweepUnreported gives up on reports that never came, until ctx ends. Where nodes
// have a common store their leader does so, for callbacks are made by who does.
func (a *Appliance) sweepUnreported(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s := a.group.Status(); a.sharesStore() && s.Leader != a.cfg.Node {
			continue
		}
		for n := sweepBatch; n == sweepBatch && ctx.Err() == nil; {
			n = a.giveUp(ctx, time.Now().Add(-reportPatience))
		}
	}
}

// giveUp gives up on reports of messages that were sent before t, and returns of
// how many at most. Their callbacks are durable before they are final: after a
// crash in between they are found again, and the log knows the callbacks.
func (a *Appliance) giveUp(ctx context.Context, t time.Time) (found int) {
	records, err := a.store.Unreported(ctx, t, sweepBatch, func(records []message.Record) error {
		found = len(records)
		return a.dispatcher.Callbacks(ctx, records)
	})
	var down *sink.Down
	switch {
	case err == nil && len(records) == 0, errors.As(err, &down), ctx.Err() != nil:
	case err != nil:
		a.logger.Error("cannot give up messages without a report; they are tried again", "err", err)
	default:
		a.logger.Info("no report came of messages that were sent", "messages", len(records), "waited", reportPatience)
		a.api.Publish(records)
	}
	if err != nil {
		return 0
	}
	return found
}
