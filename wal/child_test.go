package wal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// What a writing child tells its parent, each in one write, so that a kill
// leaves whole ones. The bookkeeping is on the safe side of the call: a message
// is announced before it is submitted and a completion before it is asked for.
const (
	tellSubmit    = 's' // number of the message
	tellAccepted  = 'a' // number of the message, and its id
	tellComplete  = 'c' // id
	tellCompleted = 'd' // id
	tellReady     = 'r'
	tellFailed    = 'f'
	tellSize      = 1 + 8 + 16
)

type teller struct{ w io.Writer }

func (t teller) tell(kind byte, n uint64, id message.ID) {
	var b [tellSize]byte
	b[0] = kind
	binary.BigEndian.PutUint64(b[1:], n)
	copy(b[9:], id[:])
	_, _ = t.w.Write(b[:])
}

// childConfig is what parent and child agree on, by environment.
func childConfig() Config {
	return Config{Dir: os.Getenv("DIR"), Node: 7, MemTable: 1 << 20, MinFreeBytes: 1, BallastBytes: -1, Capacity: 500,
		unsafe: os.Getenv("UNSAFE") != ""}
}

// childWrite appends, takes, completes and parks until it is killed or its log
// fails. Message n has the number as its client reference.
func childWrite() error {
	cfg := childConfig()
	failed := make(chan struct{})
	cfg.Fatal = func(error) { close(failed) }
	l, err := Open(cfg)
	if err != nil {
		return err
	}
	out := teller{os.Stdout}
	from, err := strconv.ParseUint(os.Getenv("FROM"), 10, 64)
	if err != nil {
		return err
	}
	out.tell(tellReady, 0, message.ID{})
	const writers = 8
	var wg sync.WaitGroup
	for w := range uint64(writers) {
		wg.Go(func() {
			for n := from + w; ; n += writers {
				m := numbered(n)
				out.tell(tellSubmit, n, message.ID{})
				r, err := l.Append(background(), m)
				if errors.Is(err, ErrFull) {
					<-time.After(time.Millisecond)
					continue
				}
				if err != nil {
					return
				}
				out.tell(tellAccepted, n, r.ID)
			}
		})
	}
	if os.Getenv("KEEP") == "" {
		wg.Go(func() { childConsume(l, out) })
	}
	<-failed
	out.tell(tellFailed, 0, message.ID{})
	wg.Wait()
	return nil
}

func childConsume(l *Log, out teller) {
	rnd := rand.New(rand.NewPCG(uint64(os.Getpid()), 0))
	for {
		got, err := l.Next(background(), 1+rnd.IntN(300), time.Millisecond)
		if err != nil {
			return
		}
		keep := got[:rnd.IntN(len(got)+1)]
		if rnd.IntN(4) == 0 && l.Park(background(), time.Now().Add(50*time.Millisecond), keep) != nil {
			return
		}
		rest := got[len(keep):]
		for _, e := range rest {
			out.tell(tellComplete, 0, e.ID)
		}
		if l.Complete(background(), rest) != nil {
			return
		}
		for _, e := range rest {
			out.tell(tellCompleted, 0, e.ID)
		}
	}
}

// numbered is message n, which knows its number.
func numbered(n uint64) *message.Message {
	m := bigMessage(int(n), 100+int(n*7919%1500))
	m.ClientRef = strconv.FormatUint(n, 10)
	return m
}

// told is the parent's account of what its children said.
type told struct {
	submitted map[uint64]bool
	accepted  map[message.ID]uint64
	completed map[message.ID]bool // false: asked for, not confirmed
	failed    bool
}

func newTold() *told {
	return &told{submitted: map[uint64]bool{}, accepted: map[message.ID]uint64{}, completed: map[message.ID]bool{}}
}

// listen reads until the child's end.
func (a *told) listen(r io.Reader, ready chan<- struct{}) {
	in := bufio.NewReaderSize(r, 1<<20)
	var b [tellSize]byte
	for {
		if _, err := io.ReadFull(in, b[:]); err != nil {
			return
		}
		n, id := binary.BigEndian.Uint64(b[1:]), message.ID(b[9:])
		switch b[0] {
		case tellReady:
			close(ready)
		case tellSubmit:
			a.submitted[n] = true
		case tellAccepted:
			a.accepted[id] = n
		case tellComplete:
			a.completed[id] = false
		case tellCompleted:
			a.completed[id] = true
		case tellFailed:
			a.failed = true
		}
	}
}

// next is the first number that no child has used.
func (a *told) next() (n uint64) {
	for used := range a.submitted {
		n = max(n, used+1)
	}
	return n
}

// check holds a log against what was told: every message that was accepted is
// there or was asked to be completed; none is there that was completed, or never
// submitted, or twice. It completes what it finds if forget is set.
func (a *told) check(t testing.TB, l *Log, forget bool) {
	t.Helper()
	if err := l.scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	there := map[message.ID]bool{}
	numbers := map[uint64]bool{}
	err := l.db.View(func(txn *badger.Txn) error {
		see := func(item *badger.Item, value []byte) error {
			id, err := recordID(item.Key())
			if err != nil {
				return err
			}
			_, payload, err := openRecord(value, id)
			if err != nil {
				return err
			}
			m, err := message.Decode(payload)
			if err != nil {
				return err
			}
			n, err := strconv.ParseUint(m.ClientRef, 10, 64)
			switch {
			case err != nil:
				return err
			case there[id] || numbers[n]:
				return fmt.Errorf("message %d, %s, is there twice", n, id)
			case !a.submitted[n]:
				return fmt.Errorf("message %d, %s, was never submitted", n, id)
			case a.completed[id]:
				return fmt.Errorf("message %d, %s, was completed and is there", n, id)
			case m.Body != numbered(n).Body:
				return fmt.Errorf("message %d, %s, has another body", n, id)
			}
			there[id], numbers[n] = true, true
			return nil
		}
		return errors.Join(each(txn, []byte{prefixMessage}, nil, see), each(txn, []byte{prefixParked}, nil, see))
	})
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for id, n := range a.accepted {
		if _, asked := a.completed[id]; !there[id] && !asked {
			lost++
			if lost < 5 {
				t.Errorf("message %d, %s, was accepted and is gone", n, id)
			}
		}
	}
	if lost > 0 {
		t.Fatalf("%d of %d accepted messages are gone", lost, len(a.accepted))
	}
	if forget {
		a.forget(t, l)
	}
}

func (a *told) forget(t testing.TB, l *Log) {
	t.Helper()
	for s := l.Stats(); s.Waiting+s.Parked > 0; s = l.Stats() {
		got, err := l.Next(t.Context(), 1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Complete(t.Context(), got); err != nil {
			t.Fatal(err)
		}
	}
	clear(a.accepted)
	clear(a.completed)
}
