package appliance_test

import (
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/appliance/config"
	"forebay/sink/sinktest"
)

// reportsCluster is two nodes that send to the stand-in; what it reports goes to the
// second.
func reportsCluster(t *testing.T, w world, meta *sinktest.WhatsApp, more appliancetest.Option) *appliancetest.Cluster {
	options := []appliancetest.Option{withWhatsApp(t, meta), more}
	if w.pg != nil {
		options = append(options, appliancetest.WithPostgres(w.pg.URL()))
	}
	c := appliancetest.StartCluster(t, 2, options...)
	meta.PostUpdatesTo(c.Nodes[2].URL + "/hooks/whatsapp")
	return c
}

// TestClusterReportsReachTheSender: a message whose answer was lost is not sent again
// if a report of it came to any node in time, also during the attempt. Those whose
// reports come too late are sent again, which shows that only the report kept the
// others back. All nodes then say what became of each.
func TestClusterReportsReachTheSender(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		const messages = 30
		seed := seedOf(t)
		rules := sinktest.NewRules(t, seed)
		for i := range messages {
			rules.FirstTo(number(i), 1, []sinktest.Fault{sinktest.FaultToldCut, sinktest.FaultCut}[i%2])
		}
		meta := freeWhatsApp(t, seed, rules)
		meta.HoldUpdates()
		c := reportsCluster(t, w, meta, func(*config.Config) {})
		var ids []string
		for i := range messages {
			ids = append(ids, post(t, c.Nodes[1], text(number(i))))
		}
		for i, id := range ids {
			if i%2 == 0 {
				continue
			}
			appliancetest.Eventually(t, time.Minute, id+" is sent again", func() bool { return meta.Times(id) == 2 })
		}
		if told, untold := rules.Met(sinktest.FaultToldCut), rules.Met(sinktest.FaultCut); told != messages/2 || untold != messages/2 {
			t.Fatalf("%d reports before a cut answer, %d cut answers without: nothing is proved", told, untold)
		}
		if meta.PostHeld(40) == 0 || meta.Unposted() > 0 {
			t.Errorf("the hook did not take %d updates", meta.Unposted())
		}
		for i, id := range ids {
			for _, n := range c.Nodes {
				appliancetest.Eventually(t, time.Minute, id+" is what was reported of it", func() bool { return fated(t, n, meta, id) })
			}
			if i%2 == 0 && meta.Times(id) != 1 {
				t.Errorf("%s was sent %d times, though node 2 had a report of it before its answer was lost", id, meta.Times(id))
			}
		}
		awaitDrained(t, c.Nodes[1].Admin)
	})
}

// TestClusterReportWhileItsNodeIsAway: a report that another node took while the
// message's own was away keeps the message from being sent again once that is back:
// at once where the nodes have one store, and else by the provider's repeating it.
func TestClusterReportWhileItsNodeIsAway(t *testing.T) {
	t.Parallel()
	const messages = 20
	seed := seedOf(t)
	rules := sinktest.NewRules(t, seed).First(messages, sinktest.FaultCut)
	meta := freeWhatsApp(t, seed, rules)
	meta.HoldUpdates()
	c := reportsCluster(t, world{sinktest.StartPostgres(t)}, meta, func(c *config.Config) {
		c.Delivery.BaseDelay, c.Delivery.MaxDelay = 15*time.Second, 15*time.Second
	})
	var ids []string
	for i := range messages {
		ids = append(ids, post(t, c.Nodes[1], text(number(i))))
	}
	appliancetest.Eventually(t, time.Minute, "all answers are cut", func() bool { return rules.Met(sinktest.FaultCut) == messages })
	c.Stop(1)
	var parked []string
	for _, id := range ids {
		if meta.Times(id) == 1 {
			parked = append(parked, id)
		}
	}
	if posted := meta.PostHeld(40); posted == 0 || meta.Unposted() > 0 || len(parked) == 0 {
		t.Fatalf("%d updates, of which %d were not taken; %d messages wait to be sent again: nothing is proved", posted, meta.Unposted(), len(parked))
	}
	c.Start(1)
	awaitDrained(t, c.Nodes[1].Admin)
	for _, id := range parked {
		if meta.Times(id) != 1 || !fated(t, c.Nodes[1], meta, id) {
			t.Errorf("%s was sent %d times and is %s, want once and %v", id, meta.Times(id), show(t, c.Nodes[1], id).Status, meta.Fates(id))
		}
	}
	t.Logf("%d of %d messages waited to be sent again when their reports came", len(parked), messages)
}
