package appliance_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/wal/message"
)

// TestNoReportIsTold: a message that is given up has its callback, one, also when
// the process ends between the callback and the end of the message; and also when
// the callback of its being sent, which has the same status, is still remembered.
func TestNoReportIsTold(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t)
	must(t, "stop", n.Stop())
	at := time.Now().Add(-73 * time.Hour)
	var batch []message.Record
	for i := range 5 {
		batch = append(batch, message.Record{ID: message.NewID(uint64(at.UnixMilli()), uint16(i), 1, message.High, 1), Seq: uint64(i + 1),
			Message: message.Message{Account: "acme", Channel: message.ChannelWhatsApp, To: "+4915112345678", Body: "b", CallbackURL: "https://told.invalid/"},
			State:   message.State{Status: message.Sent, SentAt: at.UTC(), ProviderID: "wamid." + string(rune('0'+i))}})
	}
	past(t, n.Dir(), batch...)
	n = n.Restart()
	callbacks := func() int {
		_, text := ask(t, n, "GET", "/v1/messages?channel=webhook", "")
		return strings.Count(text, `"channel":"webhook"`)
	}
	final := func() (given int) {
		for _, r := range batch {
			if _, text := ask(t, n, "GET", "/v1/messages/"+r.ID.String(), ""); strings.Contains(text, `"final":true`) && strings.Contains(text, message.CodeNoReport) {
				given++
			}
		}
		return given
	}
	must(t, "tell that they were sent", n.TellAgain(context.Background(), batch))
	before := time.Now().Add(-72 * time.Hour)
	died := n.GiveUpAndDie(context.Background(), before)
	if died == nil || final() != 0 {
		t.Fatalf("%v, and %d messages are final: the crash was not where it should be", died, final())
	}
	t.Log("injected:", died)
	must(t, "stop", n.Stop())
	n = n.Restart()
	if found := n.GiveUp(context.Background(), before); found != len(batch) || final() != len(batch) {
		t.Errorf("after the crash %d were found and %d are final, want %d", found, final(), len(batch))
	}
	if found := n.GiveUp(context.Background(), before); found != 0 {
		t.Errorf("%d were found once more", found)
	}
	appliancetest.Eventually(t, time.Minute, "the callbacks are in the store", func() bool { return callbacks() >= 2*len(batch) })
	if got := callbacks(); got != 2*len(batch) {
		t.Errorf("%d callbacks, want one of each message that was sent, and one of its end", got)
	}
}
