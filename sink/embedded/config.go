package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// MaxRecordBytes is the size of the largest record that the store takes: larger
// values would go to Badger's value log. One that is larger is set aside.
const MaxRecordBytes = 1<<20 - 1<<10

// Config is what a Store is made of. Dir is required; for everything else zero
// means the default.
type Config struct {
	Dir string // of this store alone; made if it is not there

	Retention    time.Duration // how long a message stays after its acceptance; ≥ ClaimTTL, default 90 days, -1: for ever
	ClaimTTL     time.Duration // how long an idempotency key belongs to a message; > 0, default 24 h
	SlowQuery    time.Duration // a query that takes longer is counted and logged; > 0, default 200 ms
	MinFreeBytes uint64        // inserts are refused while the disk has less free; ≥ 64 MiB, default 512 MiB
	MemTable     int64         // bytes of one memtable, of which there are three, and of the cache of blocks; 8–64 MiB, default 16 MiB

	Logger     *slog.Logger          // nil: discarded
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// forEver is the Retention of a store that deletes nothing.
const forEver = -1

// leastFree is what Badger may need at any moment: memtables being flushed, and
// a compaction that has written its result and not yet deleted its input.
const leastFree = 64 << 20

// A transaction has 15 % of a memtable, and must take the largest record.
const leastMemTable, usualMemTable, mostMemTable = 8 << 20, 16 << 20, 64 << 20

func (c Config) withDefaults() Config {
	if c.Retention == 0 {
		c.Retention = 90 * 24 * time.Hour
	}
	if c.ClaimTTL == 0 {
		c.ClaimTTL = 24 * time.Hour
	}
	if c.SlowQuery == 0 {
		c.SlowQuery = 200 * time.Millisecond
	}
	if c.MinFreeBytes == 0 {
		c.MinFreeBytes = 512 << 20
	}
	if c.MemTable == 0 {
		c.MemTable = usualMemTable
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate says what is wrong with the configuration, all of it.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("dir: required"))
	}
	if c.ClaimTTL < 0 {
		errs = append(errs, fmt.Errorf("claim ttl: %v, want more than 0", c.ClaimTTL))
	}
	if c.SlowQuery < 0 {
		errs = append(errs, fmt.Errorf("slow query: %v, want more than 0", c.SlowQuery))
	}
	if c.Retention != forEver && c.Retention < c.ClaimTTL {
		errs = append(errs, fmt.Errorf("retention: %v, want at least the claim ttl, %v: a claim goes with its message", c.Retention, c.ClaimTTL))
	}
	if c.MinFreeBytes < leastFree {
		errs = append(errs, fmt.Errorf("min free bytes: %d, want at least %d", c.MinFreeBytes, leastFree))
	}
	if c.MemTable < leastMemTable || c.MemTable > mostMemTable {
		errs = append(errs, fmt.Errorf("memtable: %d bytes, want %d to %d", c.MemTable, leastMemTable, mostMemTable))
	}
	return errors.Join(errs...)
}
