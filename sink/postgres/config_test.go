package postgres

import (
	"strings"
	"testing"
	"time"
)

func TestConfig(t *testing.T) {
	const good = "postgres://u:hunter2@h/d"
	for name, c := range map[string]struct {
		cfg  Config
		want string // in the error; empty: it is valid
	}{
		"defaults":      {Config{URL: good}, ""},
		"keywords":      {Config{URL: "host=h user=u password=hunter2 dbname=d"}, ""},
		"several hosts": {Config{URL: "postgres://u:hunter2@a,b:5433/d?target_session_attrs=read-write"}, ""},
		"pgbouncer":     {Config{URL: good + "?default_query_exec_mode=cache_describe"}, ""},
		"no URL":        {Config{URL: " "}, "URL is empty"},
		"bad escape":    {Config{URL: "postgres://u:hunter2%zz@h/d"}, "cannot be read"},
		"bad port":      {Config{URL: "postgres://u:hunter2@h:port/d"}, "cannot be read"},
		"slash":         {Config{URL: "postgres://u:hunter2/x@h/d"}, "cannot be read"},
		"quote":         {Config{URL: "host=h password='hunter2"}, "cannot be read"},
		"exec mode":     {Config{URL: good + "?default_query_exec_mode=simple_protocol"}, "default_query_exec_mode"},
		"pool":          {Config{URL: good, MaxPoolSize: -1}, "max pool size -1"},
		"pool order":    {Config{URL: good, MaxPoolSize: 5, MinPoolSize: 6}, "min pool size 6"},
		"timeout":       {Config{URL: good, ConnectionTimeout: -time.Second}, "connection timeout"},
		"statement":     {Config{URL: good, StatementTimeout: time.Microsecond}, "statement timeout"},
		"slow":          {Config{URL: good, SlowQuery: -1}, "slow query"},
		"retention":     {Config{URL: good, Retention: time.Minute}, "retention 1m0s"},
		"ttl":           {Config{URL: good, IdempotencyTTL: time.Millisecond}, "idempotency TTL"},
	} {
		_, err := New(c.cfg)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds the password: %v", name, err)
		}
	}
}

// TestPoolConfig: what the operator wrote into the URL wins over our limits.
func TestPoolConfig(t *testing.T) {
	cfg := Config{URL: "postgres://u:p@h/d?statement_timeout=7000&pool_max_conns=3&connect_timeout=1", MaxPoolSize: 20, MinPoolSize: 2}.withDefaults()
	p, err := cfg.poolConfig()
	if err != nil {
		t.Fatalf("pool configuration: %v", err)
	}
	for name, want := range map[string]string{"statement_timeout": "7000", "lock_timeout": "5000", "idle_in_transaction_session_timeout": "30000",
		"application_name": "forebay", "timezone": "UTC"} {
		if got := p.ConnConfig.RuntimeParams[name]; got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if p.MaxConns != 20 || p.MinConns != 2 || p.PingTimeout == 0 || p.MaxConnLifetimeJitter == 0 || p.ConnConfig.ConnectTimeout != 30*time.Second {
		t.Errorf("pool of %d to %d connections, ping %v, jitter %v, connect %v", p.MinConns, p.MaxConns, p.PingTimeout, p.MaxConnLifetimeJitter, p.ConnConfig.ConnectTimeout)
	}
	withoutLimits(p.ConnConfig)
	if got := len(p.ConnConfig.RuntimeParams); got != 2 {
		t.Errorf("%d parameters left for a pooler, want 2: %v", got, p.ConnConfig.RuntimeParams)
	}
}
