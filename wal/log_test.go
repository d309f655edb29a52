package wal

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/wal/message"
)

func TestAppendNextCompleteReopen(t *testing.T) {
	ctx := context.Background()
	cfg := testConfig(t)
	l := openTest(t, cfg)
	const n = 5000
	ids := make([]message.ID, n)
	var wg sync.WaitGroup
	for w := range 50 {
		wg.Go(func() {
			for i := w; i < n; i += 50 {
				r, err := l.Append(ctx, testMessage(i))
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = r.ID
			}
		})
	}
	wg.Wait()
	got, err := l.Next(ctx, 1000, 0)
	if err != nil || len(got) != 1000 {
		t.Fatal(len(got), err)
	}
	if err := l.Complete(ctx, got[:600]); err != nil {
		t.Fatal(err)
	}
	done := map[message.ID]bool{}
	for _, e := range got[:600] {
		done[e.ID] = true
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, cfg)
	if s := l.Stats(); s.Waiting != n-600 || s.LastSeq != n {
		t.Fatalf("%+v", s)
	}
	seen := map[message.ID]bool{}
	for len(seen) < n-600 {
		got, err := l.Next(ctx, 700, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range got {
			if seen[e.ID] || done[e.ID] {
				t.Fatalf("%s twice", e.ID)
			}
			seen[e.ID] = true
		}
		if err := l.Complete(ctx, got); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.Stats(); s.Waiting != 0 || s.LiveBytes != 0 {
		t.Fatalf("%+v", s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 64, 1000, 10000} {
		b.Run(fmt.Sprintf("appenders=%d", n), func(b *testing.B) {
			cfg := testConfig(b)
			cfg.MemTable = 16 << 20
			l := openTest(b, cfg)
			m := testMessage(1)
			m.Body = string(make([]byte, 512))
			var wg sync.WaitGroup
			start := time.Now()
			for w := range n {
				k := b.N / n
				if w < b.N%n {
					k++
				}
				wg.Go(func() {
					for range k {
						if _, err := l.Append(context.Background(), m); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "msg/s")
			b.ReportMetric(float64(b.N)/float64(l.Stats().Commits), "msg/commit")
			b.StopTimer()
			l.Close()
		})
	}
}

// TestRecoveryOfManyMessages logs how long it takes.
func TestRecoveryOfManyMessages(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.MemTable = 16 << 20
	l := openTest(t, cfg)
	const n = 100_000
	for range n / 2000 {
		ms, out := make([]*message.Message, 2000), make([]Receipt, 2000)
		for j := range ms {
			ms[j] = testMessage(j)
			ms[j].Body = strings.Repeat("b", 300)
		}
		if err := l.AppendBatch(t.Context(), ms, out); err != nil {
			t.Fatal(err)
		}
	}
	dir := crashCopy(t, cfg.Dir)
	closeTest(t, l)
	cfg.Dir = dir
	start := time.Now()
	l = openTest(t, cfg)
	t.Logf("%d messages recovered in %v", n, time.Since(start))
	if l.Waiting() != n {
		t.Fatalf("%d wait", l.Waiting())
	}
	closeTest(t, l)
}
