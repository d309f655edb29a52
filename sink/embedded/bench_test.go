package embedded

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

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
		all := batches(50, 1000, body)
		run := func(name string, insert func(*Store, []message.Record) error) {
			b.Run(fmt.Sprintf("body=%d/by=%s", body, name), func(b *testing.B) {
				s, err := Open(Config{Dir: b.TempDir(), MinFreeBytes: leastFree})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				for i := range b.N {
					b.StopTimer()
					batch := slices.Clone(all[i%len(all)])
					for j := range batch { // a later time each time round
						id := batch[j].ID
						batch[j].ID = message.NewID(id.Millis()+uint64(i/len(all))*100_000, id.Counter(), 1, message.Normal, uint64(j))
						batch[j].Seq += uint64(i/len(all)) * 50_000
					}
					b.StartTimer()
					if err := insert(s, batch); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*1000)/b.Elapsed().Seconds(), "rows/s")
			})
		}
		run("store", func(s *Store, batch []message.Record) error {
			_, err := s.Insert(context.Background(), batch)
			return err
		})
		run("bare", func(s *Store, batch []message.Record) error {
			wb := s.db.NewWriteBatch()
			for j := range batch {
				if err := wb.Set(messageKey(batch[j].ID), batch[j].Message.Append(nil)); err != nil {
					return err
				}
			}
			return wb.Flush()
		})
	}
}
