package appliance_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5/pgxpool"

	"forebay/appliance/appliancetest"
	"forebay/wal/message"
)

// A baseline is a server that does less: the test binary, run again.
const baselineVariable = "FOREBAY_TEST_BASELINE" // kind, space, address, space, database URL

func runBaseline(spec string) {
	kind, rest, _ := strings.Cut(spec, " ")
	addr, url, _ := strings.Cut(rest, " ")
	var insert func(context.Context, message.ID, *submission) error
	if kind == "insert" {
		pc, err := pgxpool.ParseConfig(url)
		if err != nil {
			panic(err)
		}
		pc.MaxConns = 32
		pool, err := pgxpool.NewWithConfig(context.Background(), pc)
		if err != nil {
			panic(err)
		}
		if _, err := pool.Exec(context.Background(), "CREATE TABLE IF NOT EXISTS baseline (id uuid PRIMARY KEY, channel text, priority text, body text, client_ref text, accepted_at timestamptz)"); err != nil {
			panic(err)
		}
		insert = func(ctx context.Context, id message.ID, s *submission) error {
			_, err := pool.Exec(ctx, "INSERT INTO baseline VALUES ($1, $2, $3, $4, $5, now())", [16]byte(id), s.Channel, s.Priority, s.Body, s.ClientRef)
			return err
		}
	}
	var mu sync.Mutex
	counter := uint16(0)
	panic(http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var s submission
		if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, 256<<10), &s, json.RejectUnknownMembers(true)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		now := time.Now().UTC()
		mu.Lock()
		counter++
		id := message.NewID(uint64(now.UnixMilli()), counter, 1, message.Normal, uint64(now.UnixNano()))
		mu.Unlock()
		if insert != nil {
			if err := insert(r.Context(), id, &s); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Location", "/v1/messages/"+id.String())
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"id":%q,"status":"accepted","accepted_at":%q}`, id, now.Format(time.RFC3339Nano))
	})))
}

type submission struct {
	Channel   string `json:"channel"`
	Body      string `json:"body"`
	Priority  string `json:"priority"`
	ClientRef string `json:"client_ref"`
	To        string `json:"to"`
}

// startBaseline runs a baseline in a process of its own.
func startBaseline(b *testing.B, kind, url string) (base string, pid int) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), baselineVariable+"="+kind+" "+addr+" "+url)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	appliancetest.Eventually(b, 10*time.Second, "the baseline listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return "http://" + addr, cmd.Process.Pid
}
