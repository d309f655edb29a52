package postgres

import (
	"testing"
	"time"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// TestStore runs what needs a database but not a server of its own.
func TestStore(t *testing.T) {
	pg := sinktest.StartPostgres(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *sinktest.Postgres)
	}{
		{"suite", testSuite}, {"migrate at once", testMigrateAtOnce}, {"unfit", testUnfit}, {"metrics", testMetrics},
		{"row refused", testRowRefused}, {"swallowed", testSwallowed}, {"poison", testPoison}, {"locked", testLocked},
		{"partitions on demand", testPartitionsOnDemand}, {"retention", testRetention}, {"reclaim rows", testReclaimRows},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, pg) })
	}
}

// testSuite holds the store to what every store promises.
func testSuite(t *testing.T, pg *sinktest.Postgres) {
	sinktest.StoreSuite(t, func(t *testing.T) sink.Store {
		return newStore(t, pg.NewDatabase(), &journal{}, func(c *Config) { c.IdempotencyTTL = time.Minute })
	}, sinktest.ClaimTTL(time.Minute), sinktest.Poison(func(r *message.Record) { r.Body += "\x00" }))
}
