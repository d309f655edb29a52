package appliance_test

import (
	"fmt"
	"math/rand/v2"
	"sync"

	"forebay/appliance/appliancetest"
	"forebay/wal/message"
)

// makeSubmissions makes messages of these sizes, all of one lane, or of any.
func makeSubmissions(prefix string, seed uint64, sizes []int, lane int) []appliancetest.Submission {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]appliancetest.Submission, len(sizes))
	for i, size := range sizes {
		p := message.Priority(lane)
		if lane >= message.Lanes {
			p = message.Priority(r.IntN(message.Lanes))
		}
		out[i] = appliancetest.Submission{Ref: fmt.Sprint(prefix, i), Priority: p, Body: appliancetest.Text(r, size)}
	}
	return out
}

// sendAll sends all of them, so many at a time, and returns when the last answer
// is there. The answers are in the order of the submissions.
func sendAll(ledger *appliancetest.Ledger, t appliancetest.Target, submissions []appliancetest.Submission, connections int) []appliancetest.Answer {
	answers := make([]appliancetest.Answer, len(submissions))
	next := make(chan int)
	var senders sync.WaitGroup
	for range connections {
		senders.Go(func() {
			for i := range next {
				answers[i] = ledger.Submit(t, submissions[i])
			}
		})
	}
	for i := range submissions {
		next <- i
	}
	close(next)
	senders.Wait()
	return answers
}
