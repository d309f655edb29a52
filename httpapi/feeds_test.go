package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forebay/wal/message"
)

// changed is a record that has come to a status.
func changed(account string, counter uint16, status message.Status) message.Record {
	id := message.NewID(uint64(time.Now().UnixMilli()), counter, 7, message.Normal, 1)
	return message.Record{ID: id, Message: message.Message{Account: account, Channel: message.ChannelEmail, Body: "secret"}, State: message.State{Status: status}}
}

// feedOf opens a feed, and returns how to read its next event, and how to leave.
func feedOf(t *testing.T, address, since string) (next func() (id, event, data string), leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+address+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+goodKey)
	r.Header.Set("Accept", "text/event-stream")
	if since != "" {
		r.Header.Set("Last-Event-ID", since)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	res, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("feed: %d %v", res.StatusCode, res.Header)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	return func() (id, event, data string) {
		for lines.Scan() {
			switch key, value, _ := strings.Cut(lines.Text(), ": "); {
			case key == "id":
				id = value
			case key == "event":
				event = value
			case key == "data":
				data = value
			case lines.Text() == "" && event != "":
				return id, event, data
			}
		}
		return "", "end", ""
	}, cancel
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	address := w.serve(t)
	w.Publish([]message.Record{changed(account, 1, message.Queued)}) // nobody listens
	next, leave := feedOf(t, address, "")
	w.Publish([]message.Record{changed("other", 2, message.Queued), changed(account, 3, message.Sent), changed(account, 4, message.Delivered)})
	first, event, data := next()
	if event != "message.sent" || !strings.Contains(data, `"type":"message.sent"`) || !strings.Contains(data, `"status":"sent"`) || strings.Contains(data, "secret") {
		t.Errorf("first event %s %s, want the message that was sent, without its body", event, data)
	}
	if _, event, _ := next(); event != "message.delivered" {
		t.Errorf("second event %s, want message.delivered", event)
	}
	leave()
	eventually(t, "the feed is left", func() bool { w.feeds.mu.Lock(); defer w.feeds.mu.Unlock(); return w.feeds.total == 0 })
	w.Publish([]message.Record{changed(account, 5, message.Read)})

	again, _ := feedOf(t, address, first)
	for _, want := range []string{"message.delivered", "message.read"} {
		if _, event, _ := again(); event != want {
			t.Errorf("after coming back %s, want %s", event, want)
		}
	}
	strange, _ := feedOf(t, address, "another-12")
	if _, event, _ := strange(); event != "gap" {
		t.Errorf("with an id of another process: %s, want gap", event)
	}
	w.Drain()
	for _, next := range []func() (string, string, string){again, strange} {
		if _, event, _ := next(); event != "end" {
			t.Errorf("while draining: %s, want the end of the feed", event)
		}
	}
}

// TestFeedNeverGoesBack: whoever tells of a message's statuses, in whatever order
// and as often as they like, a reader sees no step that a message cannot take, and
// sees each that leads onward, once.
func TestFeedNeverGoesBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := newFeeds()
		reader, _, _ := f.subscribe("a", "")
		last := map[uint16]message.Status{}
		records := []message.Record{changed("a", 1, message.Queued), changed("a", 2, message.Queued)}
		for range rapid.IntRange(1, feedQueue).Draw(t, "events") {
			r := &records[rapid.IntRange(0, 1).Draw(t, "message")]
			r.Status = rapid.SampledFrom(message.Statuses).Draw(t, "status")
			f.publish("a", r, r.Status.String(), EventOf(r, time.Now()))
			before, known := last[r.ID.Counter()]
			onward := !known || before != r.Status && before.CanReach(r.Status)
			if onward {
				last[r.ID.Counter()] = r.Status
			}
			select {
			case e := <-reader.queue:
				if !onward || !strings.Contains(string(e.text), "event: "+r.Status.String()+"\n") {
					t.Fatalf("%v after %v: %s", r.Status, before, e.text)
				}
			default:
				if onward {
					t.Fatalf("%v after %v was left out", r.Status, before)
				}
			}
		}
	})
}

// TestEventsAreBounded: readers, what they may be behind, and what is kept.
func TestEventsAreBounded(t *testing.T) {
	f := newFeeds()
	var readers []*feedReader
	for range feedsPerAccount {
		r, _, known := f.subscribe("a", "")
		if r == nil || !known {
			t.Fatal("a feed was refused below the bound")
		}
		readers = append(readers, r)
	}
	if r, _, _ := f.subscribe("a", ""); r != nil {
		t.Error("a feed above the bound of an account")
	}
	r := changed("a", 1, message.Queued)
	next := func() {
		r.Status = message.Queued + message.Sending - r.Status // to and fro
		f.publish("a", &r, "message."+r.Status.String(), EventOf(&r, time.Now()))
	}
	for range feedQueue + 1 {
		next()
	}
	for i, reader := range readers {
		select {
		case <-reader.dropped:
		default:
			t.Errorf("reader %d reads nothing and was not dropped", i)
		}
	}
	if f.total != 0 {
		t.Errorf("%d readers are left, want 0", f.total)
	}
	for range 2 * feedRing {
		next()
	}
	if len(f.reached) != 1 {
		t.Errorf("%d messages are remembered, want the one", len(f.reached))
	}
	for i := range 2 * feedRing {
		r := changed("a", uint16(i), message.Sent)
		f.publish("a", &r, "message.sent", EventOf(&r, time.Now()))
	}
	if len(f.reached) > feedRing {
		t.Errorf("%d messages are remembered, want %d at most", len(f.reached), feedRing)
	}
	if len(f.ring) > feedRing || f.bytes > feedRingBytes {
		t.Errorf("%d events and %d bytes are kept, want %d and %d at most", len(f.ring), f.bytes, feedRing, feedRingBytes)
	}
	_, missed, known := f.subscribe("a", fmt.Sprintf("%s-%d", f.epoch, f.last-10))
	if len(missed) != 10 || !known {
		t.Errorf("%d events missed, known %v, want 10", len(missed), known)
	}
	if _, _, known := f.subscribe("a", f.epoch+"-1"); known {
		t.Error("what is not in memory any more passes for nothing")
	}
	sorted := slices.IsSortedFunc(missed, func(a, b feedEvent) int { return int(a.number) - int(b.number) })
	if !sorted {
		t.Error("missed events are not in order")
	}
}
