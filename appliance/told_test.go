package appliance_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"forebay/appliance/appliancetest"
)

var (
	eventKind    = regexp.MustCompile(`(?m)^event: (message\.\w+)\ndata: (.*)$`)
	callbackKind = regexp.MustCompile(`"type":"(message\.\w+)"`)
)

// TestEveryChangeIsTold: the feed of an account has each change of a message in its
// order, also from scheduled to queued and of each attempt's beginning; its callback
// address has those that last.
func TestEveryChangeIsTold(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t, withWebhooks)
	r := newHookReceiver(t)
	r.fail["/to"] = 1
	feed := openFeed(t, n)
	id := post(t, n, map[string]any{"channel": "webhook", "to": r.URL + "/to", "body": "x", "callback_url": r.URL + "/told",
		"send_at": time.Now().Add(1500 * time.Millisecond).Format(time.RFC3339Nano)})
	awaitStatus(t, n, id, "delivered")
	kinds := func() (all []string) {
		feed.mu.Lock()
		defer feed.mu.Unlock()
		for _, m := range eventKind.FindAllStringSubmatch(feed.text.String(), -1) {
			if strings.Contains(m[2], `"id":"`+id+`"`) { // callbacks are messages of the account, too
				all = append(all, m[1])
			}
		}
		return all
	}
	want := []string{"message.scheduled", "message.queued", "message.sending", "message.queued", "message.sending", "message.delivered"}
	appliancetest.Eventually(t, time.Minute, "the feed and the callback address have the end", func() bool {
		return slices.Contains(kinds(), "message.delivered") && len(r.got("/told")) >= 3
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
	if diff := cmp.Diff([]string{"message.delivered", "message.queued", "message.scheduled"}, told); diff != "" {
		t.Errorf("the callback address (-want +got):\n%s", diff)
	}
}
