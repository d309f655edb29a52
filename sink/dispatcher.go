package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forebay/wal/message"
)

// Journal is the log as the dispatcher sees it: where a message that cannot go
// now waits without memory. All errors but ErrNotFound are final: the log has
// failed.
type Journal interface {
	// Progress records each entry's Progress, durable when it returns.
	Progress(ctx context.Context, entries []message.Entry) error
	// Park puts entries to rest with their Progress until due.
	Park(ctx context.Context, due time.Time, entries []message.Entry) error
	// Complete forgets entries whose last state is in the store.
	Complete(ctx context.Context, done []message.Entry) error
	Shelves
	Recaller
}

// Shelves are where messages rest until they are asked for. A shelf is a number
// below 2^62.
type Shelves interface {
	Shelve(ctx context.Context, shelf uint64, entries []message.Entry) error
	// Fetch lets up to n come back, those accepted first, and says whether it may
	// have more: of large ones it lets few come at once.
	Fetch(ctx context.Context, shelf uint64, n int) (back int, more bool, err error)
	// Browse reads up to n messages of the shelf that were accepted after that
	// id, in order, and leaves them there; none: there are no more.
	Browse(shelf uint64, after message.ID, n int) ([]message.Entry, error)
	// Shelves lists those that are not empty.
	Shelves() ([]uint64, error)
}

// Recaller decides the state of a message that the caller does not hold.
type Recaller interface {
	// Lookup returns a message that the log still has; ErrNotFound.
	Lookup(id message.ID) (message.Entry, error)
	// Recall gives it a state that holds whatever its holder records later, and
	// brings it back if it rests; ErrNotFound.
	Recall(ctx context.Context, id message.ID, state []byte) (message.Entry, error)
}

// Archive is the store as the dispatcher sees it.
type Archive interface {
	Insert(ctx context.Context, batch []message.Record) ([]Result, error)
	Get(ctx context.Context, account string, id message.ID) (message.Record, error)
	Recorder
}

// DispatcherConfig is what a Dispatcher is made of. Journal and Archive are
// required.
type DispatcherConfig struct {
	Journal  Journal
	Archive  Archive
	Delivery DeliveryConfig
	Breakers Breakers // nil: every service may always be called

	// Weight is an account's share of a channel next to others; nil or less
	// than 1: 1. It must be quick.
	Weight func(account string) int
	// Admit says why the account may not use the channel; nil: it may.
	Admit func(account string, channel message.Channel) *message.Failure

	// CallbackURL is where a message's changes are told; empty: nowhere. Nil:
	// the message's own.
	CallbackURL func(*message.Record) string
	// Render is the body of a callback about the record.
	Render func(*message.Record) ([]byte, error)
	// Append accepts callbacks into the log; nil: there are none. All are durable
	// when it returns nil, those that it had accepted before among them.
	Append func(context.Context, []*message.Message) error

	// OnChange is called with records whose status has changed, from many
	// goroutines. It must be quick and not keep the slice.
	OnChange func([]message.Record)
	// OnStop is called when a channel stops by itself and when it goes on
	// again; then the failure is nil.
	OnStop func(channel message.Channel, why *message.Failure, until time.Time)

	QueueLimit int // messages of one channel and priority in memory; default 4096
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Dispatcher delivers messages through channels. It is handed messages by a
// Pipeline (Config.Dispatcher) once they are in the store, or while it is down.
// See the package comment for its promise.
type Dispatcher struct {
	cfg     DispatcherConfig
	log     *slog.Logger
	metrics *deliveryMetrics
	outlets [len(channelIndex)]*outlet
	settler chan *job
	fetch   chan struct{} // capacity 1: there may be room for what is shelved
	fatal   chan error    // capacity 1
	knock   knock

	mu         sync.Mutex // guards what follows and every outlet's queue
	delivery   DeliveryConfig
	held       map[message.ID]*job
	begun      map[message.ID]*job // those of held of which an attempt has begun
	cancels    map[message.ID]*verdict
	flights    map[*flight]struct{}
	shelves    map[uint64]*shelf
	deadlines  deadlines
	recipients recipients
}

// channelIndex has a place for each channel, by number.
var channelIndex [message.ChannelWebhook + 1]struct{}

// NewDispatcher returns a dispatcher that is ready to Run.
func NewDispatcher(cfg DispatcherConfig) (*Dispatcher, error) {
	if cfg.Journal == nil || cfg.Archive == nil {
		return nil, errors.New("configure dispatcher: journal and archive are required")
	}
	if err := cfg.Delivery.Validate(); err != nil {
		return nil, fmt.Errorf("configure dispatcher: %w", err)
	}
	setDefault(&cfg.QueueLimit, 4096)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newDeliveryMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	d := &Dispatcher{cfg: cfg, log: cfg.Logger, metrics: m, settler: make(chan *job, 1024),
		fetch: make(chan struct{}, 1), fatal: make(chan error, 1),
		held: map[message.ID]*job{}, begun: map[message.ID]*job{}, cancels: map[message.ID]*verdict{}, flights: map[*flight]struct{}{},
		shelves: map[uint64]*shelf{}}
	for _, c := range message.Channels {
		if c != message.ChannelStore {
			d.outlets[c] = newOutlet(d, c)
			if cfg.Registerer != nil {
				if err := cfg.Registerer.Register(d.outlets[c].throttledGauge()); err != nil {
					return nil, fmt.Errorf("register metrics: %w", err)
				}
			}
		}
	}
	if err := d.Configure(cfg.Delivery); err != nil {
		return nil, err
	}
	return d, nil
}

// Configure changes the settings while the dispatcher runs. Attempts under way
// end as they began; everything that waits goes by the new settings. A channel
// that is switched off keeps its messages, and goes on when it is switched on.
func (d *Dispatcher) Configure(c DeliveryConfig) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("configure dispatcher: %w", err)
	}
	d.mu.Lock()
	d.delivery = c.withDefaults()
	for _, o := range d.outlets {
		if o != nil {
			o.configureLocked(d.delivery)
		}
	}
	d.mu.Unlock()
	d.wakeAll()
	return nil
}

// Delivery returns the settings in force.
func (d *Dispatcher) Delivery() DeliveryConfig {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.delivery
}

// delivers says whether a channel is switched on at all.
func (d *Dispatcher) delivers() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.delivery.Channels {
		if c.Sender != nil {
			return true
		}
	}
	return false
}

// Resume lets channels that have stopped by themselves try again at once: an
// operator may have mended what stopped them.
func (d *Dispatcher) Resume() {
	d.mu.Lock()
	for _, o := range d.outlets {
		if o != nil {
			o.stoppedUntil = time.Time{}
		}
	}
	d.mu.Unlock()
	d.wakeAll()
}

func (d *Dispatcher) wakeAll() {
	for _, o := range d.outlets {
		if o != nil {
			signal(o.wake)
		}
	}
	signal(d.fetch)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Run delivers until ctx ends; then it begins no attempt, gives those under way
// their grace, records them, and returns nil. What is not settled stays in the
// log. An error means that the log has failed.
func (d *Dispatcher) Run(ctx context.Context) error {
	if err := d.findShelves(); err != nil {
		return err
	}
	taking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work, release := withGrace(taking, func() time.Duration { return d.Delivery().Grace })
	defer release()
	stopCancel := func() {}
	if d.cfg.Breakers != nil {
		stopCancel = d.cfg.Breakers.Subscribe(func(string, bool) { d.wakeAll() })
	}
	defer stopCancel()

	var attempts, rest sync.WaitGroup
	settling, settled := context.WithCancelCause(work)
	for _, o := range d.outlets {
		if o != nil {
			attempts.Go(func() { o.run(taking, work) })
		}
	}
	rest.Go(func() { d.fetchRoom(taking) })
	rest.Go(func() { d.expireResting(taking) })
	for range settlers {
		rest.Go(func() { d.settleAll(settling) })
	}
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-d.fatal:
		stop(failed)
	}
	attempts.Wait()
	stop(nil)
	settled(nil)
	rest.Wait()
	if failed == nil {
		select {
		case failed = <-d.fatal:
		default:
		}
	}
	return failed
}

// fail ends Run: the log has failed, and nothing that follows could be durable.
func (d *Dispatcher) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	select {
	case d.fatal <- err:
	default:
	}
}

// job is one message on its way out. It belongs to the queue, then to the
// goroutine of an attempt, then to a settler.
type job struct {
	entry   message.Entry
	rec     message.Record
	since   time.Time // when the store took it in, as was known when it was handed over; zero: not
	stored  bool      // the store has it
	told    bool      // its present status has been told
	service string
	account *account
	host    *host
	phase   phase // guarded by Dispatcher.mu, as is what follows
	tried   bool  // it is settling after an attempt
	calling bool  // it has places in outlet, account and host
	strange bool  // its host was a stranger when it took them
}

type phase uint8

const (
	waiting  phase = iota // in the queue: can be canceled
	picked                // on its way to an attempt, or to where it rests
	sending               // an attempt is being made: cannot
	settling              // its end is known
	canceled
)

// become gives the job another state, in memory: Progress, Park or Shelve make
// it durable.
func (j *job) become(s message.State) {
	j.adopt(s)
	j.entry.Progress = s.Append(make([]byte, 0, usualState))
}

// usualState is about the size of a state in bytes, after an attempt or two.
const usualState = 128

// adopt takes over a state that the store has, so that the log need not have it.
func (j *job) adopt(s message.State) {
	if s.Status != j.rec.Status {
		j.told = false
	}
	j.rec.State = s
}

// drop forgets a job that is in the log only, or nowhere.
func (d *Dispatcher) drop(jobs ...*job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range jobs {
		d.forgetLocked(j)
	}
}

// forgetLocked lets go of a job; another one of the same message stays.
func (d *Dispatcher) forgetLocked(j *job) {
	if d.held[j.rec.ID] == j {
		delete(d.held, j.rec.ID)
		delete(d.begun, j.rec.ID)
	}
}

// Holds says what the log does not say of a message that the dispatcher has in
// memory: whether it is queued, and then that it waits for its channel's service or for
// others of its account, or being sent; and since when the store has it. false: it does
// not have it, or it ended without an attempt.
func (d *Dispatcher) Holds(id message.ID) (s message.State, held bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	j := d.held[id]
	if s.Status, held = j.statusLocked(); held {
		s.StoredAt = j.since
		s.HoldReason, s.NextAttemptAt = d.holdLocked(j)
	}
	return s, held
}

// holdLocked says what a message in the queue waits for, if not for a worker alone.
func (d *Dispatcher) holdLocked(j *job) (reason string, until time.Time) {
	if j.phase != waiting || j.account == nil {
		return "", time.Time{}
	}
	if until := d.outlets[j.rec.Channel].pace.pausedUntil(now()); !until.IsZero() {
		return HoldThrottled, until.UTC().Truncate(time.Millisecond)
	}
	if j.account.inflight >= d.delivery.PerAccount {
		return HoldCap, time.Time{}
	}
	return "", time.Time{}
}

// Sending returns the messages of which Holds says so, as far as match wants them.
// match must be quick, and look at no state: it changes meanwhile.
func (d *Dispatcher) Sending(match func(*message.Record) bool) (ids []message.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, j := range d.begun {
		if status, _ := j.statusLocked(); status == message.Sending && match(&j.rec) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (j *job) statusLocked() (message.Status, bool) {
	switch {
	case j == nil:
		return 0, false
	case j.phase == waiting || j.phase == picked:
		return message.Queued, true
	case j.phase == sending, j.phase == settling && j.tried: // the end is not in the store yet
		return message.Sending, true
	}
	return 0, false
}

// settledStatus reports whether the dispatcher has nothing left to do. What
// follows sent comes from the provider, to the store.
func settledStatus(s message.Status) bool { return s.Final() || s == message.Sent }

// now is the present as it is written down.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
