package admin

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Watching is the live view of the appliance; nil in Config: there is none.
type Watching interface {
	// Subscribe adds a viewer: the status as it is now, and then one each second,
	// as JSON texts that must not be changed. The channel is closed for a viewer
	// that falls behind, and when the appliance stops. cancel must be called.
	Subscribe() (first []byte, events <-chan []byte, cancel func(), err error)
	// History is the last hour, from after since; it is encoded as JSON.
	History(since time.Time) any
}

const (
	feedRetry = 2 * time.Second  // what a browser waits before it connects again
	feedWrite = 10 * time.Second // for one event to leave; then the viewer is gone
)

// watchRoutes serves the page and what it shows.
func (h *Handler) watchRoutes(r interface {
	Handler(method, path string, handler http.Handler)
}) {
	if h.cfg.Watching != nil {
		r.Handler(http.MethodGet, "/events", h.serve("GET /events", nil, h.events))
		r.Handler(http.MethodGet, "/history.json", h.serve("GET /history.json", nil, h.history))
	}
	if h.cfg.Page != nil {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r.Handler(method, "/", h.cfg.Page)
			r.Handler(method, "/assets/*file", h.cfg.Page)
		}
	}
}

// history answers with the points after the query's since, in Unix seconds.
func (h *Handler) history(x *exchange) error {
	var since time.Time
	if v := x.r.URL.Query().Get("since"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return Refuse(CodeInvalid, "the query is not valid", FieldProblem{Parameter: "since", Detail: "must be a Unix time in seconds"})
		}
		since = time.Unix(n, 0)
	}
	return x.answer(http.StatusOK, h.cfg.Watching.History(since))
}

// events streams the status as server-sent events (WHATWG HTML, section 9.2).
// Each is a whole picture, so a viewer that comes back needs none of those it
// missed, and Last-Event-ID asks for nothing; what the charts missed it fetches
// from /history.json.
func (h *Handler) events(x *exchange) error {
	first, events, cancel, err := h.cfg.Watching.Subscribe()
	if err != nil {
		return fmt.Errorf("%w: %w", Refuse(CodeUnavailable, "there are too many viewers already; close another page"), err)
	}
	defer cancel()
	x.begin("text/event-stream")
	x.w.Header().Set("X-Accel-Buffering", "no") // for a proxy in between
	if _, err := fmt.Fprintf(x.w, "retry: %d\n", feedRetry.Milliseconds()); err != nil {
		return nil // the viewer has gone
	}
	control := http.NewResponseController(x.w)
	for event := first; ; {
		control.SetWriteDeadline(time.Now().Add(feedWrite))
		if writeEvent(x.w, event) != nil || control.Flush() != nil {
			return nil
		}
		var open bool
		if event, open = next(x.r.Context(), events); !open {
			return nil
		}
	}
}

func next(ctx context.Context, events <-chan []byte) ([]byte, bool) {
	select {
	case event, open := <-events:
		return event, open
	case <-ctx.Done():
		return nil, false
	}
}

// writeEvent writes one event in one piece: the JSON has no line breaks.
func writeEvent(w http.ResponseWriter, event []byte) error {
	frame := make([]byte, 0, len(event)+48)
	frame = append(frame, "id: "...)
	frame = strconv.AppendInt(frame, time.Now().UnixMilli(), 10)
	frame = append(frame, "\ndata: "...)
	frame = append(frame, event...)
	frame = append(frame, "\n\n"...)
	_, err := w.Write(frame)
	return err
}
