package embedded

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// text is about as compressible as people's messages are.
func text(rng *rand.Rand, n int) string {
	words := []string{"your", "order", "has", "been", "shipped", "and", "will", "arrive", "tomorrow", "between", "code", "is", "please", "reply"}
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%s %d ", words[rng.IntN(len(words))], rng.IntN(1000))
	}
	return b.String()[:n]
}

// batches makes batches of records with bodies of so many bytes.
func batches(n, size, body int) [][]message.Record {
	rng := rand.New(rand.NewPCG(1, 2))
	ms, seq := uint64(time.Now().UnixMilli()), uint64(0)
	out := make([][]message.Record, n)
	for i := range out {
		for range size {
			seq++
			m := message.Message{Account: fmt.Sprint("account-", rng.IntN(100)), Channel: message.ChannelStore, Priority: message.Normal, Body: text(rng, body)}
			out[i] = append(out[i], message.Record{ID: message.NewID(ms+seq/4000, uint16(seq%4000), 1, m.Priority, rng.Uint64()), Seq: seq,
				Message: m, State: message.State{Status: message.Accepted}})
		}
	}
	return out
}

// BenchmarkInsert measures rows a second of Insert, and beside it those of a
// bare Badger write batch of the same records' bytes, with the same sync.
func BenchmarkInsert(b *testing.B) {
	for _, body := range []int{200, 4000} {
		all := batches(100, 1000, body)
		b.Run(fmt.Sprintf("body=%d/store", body), func(b *testing.B) {
			s, err := Open(Config{Dir: b.TempDir(), MinFreeBytes: leastFree})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			ms := uint64(0)
			b.ResetTimer()
			for i := range b.N {
				batch := all[i%len(all)]
				if i%len(all) == 0 && i > 0 { // new ids
					ms += 1_000_000
				}
				for j := range batch {
					if ms > 0 {
						id := batch[j].ID
						batch[j].ID = message.NewID(id.Millis()+1_000_000, id.Counter(), 1, message.Normal, uint64(j))
					}
				}
				if _, err := s.Insert(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*1000)/b.Elapsed().Seconds(), "rows/s")
			b.StopTimer()
			b.ReportMetric(float64(diskBytes(s.cfg.Dir))/float64(b.N*1000), "disk-B/row")
		})
		b.Run(fmt.Sprintf("body=%d/bare", body), func(b *testing.B) {
			s, err := Open(Config{Dir: b.TempDir(), MinFreeBytes: leastFree})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.ResetTimer()
			for i := range b.N {
				wb := s.db.NewWriteBatch()
				for j := range all[i%len(all)] {
					r := &all[i%len(all)][j]
					key := messageKey(message.NewID(r.ID.Millis()+uint64(i), r.ID.Counter(), 1, message.Normal, uint64(j)))
					if err := wb.SetEntry(badger.NewEntry(key, r.Message.Append(nil))); err != nil {
						b.Fatal(err)
					}
				}
				if err := wb.Flush(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*1000)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
