package postgres

import (
	"testing"
	"time"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

func TestStoreSuite(t *testing.T) {
	pg := sinktest.StartPostgres(t)
	sinktest.StoreSuite(t, func(t *testing.T) sink.Store {
		return newStore(t, pg.URL(), &journal{}, func(c *Config) { c.IdempotencyTTL = time.Minute })
	}, sinktest.ClaimTTL(time.Minute), sinktest.Poison(func(r *message.Record) { r.Body += "\x00" }))
}
