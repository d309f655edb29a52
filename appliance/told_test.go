package appliance_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

var (
	eventKind    = regexp.MustCompile(`(?m)^event: (message\.\w+)\ndata: (.*)$`)
	callbackKind = regexp.MustCompile(`"type":"(message\.\w+)"`)
)

// changes are the kinds of a message's events, in order.
func (f *feed) changes(id string) (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range eventKind.FindAllStringSubmatch(f.text.String(), -1) {
		if strings.Contains(m[2], `"id":"`+id+`"`) { // callbacks are messages of the account, too
			all = append(all, m[1])
		}
	}
	return all
}

// toldInOrder holds the feed's events of a message against the table of statuses,
// and the last of them against what became of it.
func (f *feed) toldInOrder(t *testing.T, id, fate string) {
	t.Helper()
	appliancetest.Eventually(t, 30*time.Second, id+" is told to be "+fate, func() bool { return slices.Contains(f.changes(id), "message."+fate) })
	kinds := f.changes(id)
	var before message.Status
	for _, kind := range kinds {
		now, ok := message.ParseStatus(strings.TrimPrefix(kind, "message."))
		if !ok || before.Valid() && !before.CanReach(now) {
			t.Errorf("%s was told to be %v", id, kinds)
		}
		before = now
	}
	if before.String() != fate {
		t.Errorf("%s was told to be %v, and is %s", id, kinds, fate)
	}
}

// TestEveryChangeIsTold: the feed of an account has each change of a message in its
// order, also from scheduled to queued and of each attempt's beginning; its callback
// address has each status that the message came to.
func TestEveryChangeIsTold(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, withWebhooks)
	r := newHookReceiver(t)
	r.fail["/to"] = 1
	feed := openFeed(t, n)
	id := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/to", "body": "x", "callback_url": r.URL + "/told",
		"send_at": time.Now().Add(1500 * time.Millisecond).Format(time.RFC3339Nano)})
	awaitStatus(t, n, id, "delivered")
	kinds := func() []string { return feed.changes(id) }
	want := []string{"message.scheduled", "message.queued", "message.sending", "message.queued", "message.sending", "message.delivered"}
	appliancetest.Eventually(t, time.Minute, "the feed and the callback address have the end", func() bool {
		return slices.Contains(kinds(), "message.delivered") && len(r.got("/told")) >= 4
	})
	if diff := cmp.Diff(want, kinds()); diff != "" {
		t.Errorf("the feed (-want +got):\n%s", diff)
	}
	var told []string
	for _, body := range r.got("/told") {
		if m := callbackKind.FindStringSubmatch(body); m != nil {
			told = append(told, m[1])
		}
	}
	slices.Sort(told) // they are sent side by side
	if diff := cmp.Diff([]string{"message.delivered", "message.queued", "message.scheduled", "message.sending"}, told); diff != "" {
		t.Errorf("the callback address (-want +got):\n%s", diff)
	}
}

// TestWhatTheDatabaseIsWaitedForSaysSo: what was accepted while the database is down
// and needs it, is told to wait for it, at once, and by itself no more.
func TestWhatTheDatabaseIsWaitedForSaysSo(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	n := appliancetest.Start(t, appliancetest.WithPostgres(pg.URL()), func(c *config.Config) {
		c.Database.ConnectionTimeout = 2 * time.Second
	})
	pg.Stop(sinktest.Fast)
	id := post(t, n, map[string]any{"channel": "store", "body": "b"})
	appliancetest.Eventually(t, 10*time.Second, "it waits for the store", func() bool {
		v := show(t, n, id)
		return v.Status == "accepted" && v.Hold == "store_down"
	})
	pg.Start()
	if v := awaitStatus(t, n, id, "stored"); v.Hold != "" {
		t.Errorf("once stored it waits for %q", v.Hold)
	}
}

// TestWhoWaitsForItsAccountSaysSo: of an account that has as many calls in flight as
// it may, the next message is told to wait for that.
func TestWhoWaitsForItsAccountSaysSo(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, withWebhooks, withPatience, func(c *config.Config) { c.Delivery.PerAccountInFlight = 1 })
	first, letGo := blocking(t)
	a := post(t, n, map[string]any{"channel": "webhook", "to": first, "body": "b"})
	if v := awaitStatus(t, n, a, "sending"); v.Hold != "" {
		t.Errorf("what is being sent waits for %q", v.Hold)
	}
	b := post(t, n, map[string]any{"channel": "webhook", "to": newHookReceiver(t).URL, "body": "b"})
	appliancetest.Eventually(t, 10*time.Second, "the other waits for its account", func() bool {
		v := show(t, n, b)
		return v.Status == "queued" && v.Hold == "account_cap"
	})
	letGo()
	awaitStatus(t, n, a, "delivered")
	if v := awaitStatus(t, n, b, "delivered"); v.Hold != "" {
		t.Errorf("once delivered it waits for %q", v.Hold)
	}
}
