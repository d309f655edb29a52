package embedded

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	sinktest.StoreSuite(t, func(t *testing.T) sink.Store {
		s, err := Open(Config{Dir: t.TempDir(), ClaimTTL: time.Minute, MinFreeBytes: leastFree})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}, sinktest.ClaimTTL(time.Minute), sinktest.Poison(func(r *message.Record) { r.Body = strings.Repeat("é", MaxRecordBytes) }))
}
