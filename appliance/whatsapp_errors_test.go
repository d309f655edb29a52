package appliance_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// graphCode is a row of the table of errors, as who sends sees it.
type graphCode struct {
	code  int
	error string // code of the failure
}

// The rows of Meta's table by what they mean for a message.
var (
	graphPermanent = []graphCode{{100, "invalid_content"}, {130403, "blocked"}, {130472, "recipient_unreachable"}, {130497, "blocked"}, {131008, "invalid_content"},
		{131009, "invalid_content"}, {131021, "invalid_recipient"}, {131026, "recipient_unreachable"}, {131047, "window_closed"}, {131049, "recipient_unreachable"},
		{131050, "opted_out"}, {131051, "invalid_content"}, {131052, "invalid_content"}, {131053, "invalid_content"}, {131063, "template_error"}, {132000, "template_error"},
		{132001, "template_error"}, {132005, "template_error"}, {132007, "template_error"}, {132012, "template_error"}, {132015, "template_error"}, {132016, "template_error"},
		{132018, "template_error"}, {132068, "template_error"}, {132069, "template_error"}, {135000, "invalid_content"}}
	graphTransient = []graphCode{{2, ""}, {131000, ""}, {131016, ""}, {133004, ""}}
	graphBrief     = []graphCode{{1, "channel_unavailable"}}
	graphSlow      = []graphCode{{131057, "channel_unavailable"}, {134101, "template_error"}}
	graphNumber    = []graphCode{{130429, "channel_rate_limited"}}
	graphPair      = []graphCode{{131056, "recipient_rate_limited"}}
	graphAccount   = []graphCode{{4, "channel_rate_limited"}, {80007, "channel_rate_limited"}, {131064, "channel_rate_limited"}, {133016, "channel_rate_limited"}}
	graphStop      = []graphCode{{0, ""}, {3, ""}, {10, ""}, {33, ""}, {190, ""}, {368, ""}, {131005, ""}, {131031, ""}, {131037, ""}, {131042, ""}, {131045, ""}, {131048, ""},
		{133006, ""}, {133010, ""}, {134011, ""}}
)

// TestEveryErrorOfWhatsApp sends the whole way into every row of Meta's table, by
// the statuses that Meta is known to use: what ends, ends at once and says why;
// what passes is tried again; what slows the number, the recipient or the account
// costs no attempt; what stops the channel lets everything wait until an operator
// has mended it. And in between others go on, and nothing is lost.
func TestEveryErrorOfWhatsApp(t *testing.T) {
	t.Parallel()
	coversEveryRow(t)
	t.Run("messages", messageErrors)
	t.Run("throttles", throttleErrors)
	t.Run("stops", stopErrors)
}

// coversEveryRow holds the tables of this test against the channel's.
func coversEveryRow(t *testing.T) {
	source, err := os.ReadFile("../sink/whatsapp/codes.go")
	must(t, "read the channel's table", err)
	mine := map[string]bool{}
	for _, list := range [][]graphCode{graphPermanent, graphTransient, graphBrief, graphSlow, graphNumber, graphPair, graphAccount, graphStop} {
		for _, c := range list {
			mine[strconv.Itoa(c.code)] = true
		}
	}
	rows := regexp.MustCompile(`(?m)^\t\{(\d+), [a-zA-Z]+, `).FindAllStringSubmatch(string(source), -1)
	for _, row := range rows {
		if !mine[row[1]] {
			t.Errorf("code %s is in the channel's table, and is not tried the whole way", row[1])
		}
	}
	if len(rows) != len(mine) {
		t.Errorf("the channel's table has %d rows, %d are tried", len(rows), len(mine))
	}
}

// messageErrors: what is about one message, all at the same time.
func messageErrors(t *testing.T) {
	t.Parallel()
	rules := sinktest.NewRules(t, 1)
	meta := freeWhatsApp(t, 1, rules)
	n := appliancetest.Start(t, withWhatsApp(t, meta))
	meta.PostUpdatesTo(n.URL + "/hooks/whatsapp")
	next := 0
	began := time.Now()
	type expected struct {
		code              int
		id, status, error string
		attempts          string
	}
	var all []expected
	sent := func(c graphCode, calls int, fault sinktest.Fault, status, attempts string) {
		to := number(next)
		next++
		rules.FirstTo(to, calls, fault)
		all = append(all, expected{c.code, post(t, n, text(to)), status, c.error, attempts})
	}
	for i, c := range graphPermanent {
		sent(c, 99, sinktest.GraphError([]int{400, 403, 500}[i%3], c.code, 0), "failed", "permanent")
	}
	for _, c := range []graphCode{{131026, "recipient_unreachable"}, {131047, "window_closed"}, {131049, "recipient_unreachable"}, {131050, "opted_out"}} {
		sent(c, 99, sinktest.GraphLater(c.code), "undelivered", "sent")
	}
	sent(graphCode{132015, "template_error"}, 99, sinktest.FaultHeld, "undelivered", "sent")
	for i, c := range graphTransient {
		sent(c, 2, sinktest.GraphError([]int{400, 500, 503}[i%3], c.code, 0), "went", "transient transient sent")
	}
	sent(graphBrief[0], 99, sinktest.GraphError(400, 1, 0), "failed", "transient transient permanent")
	for _, c := range graphSlow {
		sent(c, 1, sinktest.GraphError(400, c.code, 0), "queued", "retry_after")
	}
	healthy := []string{post(t, n, text(number(next))), post(t, n, text(number(next+1)))}

	for _, e := range all {
		var v view
		var outcomes []string
		appliancetest.Eventually(t, 30*time.Second, fmt.Sprintf("code %d makes it %s, by %s", e.code, e.status, e.attempts), func() bool {
			v, outcomes = show(t, n, e.id), nil
			for _, a := range v.Attempts {
				outcomes = append(outcomes, a.Outcome)
			}
			status, _ := message.ParseStatus(v.Status)
			return (v.Status == e.status || e.status == "went" && (status == message.Sent || message.Sent.CanReach(status))) && strings.Join(outcomes, " ") == e.attempts
		})
		if e.status != "went" && (v.Error.Code != e.error || v.Error.ChannelCode != strconv.Itoa(e.code)) {
			t.Errorf("code %d: it says %+v, want %s", e.code, v.Error, e.error)
		}
		if e.status == "queued" && (v.Hold != "retry" || v.Next.Sub(began) < time.Minute) {
			t.Errorf("code %d: held for %s until %v, want minutes", e.code, v.Hold, v.Next)
		}
	}
	for _, id := range healthy {
		if meta.Times(id) != 1 {
			t.Errorf("%s had no fault and arrived %d times", id, meta.Times(id))
		}
	}
}

// throttleErrors: too many for the number, the recipient, the account.
func throttleErrors(t *testing.T) {
	t.Parallel()
	rules := sinktest.NewRules(t, 1)
	meta := freeWhatsApp(t, 1, rules)
	n := appliancetest.Start(t, withWhatsApp(t, meta))
	held := func(to string, fault sinktest.Fault, code string) (id string, v view) {
		t.Helper()
		rules.FirstTo(to, 1, fault)
		id = post(t, n, text(to))
		appliancetest.Eventually(t, 30*time.Second, string(fault)+" holds it", func() bool { v = show(t, n, id); return v.Hold == "throttled" })
		if v.Status != "queued" || v.Error.Code != code || rules.Met(fault) == 0 {
			t.Errorf("%s: %+v", fault, v)
		}
		return id, v
	}
	arrives := func(id string) {
		t.Helper()
		awaitStatus(t, n, id, "sent")
		v := show(t, n, id)
		for i, a := range v.Attempts {
			if want := map[bool]string{true: "sent", false: "throttled"}[i == len(v.Attempts)-1]; a.Outcome != want || a.N != i+1 {
				t.Errorf("%s: attempts %+v, want throttled ones and one that went", id, v.Attempts)
			}
		}
		if meta.Times(id) != 1 {
			t.Errorf("%s arrived %d times", id, meta.Times(id))
		}
	}
	// The pair: its recipient waits, the others do not.
	id, _ := held(number(1), sinktest.GraphErrorAfter(429, 131056, 5), "recipient_rate_limited")
	other := post(t, n, text(number(2)))
	arrives(other)
	if meta.Times(id) != 0 {
		t.Error("the recipient's pause was none, or held the others up")
	}
	second := post(t, n, text(number(1)))
	arrives(id)
	arrives(second)
	// The number: everybody waits, and goes on after it.
	id, v := held(number(3), sinktest.GraphErrorAfter(400, 130429, numberRests), "channel_rate_limited")
	other = post(t, n, text(number(4)))
	throttleShows(t, n, v.Next)
	awaitHold(t, n, other, "throttled")
	for time.Now().Before(v.Next.Add(-500 * time.Millisecond)) {
		if meta.Times(other) != 0 && time.Now().Before(v.Next.Add(-500*time.Millisecond)) {
			t.Fatal("the number was too fast, and the next message went at once")
		}
		<-time.After(20 * time.Millisecond)
	}
	arrives(id)
	arrives(other)
	throttleShows(t, n, time.Time{})
	// The account: for minutes, over every message; a restart tries again.
	for i, c := range graphAccount {
		id, v = held(number(10+2*i), sinktest.GraphError([]int{400, 429}[i%2], c.code, 0), c.error)
		if time.Until(v.Next) < 4*time.Minute {
			t.Errorf("code %d: the account rests until %v only", c.code, v.Next)
		}
		other = post(t, n, text(number(11+2*i)))
		if status, text := ask(t, n, "POST", "/v1/messages/"+id+"/cancel", ""); status != 200 {
			t.Errorf("cancel what rests: %d %s", status, text)
		}
		if meta.Times(other) != 0 {
			t.Errorf("code %d: another message went while the account rests", c.code)
		}
		key := n.Key
		n = n.Restart()
		n.Key = key
		arrives(other)
		if v := show(t, n, id); v.Status != "canceled" || meta.Times(id) != 0 {
			t.Errorf("code %d: %+v, arrived %d times", c.code, v, meta.Times(id))
		}
	}
}

// numberRests is for how many seconds the stand-in wants nothing sent: long enough
// for a busy machine to look at it meanwhile.
const numberRests = 10

// throttleShows: an operator sees until when nothing goes, and who follows it reads
// for how long; zero: it goes.
func throttleShows(t *testing.T, n *appliancetest.Node, until time.Time) {
	t.Helper()
	s, err := n.Admin.Status(t.Context())
	must(t, "read the status", err)
	for _, c := range s.Channels {
		if c.Name == "whatsapp" && c.ThrottledUntil.Truncate(time.Millisecond) != until {
			t.Errorf("the status says throttled until %v, want %v", c.ThrottledUntil, until)
		}
	}
	if seconds := metric(t, n, `forebay_channel_throttled_seconds{channel="whatsapp"}`); (seconds > 0) == until.IsZero() || seconds > numberRests {
		t.Errorf("the metric says throttled for %v s, until %v", seconds, until)
	}
}

func awaitHold(t *testing.T, n *appliancetest.Node, id, reason string) {
	t.Helper()
	appliancetest.Eventually(t, 30*time.Second, id+" waits: "+reason, func() bool { return show(t, n, id).Hold == reason })
}

// stopErrors: nothing goes until an operator has acted, no attempt is used up, and
// a reload is enough to go on.
func stopErrors(t *testing.T) {
	t.Parallel()
	rules := sinktest.NewRules(t, 1)
	meta := freeWhatsApp(t, 1, rules)
	token := filepath.Join(t.TempDir(), "token")
	must(t, "write the token", os.WriteFile(token, []byte(sinktest.WhatsAppToken), 0o600))
	n := appliancetest.StartFile(t, appliancetest.NewFile(t, fmt.Sprintf("channels: {whatsapp: {enabled: true, base_url: %q, phone_number_id: %q, access_token_file: %q}}\n"+
		"circuit_breaker: {failure_threshold: 1000}\n", meta.URL(), sinktest.WhatsAppNumber, token)), nil)
	codes := append([]graphCode{{200, ""}, {299, ""}, {-100, ""}}, graphStop...)
	var ids []string
	for i, c := range codes {
		to, fault := number(2*i), sinktest.GraphError([]int{400, 401, 403}[i%3], c.code, 0)
		if c.code == -100 {
			fault = sinktest.GraphError(400, 100, 33) // the phone number's id is wrong
		}
		rules.FirstTo(to, 1, fault)
		id := post(t, n, text(to))
		appliancetest.Eventually(t, 30*time.Second, string(fault)+" stops the channel", func() bool { return show(t, n, id).Hold == "channel_stopped" })
		other := post(t, n, text(number(2*i+1)))
		if i == 0 {
			appliancetest.Eventually(t, 30*time.Second, "the alert channel_stopped fires", func() bool { return fires(n.Admin, "channel_stopped") })
		}
		if v := show(t, n, id); v.Status != "queued" || len(v.Attempts) != 0 || meta.Times(id) != 0 || meta.Times(other) != 0 {
			t.Errorf("%s: %+v, another message arrived %d times", fault, v, meta.Times(other))
		}
		_, err := n.Admin.ReloadConfig(context.Background())
		must(t, "reload", err)
		for _, id := range []string{id, other} {
			v := awaitStatus(t, n, id, "sent")
			if len(v.Attempts) != 1 || v.Attempts[0].N != 1 || meta.Times(id) != 1 {
				t.Errorf("%s: %+v, arrived %d times", fault, v, meta.Times(id))
			}
			ids = append(ids, id)
		}
	}
	ledger(t, meta, ids, 0)
	s, err := n.Admin.Status(t.Context())
	must(t, "status", err)
	for _, c := range s.Channels {
		if c.StoppedFor != "" {
			t.Errorf("channel %s is still stopped for %s", c.Name, c.StoppedFor)
		}
	}
}
