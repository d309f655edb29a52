package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"forebay/wal/message"
)

// batchOut is how many bytes of answers gather before they are written.
const batchOut = 16 << 10

// submitBatch takes any number of messages, one a line: POST /v1/messages/batch.
func (a *API) submitBatch(x *exchange) error {
	from, pass, err := a.letIn(x, typeNDJSON)
	defer leave(pass)
	// Also for a refusal, which net/http would keep back until the body has come: of a
	// stream that may be never.
	control := http.NewResponseController(x.w)
	duplex := control.EnableFullDuplex()
	if err != nil {
		return err
	}
	if duplex != nil {
		return fmt.Errorf("enable full duplex: %w", duplex)
	}
	b := &batch{api: a, x: x, pass: pass, checked: x.start, control: control, queue: newLineQueue(), from: from}
	b.deadline.control, b.deadline.timeout = b.control, a.cfg.StreamTimeout
	var p *Problem
	if b.lines, p = newLineReader(x.r.Body, &a.bodies, b.deadline.extend); p != nil {
		return p
	}
	defer b.lines.close()
	return b.run()
}

// batch is one stream of messages. The goroutine of the request appends and
// answers; a second one, which it joins, reads and decodes.
type batch struct {
	api      *API
	x        *exchange
	control  *http.ResponseController
	pass     Pass // nil: nothing is limited
	from     origin
	deadline readDeadline
	queue    *lineQueue

	// Of the reading goroutine, and of the other one once the queue is closed.
	lines   *lineReader
	form    form
	cut     bool      // the stream ended before its end
	checked time.Time // when the key was last looked at

	// Of the writing goroutine.
	messages []*message.Message
	receipts []Receipt
	out      []byte
}

func (b *batch) run() error {
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		defer b.queue.close()
		b.read()
	}()
	stop := context.AfterFunc(b.api.drainCtx, func() { b.deadline.end(b.api.cfg.DrainGrace) })
	complete := false
	defer func() { // in a panic, too: nobody may read the body after the handler
		if !complete {
			b.release(b.queue.abort())
			b.deadline.end(0) // wakes the reader
		}
		<-joined
		stop()
	}()
	if err := b.answer(); err != nil {
		return err
	}
	complete = true // the reader has closed the queue and is gone
	b.begin()       // a batch without lines has an answer, too
	if b.cut && !endAfterAnswer(b.x.r.Context()) {
		return errClientGone // no guard below: the rest of the body must not be taken for a request
	}
	return nil
}

// read puts every line into the queue until the stream ends or is cut off.
func (b *batch) read() {
	index := int64(0)
	defer func() {
		if v := recover(); v != nil {
			b.cut = true
			b.queue.put(item{index: index, problem: &Problem{Code: CodeUnavailable, RetryAfter: time.Second,
				Detail: "The line could not be read.", cause: fmt.Errorf("panic: %v\n%s", v, debug.Stack())}})
		}
	}()
	for ; ; index++ {
		b.slow()
		line, p, err := b.lines.next()
		if errors.Is(err, io.EOF) {
			b.deadline.stop()
			return
		}
		if err != nil {
			b.cut = true
			b.queue.put(item{index: index, problem: b.brokenStream(err)})
			return
		}
		if line = bytes.Trim(line, " \t\r"); len(line) == 0 && p == nil {
			continue
		}
		it := item{index: index, problem: p}
		if barred := b.barred(); barred != nil {
			b.cut = true
			b.queue.put(item{index: index, problem: barred})
			return
		}
		if p == nil {
			b.decode(&it, line)
		}
		if !b.queue.put(it) {
			b.api.bodies.release(it.size)
			return
		}
	}
}

// barred is why the stream's key may not go on; nil: it may, as it now stands.
func (b *batch) barred() *Problem {
	now := time.Now()
	if now.Sub(b.checked) < b.api.recheck {
		return nil
	}
	b.checked = now
	who, known, p := b.api.stillGood(b.x.r)
	if known && p == nil {
		b.from.who = who
	}
	return p
}

// decode turns a line into a message, or into a problem.
func (b *batch) decode(it *item, line []byte) {
	a := b.api
	if a.draining() {
		it.problem = drainingProblem()
		return
	}
	if !a.bodies.reserve(copies*int64(len(line)), int64(len(line))) {
		it.problem = a.bodies.full()
		return
	}
	it.size = copies * int64(len(line))
	m := &message.Message{}
	b.form = form{}
	if it.problem = decodeMessage(line, m, &b.form); it.problem != nil {
		return
	}
	from := b.from
	if from.key != "" {
		// A key for each line, so that a batch that was cut off can be sent
		// again as it was. No header can hold the separator.
		from.key += "\x1f" + strconv.FormatInt(it.index, 10)
	}
	if it.problem = a.complete(m, &b.form, &from, time.Now()); it.problem == nil {
		it.problem = a.shedByPriority(b.x.r.Context(), m)
	}
	if it.problem == nil {
		it.message = m
	}
}

// brokenStream is the answer to the line at which a stream broke off.
func (b *batch) brokenStream(err error) *Problem {
	if b.api.draining() && errors.Is(err, os.ErrDeadlineExceeded) {
		return drainingProblem()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &Problem{Code: CodeRequestTimeout, Detail: "No whole line came in time."}
	}
	return brokenBody(err)
}

// answer appends what has gathered, as one group, and answers it, until the
// queue is closed. An error means that the client does not take answers.
func (b *batch) answer() error {
	var spare []item
	for {
		items := b.queue.take(spare)
		if len(items) == 0 {
			return nil
		}
		b.append(items)
		err := b.write(items)
		b.release(items)
		clear(items) // lets go of the messages
		if spare = items; err != nil {
			return err
		}
	}
}

// append makes the messages of a group durable. Afterwards every item has
// either a receipt, in order, or a problem.
//
// A line that has arrived whole is a message, whatever becomes of the stream behind
// it: where that breaks off net/http ends the request's context, though the client
// may still read what became of its lines.
func (b *batch) append(items []item) {
	ctx := context.WithoutCancel(b.x.r.Context())
	b.messages = b.messages[:0]
	for i := range items {
		if items[i].problem == nil {
			b.messages = append(b.messages, items[i].message)
		}
	}
	if len(b.messages) == 0 {
		return
	}
	admitted := b.admit(ctx, items)
	if len(b.messages) == 0 {
		return
	}
	counted := admitted
	if admitted > 0 {
		defer func() { b.pass.Settle(admitted, max(0, counted)) }() // after a panic, too: as spent
	}
	b.receipts = append(b.receipts[:0], make([]Receipt, len(b.messages))...)
	err := b.api.cfg.Log.AppendBatch(ctx, b.messages, b.receipts)
	now, n := time.Now(), 0
	for i := range items {
		it := &items[i]
		if it.problem != nil {
			continue
		}
		receipt := &b.receipts[n]
		n++
		failed := receipt.Err
		if err != nil {
			failed = err
		}
		if failed != nil {
			it.problem = problemOf(ctx, fmt.Errorf("append batch: %w", failed))
		}
		if receipt.Replayed || refused(failed) {
			counted--
		}
		if failed == nil && !receipt.Replayed {
			b.api.metrics.accept(it.message, now)
		}
	}
	clear(b.messages)
}

// admit holds a group's messages to the plan: those over a limit get a problem,
// and the others stay in b.messages. It returns how many are to be settled.
func (b *batch) admit(ctx context.Context, items []item) (admitted int) {
	if b.pass == nil {
		return 0
	}
	admitted, err := b.pass.Take(ctx, len(b.messages))
	limited, ok := errors.AsType[*Limited](err)
	if !ok || limited.Shadow {
		return admitted
	}
	b.messages = b.messages[:admitted]
	room := admitted
	for i := range items {
		it := &items[i]
		if it.problem != nil {
			continue
		}
		if room--; room < 0 {
			it.message, it.problem = nil, limited.problem()
		}
	}
	return admitted
}

// begin sends the head of the answer, once.
func (b *batch) begin() {
	if b.x.status == 0 {
		b.x.quota(b.api, b.pass)
		b.x.w.Header()[headerContentType] = valuesNDJSON
		b.x.status = http.StatusOK
		b.x.w.WriteHeader(http.StatusOK)
	}
}

// write sends the answers of a group, in order, and flushes them.
func (b *batch) write(items []item) error {
	b.begin()
	n := 0
	for i := range items {
		it := &items[i]
		b.out = strconv.AppendInt(append(b.out, `{"index":`...), it.index, 10)
		if it.message != nil {
			receipt := &b.receipts[n]
			n++
			if it.problem == nil {
				b.appendReceipt(receipt)
			}
		}
		if it.problem != nil {
			b.appendProblem(it.problem)
		}
		if len(b.out) >= batchOut {
			if err := b.send(); err != nil {
				return err
			}
		}
	}
	if err := b.send(); err != nil {
		return err
	}
	if err := b.control.Flush(); err != nil {
		return fmt.Errorf("flush answers: %w", errors.Join(errClientGone, err))
	}
	return nil
}

func (b *batch) appendReceipt(r *Receipt) {
	b.out = append(b.out, `,"id":"`...)
	b.out, _ = r.ID.AppendText(b.out) // never fails
	b.out = append(b.out, `","status":"accepted"`...)
	if r.Replayed {
		b.out = append(b.out, `,"replayed":true`...)
	}
	b.out = append(b.out, "}\n"...)
}

func (b *batch) appendProblem(p *Problem) {
	b.api.metrics.refuse(p.Code)
	if p.private() {
		b.api.logCause(b.x, p)
	}
	b.out = p.appendJSON(append(b.out, `,"error":`...), b.x.requestID)
	b.out = append(b.out, "}\n"...)
}

// send writes what has gathered. The client must take it within StreamTimeout.
func (b *batch) send() error {
	err := b.control.SetWriteDeadline(time.Now().Add(b.api.cfg.StreamTimeout))
	if err == nil {
		_, err = b.x.w.Write(b.out)
	}
	b.out = b.out[:0]
	if err != nil {
		return fmt.Errorf("write answers: %w", errors.Join(errClientGone, err))
	}
	return nil
}

// release gives back the memory that items are counted with.
func (b *batch) release(items []item) {
	for i := range items {
		b.api.bodies.release(items[i].size)
	}
}
