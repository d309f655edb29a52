package sinktest_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"forebay/sink"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	const bad = "refuse me"
	sinktest.StoreSuite(t, func(t *testing.T) sink.Store {
		return &sinktest.Memory{ClaimTTL: time.Minute, Refuse: func(r message.Record) string {
			if r.Body == bad {
				return "asked for"
			}
			return ""
		}}
	}, sinktest.ClaimTTL(time.Minute), sinktest.Poison(func(r *message.Record) { r.Body = bad }))
}
