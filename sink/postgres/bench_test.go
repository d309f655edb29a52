package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// BenchmarkInsert measures Insert against COPY of the same rows into the same
// table, with the server flushing to disk as in production. The two take turns,
// so that a noisy machine disturbs both: the ratio is what to look at.
func BenchmarkInsert(b *testing.B) {
	pg := sinktest.StartPostgres(b, sinktest.WithFsync(), sinktest.WithSetting("shared_buffers", "256MB"), sinktest.WithSetting("max_wal_size", "8GB"))
	for _, keyed := range []bool{false, true} {
		for _, rows := range []int{1000, 5000} {
			for _, conns := range []int{1, 4} {
				if keyed && (rows != 1000 || conns != 4) {
					continue
				}
				b.Run(fmt.Sprintf("keyed=%v/rows=%d/conns=%d", keyed, rows, conns), func(b *testing.B) {
					benchmarkInsert(b, pg, keyed, rows, conns)
				})
			}
		}
	}
}

func benchmarkInsert(b *testing.B, pg *sinktest.Postgres, keyed bool, rows, conns int) {
	s := benchStore(b, pg.NewDatabase())
	ctx := context.Background()
	nodes := make([]*node, conns)
	for i := range nodes {
		nodes[i] = &node{number: uint16(i + 1), at: time.Now()}
	}
	body := make([]byte, 512)
	for i := range body {
		body[i] = byte('a' + rand.N(26))
	}
	const rounds = 8 // batches of a connection between two changes of the mode
	batches := func() [][][]message.Record {
		all := make([][][]message.Record, conns)
		for c := range all {
			for range rounds {
				batch := make([]message.Record, rows)
				for i := range batch {
					batch[i] = nodes[c].record(string(body))
					batch[i].Account = fmt.Sprint("account-", i%100)
					if keyed {
						batch[i].IdempotencyKey = fmt.Sprintf("key %d %d", c, batch[i].Seq)
						batch[i].Fingerprint[0] = 1
					}
				}
				all[c] = append(all[c], batch)
			}
		}
		return all
	}
	spent := make(map[string]time.Duration)
	modes := map[string]func([]message.Record) error{
		"insert": func(batch []message.Record) error { _, err := s.Insert(ctx, batch); return err },
		"unnest": func(batch []message.Record) error {
			s.careful.Store(carefulBatches)
			_, err := s.Insert(ctx, batch)
			s.careful.Store(0)
			return err
		},
		"copy": func(batch []message.Record) error { return copyRows(ctx, s.pool.Load(), batch) },
	}
	b.ReportAllocs()
	for b.Loop() {
		for mode, insert := range modes {
			b.StopTimer()
			work := batches()
			b.StartTimer()
			began := time.Now()
			var wg sync.WaitGroup
			for _, own := range work {
				wg.Go(func() {
					for _, batch := range own {
						if err := insert(batch); err != nil {
							b.Errorf("%s: %v", mode, err)
						}
					}
				})
			}
			wg.Wait()
			spent[mode] += time.Since(began)
		}
	}
	total := float64(b.N * rounds * rows * conns)
	for mode, d := range spent {
		b.ReportMetric(total/d.Seconds(), mode+"-rows/s")
	}
	b.ReportMetric(spent["copy"].Seconds()/spent["insert"].Seconds(), "ratio")
}

// copyRows is what a program would do that need not ask what is there already.
func copyRows(ctx context.Context, pool *pgxpool.Pool, batch []message.Record) error {
	now := time.Now()
	names := []string{"id", "seq", "accepted_at", "stored_at", "node", "test", "account", "channel", "priority", "status", "body"}
	_, err := pool.CopyFrom(ctx, pgx.Identifier{"messages"}, names, pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
		r := &batch[i]
		return []any{[16]byte(r.ID), int64(r.Seq), r.AcceptedAt(), now, int32(r.ID.Node()), r.Test, r.Account, "store", "normal", "stored", r.Body}, nil
	}))
	return err
}

// benchStore starts a store that runs until the benchmark ends.
func benchStore(b *testing.B, url string) *Store {
	b.Helper()
	s, err := New(testConfig(url))
	if err != nil {
		b.Fatalf("new store: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			b.Errorf("end store: %v", err)
		}
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !s.Health().Up {
		<-tick.C
	}
	return s
}

// BenchmarkEncode measures the building of the columns alone.
func BenchmarkEncode(b *testing.B) {
	n := &node{number: 1, at: time.Now()}
	batch := n.records(1000)
	for i := range batch {
		batch[i].Body = string(make([]byte, 512))
	}
	j := newJob()
	b.ReportAllocs()
	for b.Loop() {
		j.begin(batch, time.Now())
		j.reset(j.rows)
		j.encodeCopy(j.rows)
		j.end()
	}
}
