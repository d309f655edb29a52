package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Config says which database and how. Zero fields take the defaults that are
// named; MinPoolSize 0 means none.
type Config struct {
	// URL is the connection string, in either form that libpq knows. A
	// search_path in it says which schema holds the tables. Behind pgbouncer in
	// transaction mode add default_query_exec_mode=cache_describe.
	URL string

	MaxPoolSize       int           // connections at most, 1–10,000; default 200
	MinPoolSize       int           // connections kept open, at most MaxPoolSize
	ConnectionTimeout time.Duration // for opening one connection; default 30 s
	StatementTimeout  time.Duration // for one statement, kept by the server; default 30 s
	SlowQuery         time.Duration // a statement that takes longer is logged; default 200 ms
	Retention         time.Duration // how long messages stay at least, 1 h or more; default 90 d
	IdempotencyTTL    time.Duration // how long a claim on an idempotency key holds, at least 1 s; default 24 h

	Logger     *slog.Logger          // default: nothing is logged
	Registerer prometheus.Registerer // default: no metrics
}

// Limits on the server and on the network that are not the operator's to set.
const (
	applicationName = "forebay"
	lockTimeout     = 5 * time.Second  // waiting for a row or a table
	idleInTx        = 30 * time.Second // a transaction that nobody continues
	pingTimeout     = 2 * time.Second  // for an idle connection to answer before it is used
	keepAlive       = 15 * time.Second // idle time before the kernel asks whether the peer lives
	unacknowledged  = 30 * time.Second // data that the peer does not acknowledge ends the connection
	// The server ends statements by itself. A context that ends closes the
	// connection, which costs a new one, so it comes later, and a cancelled call
	// gets this long to end in order.
	cancelDelay = time.Second
)

func (c Config) withDefaults() Config {
	setDefault(&c.MaxPoolSize, 200)
	setDefault(&c.ConnectionTimeout, 30*time.Second)
	setDefault(&c.StatementTimeout, 30*time.Second)
	setDefault(&c.SlowQuery, 200*time.Millisecond)
	setDefault(&c.Retention, 90*24*time.Hour)
	setDefault(&c.IdempotencyTTL, 24*time.Hour)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports every field that is out of its range, without the URL's text.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.MaxPoolSize >= 1 && c.MaxPoolSize <= 10000, "max pool size %d: not within 1 and 10,000", c.MaxPoolSize)
	check(c.MinPoolSize >= 0 && c.MinPoolSize <= c.MaxPoolSize, "min pool size %d: not within 0 and the max pool size, %d", c.MinPoolSize, c.MaxPoolSize)
	check(c.ConnectionTimeout >= 10*time.Millisecond, "connection timeout %v: under 10 ms", c.ConnectionTimeout)
	check(c.StatementTimeout >= 10*time.Millisecond, "statement timeout %v: under 10 ms", c.StatementTimeout)
	check(c.SlowQuery > 0, "slow query %v: not positive", c.SlowQuery)
	check(c.Retention >= time.Hour, "retention %v: under 1 h", c.Retention)
	check(c.IdempotencyTTL >= time.Second, "idempotency TTL %v: under 1 s", c.IdempotencyTTL)
	if _, err := c.poolConfig(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// poolConfig translates the configuration for pgxpool.
func (c Config) poolConfig() (*pgxpool.Config, error) {
	if strings.TrimSpace(c.URL) == "" {
		return nil, errors.New("database URL is empty")
	}
	p, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		// The parser's own words may hold a part of a password.
		return nil, errors.New("database URL cannot be read: it should look like postgres://USER:PASSWORD@HOST:5432/DATABASE, with special characters of the password percent-encoded, and name only files that exist")
	}
	switch p.ConnConfig.DefaultQueryExecMode {
	case pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec:
	default:
		return nil, errors.New("database URL asks for a default_query_exec_mode that sends values as text: use cache_statement, or cache_describe behind pgbouncer")
	}
	p.MaxConns, p.MinConns = int32(c.MaxPoolSize), int32(c.MinPoolSize)
	p.MaxConnLifetime, p.MaxConnLifetimeJitter = 30*time.Minute, 5*time.Minute
	p.MaxConnIdleTime, p.HealthCheckPeriod = 5*time.Minute, 15*time.Second
	p.PingTimeout = pingTimeout
	p.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		registerTypes(conn.TypeMap())
		return nil
	}
	cc := p.ConnConfig
	cc.ConnectTimeout = c.ConnectionTimeout
	cc.DialFunc = (&net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: 5 * time.Second, Count: 3},
		Control:         setUserTimeout,
	}).DialContext
	cc.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn(), DeadlineDelay: cancelDelay}
	}
	for name, value := range c.serverLimits() {
		if _, set := cc.RuntimeParams[name]; !set { // what the operator wrote goes first
			cc.RuntimeParams[name] = value
		}
	}
	return p, nil
}

// serverLimits are the parameters of a session, in the server's notation.
func (c Config) serverLimits() map[string]string {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	return map[string]string{
		"application_name":                    applicationName,
		"statement_timeout":                   ms(c.StatementTimeout),
		"lock_timeout":                        ms(min(lockTimeout, c.StatementTimeout)),
		"idle_in_transaction_session_timeout": ms(idleInTx),
		"timezone":                            "UTC",
	}
}

// withoutLimits takes the parameters out that a pooler in between may not know.
func withoutLimits(cc *pgx.ConnConfig) {
	for _, name := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		delete(cc.RuntimeParams, name)
	}
}

// setUserTimeout makes the kernel give up on a peer that does not acknowledge.
func setUserTimeout(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	if controlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
	}); controlErr != nil {
		return controlErr
	}
	return err
}
