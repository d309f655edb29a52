package postgres

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The pool is replaced many times under load: no call fails, and in the end
// there are no more connections than the last pool may have.
func TestConfigureUnderLoad(t *testing.T) {
	w := newWorld(t, nil)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	var inserted, failed atomic.Int64
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := w.Store.Insert(t.Context(), w.n.records(20)); err != nil {
					failed.Add(1)
					t.Errorf("insert while the pool is replaced: %v", err)
					return
				}
				inserted.Add(20)
			}
		})
	}
	tuning := w.Store.Tuning()
	for round := range 30 {
		before := inserted.Load()
		tuning.MaxPoolSize, tuning.MinPoolSize, tuning.SlowQuery = 2+round%5, round%2, time.Duration(round+1)*time.Millisecond
		if err := w.Store.Configure(tuning); err != nil {
			t.Fatal(err)
		}
		eventually(t, "calls go on", func() error {
			if inserted.Load() == before && failed.Load() == 0 {
				return errNotReady
			}
			return nil
		})
	}
	stop()
	wg.Wait()
	if got := w.Store.Tuning(); got != tuning {
		t.Errorf("in force is %+v, want %+v", got, tuning)
	}
	if got := w.Store.Pool().Max; got != uint64(tuning.MaxPoolSize) {
		t.Errorf("the pool has room for %d, want %d", got, tuning.MaxPoolSize)
	}
	tuning.MinPoolSize = tuning.MaxPoolSize + 1
	if err := w.Store.Configure(tuning); err == nil || w.Store.Tuning() == tuning {
		t.Errorf("a tuning that is not valid: %v", err)
	}
	t.Logf("%d messages through 30 pools", inserted.Load())
}
