package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/wal/message"
)

// Store keeps messages for good: PostgreSQL or the embedded store. Two
// implementations, one suite of conformance tests (sinktest.StoreSuite).
//
// All methods are safe for concurrent use and return when ctx ends. An error is
// one of three kinds: ErrNotFound; a *Down, which means that the store cannot
// answer now and the same call may succeed later; anything else, which is a
// fault of the call or of the program.
type Store interface {
	// Insert stores a batch, each record whole or not at all, and returns one
	// Result for each record, in order. After an error some of the records may
	// be stored; repeating the batch is harmless. What is stored is durable.
	//
	// A record that is already there is Known, and nothing changes. A record
	// whose idempotency key another message of its account has claimed is
	// stored as a duplicate of it; the claim holds for messages whose times of
	// acceptance lie less than the store's claim time apart, whenever they are
	// inserted. A record that the store refuses for its own fault is set aside
	// as failed and never costs the rest of the batch. Any other accepted
	// record becomes stored if its channel is ChannelStore, else queued; one
	// that is further along keeps its state. StoredAt is set in each case.
	Insert(ctx context.Context, batch []message.Record) ([]Result, error)

	// Update merges the states of records into what the store knows of them, as
	// message.State.Merge does, and returns each state as it then stands, in
	// order: the zero State for a record that the store does not have, which is
	// then untouched. Reports that came before the store knew of a provider's id
	// are merged in as well. What is returned is durable, and repeating it is
	// harmless.
	Update(ctx context.Context, batch []message.Record) ([]message.State, error)

	// Report takes in what providers say, in any order and as often as they say
	// it, and returns the records that it has changed, each once. A report of
	// which the message is not known yet is kept, and merged when Insert or
	// Update brings the message or the provider's id, for EarlyReports at least.
	// Invalid reports are passed over. When it returns, all is durable.
	Report(ctx context.Context, reports []message.Report) ([]message.Record, error)

	// Unreported gives up waiting for reports of up to limit messages that were
	// sent before t and of which nothing was heard since: they keep the status
	// sent, with the error CodeNoReport, and are final. It returns them. First,
	// before anything is changed, tell is called with the records as they will
	// be, so that what it makes durable outlives a crash in between: they are
	// then found once more. An error of tell is returned and changes nothing.
	Unreported(ctx context.Context, t time.Time, limit int, tell func([]message.Record) error) ([]message.Record, error)

	// Usage counts an account's messages by day, channel and status, in this
	// order. Days whose messages retention has deleted still count, for
	// UsageKept at least.
	Usage(ctx context.Context, q message.UsageQuery) ([]message.UsageCount, error)

	// Get returns one message. account empty: of any account. ErrNotFound also
	// when it belongs to another account.
	Get(ctx context.Context, account string, id message.ID) (message.Record, error)

	// List returns messages by query, newest first.
	List(ctx context.Context, q message.Query) (message.Page, error)

	// Count says how many of the messages that node accepted with a sequence
	// number in [from, to] the store has, and of these how many are final.
	Count(ctx context.Context, node uint16, from, to uint64) (Tally, error)

	// Missing returns the sequence numbers in [from, to] of node that the
	// store does not have, ascending, at most limit of them.
	Missing(ctx context.Context, node uint16, from, to uint64, limit int) ([]uint64, error)

	// Numbered returns those of node's messages with these sequence numbers that
	// the store has, ascending. It may read all of the store.
	Numbered(ctx context.Context, node uint16, seqs []uint64) ([]Found, error)

	// FirstSince returns the lowest sequence number of the messages of node that
	// were accepted at t or later and are in the store; 0: there are none.
	FirstSince(ctx context.Context, node uint16, t time.Time) (uint64, error)

	// Health says whether the store answers. It does not block.
	Health() Health

	// Run does the store's background duties (connecting and migrating,
	// watching, retention) until ctx ends. A store that is down when Run
	// starts is retried for ever. An error means that an operator must act.
	Run(ctx context.Context) error

	// Close releases what the store holds; Run must have returned.
	Close() error
}

// Found is a message of which only the number was known.
type Found struct {
	Seq    uint64
	ID     message.ID
	Status message.Status
}

// EarlyReports is how long a store keeps a report of a message that it does not
// know: longer than a message may wait for its time and be tried after that.
const EarlyReports = 72 * time.Hour

// UsageKept is how long counts outlive the messages that they counted.
const UsageKept = 400 * 24 * time.Hour

// Result says what Insert did with one record.
type Result struct {
	Outcome Outcome
	State   message.State // as it now stands in the store
}

// Outcome is what became of a record that was inserted.
type Outcome uint8

// The outcomes of an insert.
const (
	New       Outcome = iota + 1 // stored now
	Known                        // was there already
	Duplicate                    // stored as a duplicate: its key belongs to another message
	SetAside                     // refused by the store, kept as failed
)

// Outcomes lists the outcomes for those who count them.
var Outcomes = []Outcome{New, Known, Duplicate, SetAside}

var outcomeNames = [...]string{New: "new", Known: "known", Duplicate: "duplicate", SetAside: "set_aside"}

// String returns the outcome's name in metrics.
func (o Outcome) String() string {
	if o >= New && o <= SetAside {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Tally counts messages of one node.
type Tally struct{ Stored, Final uint64 }

// Health is what a store says of itself.
type Health struct {
	Up     bool
	Kind   string // "postgres" or "embedded"
	Detail string // why it is down, in words for operators; may name hosts, never secrets
}

// ErrNotFound: the store does not know the message.
var ErrNotFound = errors.New("message not found")

// Down is the error of a store that cannot answer now.
type Down struct{ Err error }

// Error implements error.
func (d *Down) Error() string { return "store unavailable: " + d.Err.Error() }

// Unwrap returns the cause.
func (d *Down) Unwrap() error { return d.Err }
