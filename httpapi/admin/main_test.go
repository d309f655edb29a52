package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"forebay/wal/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secretToken = "correct-horse-battery-staple"
	secretKey   = "fb_live_aaaaaaaaaaaa_secretsecret"
)

var (
	birth  = time.UnixMilli(1_700_000_000_000).UTC()
	someID = message.NewID(1_700_000_000_000, 1, 7, message.High, 42)
)

// world is a handler on stand-ins that remember what was asked of them.
type world struct {
	*Handler
	cfg      Config
	accounts *accounts
	cluster  members
	query    message.Query
	since    time.Time
	drained  bool
	ready    Readiness
	backup   func(ctx context.Context, w io.Writer) error
	logs     *journal
}

func newWorld(t testing.TB, options ...func(*world)) *world {
	t.Helper()
	w := &world{accounts: &accounts{}, logs: &journal{}, ready: Readiness{Status: Ready,
		Checks: map[string]Check{"wal": {Status: "ok"}, "store": {Status: "degraded", Detail: "db.internal refuses"}}}}
	w.backup = func(_ context.Context, out io.Writer) error {
		_, err := io.WriteString(out, "backup")
		return err
	}
	reg := prometheus.NewPedanticRegistry()
	w.cfg = Config{
		Accounts: w.accounts,
		Cluster:  &w.cluster,
		Messages: messages{w},
		Breakers: breakers{},
		Render: func(r *message.Record) any {
			return struct { // no map: its members come in any order
				ID     message.ID `json:"id"`
				Status string     `json:"status"`
			}{r.ID, r.Status.String()}
		},
		Audit: func(_ context.Context, since time.Time) (Audit, error) {
			w.since = since
			return Audit{Node: 7, From: 1, To: 9, Accepted: 9, Stored: 8, Final: 7, Missing: 1, MissingNumbers: []uint64{4}}, nil
		},
		Backup:     func(ctx context.Context, out io.Writer) error { return w.backup(ctx, out) },
		Drain:      func() { w.drained = true },
		Status:     func() Status { return Status{Node: 7, Version: "1.2.3"} },
		Readiness:  func() Readiness { return w.ready },
		Gatherer:   reg,
		Token:      NewToken(secretToken + "\n"),
		Logger:     slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registerer: reg,
	}
	for _, o := range options {
		o(w)
	}
	h, err := New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Handler = h
	return w
}

// journal is a log that many may write and one reads.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// members records what is asked of the group.
type members struct {
	asked []string
	err   error
}

func (m *members) ask(format string, args ...any) error {
	m.asked = append(m.asked, fmt.Sprintf(format, args...))
	return m.err
}

func (m *members) AddMember(_ context.Context, b AddMember) error {
	return m.ask("add %d %s %v", b.Node, b.Address, b.NonVoter)
}
func (m *members) RemoveMember(_ context.Context, node uint16) error { return m.ask("remove %d", node) }
func (m *members) Transfer(_ context.Context, to uint16) error       { return m.ask("transfer %d", to) }

// accounts knows one account, "acme", with one key.
type accounts struct {
	err   error // what all methods answer
	patch PatchAccount
}

var acme = Account{ID: "acme", Name: "Acme", Tier: "basic", CreatedAt: birth, Keys: 1}
var acmeKey = Key{ID: "aaaaaaaaaaaa", Account: "acme", Label: "ci", CreatedAt: birth}

func (a *accounts) find(id string) (Account, error) {
	if a.err == nil && id != acme.ID {
		return Account{}, Refuse(CodeNotFound, "there is no account "+id)
	}
	return acme, a.err
}

func (a *accounts) Accounts(context.Context) ([]Account, error) { return []Account{acme}, a.err }

func (a *accounts) Account(_ context.Context, id string) (Account, error) { return a.find(id) }

func (a *accounts) CreateAccount(_ context.Context, body CreateAccount) (Account, error) {
	if a.err == nil && body.ID == acme.ID {
		return Account{}, Refuse(CodeExists, "account acme exists")
	}
	if a.err == nil && body.Tier != "basic" {
		return Account{}, Refuse(CodeUnknownTier, "there is no tier", FieldProblem{Pointer: "#/tier", Detail: "is not known"})
	}
	return Account{ID: body.ID, Tier: body.Tier, Name: body.Name, CallbackURL: body.CallbackURL, CreatedAt: birth}, a.err
}

func (a *accounts) PatchAccount(_ context.Context, id string, body PatchAccount) (Account, error) {
	a.patch = body
	return a.find(id)
}

func (a *accounts) DeleteAccount(_ context.Context, id string) error {
	_, err := a.find(id)
	return err
}

func (a *accounts) Keys(_ context.Context, account string) ([]Key, error) {
	_, err := a.find(account)
	return []Key{acmeKey}, err
}

func (a *accounts) CreateKey(_ context.Context, account string, body CreateKey) (CreatedKey, error) {
	if _, err := a.find(account); err != nil {
		return CreatedKey{}, err
	}
	k := acmeKey
	k.Label, k.Test = body.Label, body.Test
	return CreatedKey{Key: k, Secret: secretKey}, nil
}

func (a *accounts) RevokeKey(_ context.Context, account, id string) (Key, error) {
	if id != acmeKey.ID || account != "" && account != acme.ID {
		return Key{}, Refuse(CodeNotFound, "there is no key "+id)
	}
	k := acmeKey
	k.RevokedAt = birth
	return k, a.err
}

type messages struct{ w *world }

func someRecord() message.Record {
	return message.Record{ID: someID, Seq: 5, Message: message.Message{Account: "acme"}, State: message.State{Status: message.Stored}}
}

func (m messages) Get(_ context.Context, id message.ID) (message.Record, error) {
	if id != someID {
		return message.Record{}, ErrNotFound
	}
	return someRecord(), nil
}

func (m messages) List(_ context.Context, q message.Query) (message.Page, error) {
	m.w.query = q
	return message.Page{Records: []message.Record{someRecord()}, More: true}, nil
}

var errPrivate = errors.New("dial db.internal: password hunter2")
