package appliance_test

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"forebay/appliance/appliancetest"
	"forebay/sink/sinktest"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(baselineVariable); spec != "" {
		runBaseline(spec)
	}
	// Each check needs an appliance: rapid's hundred would take minutes.
	if err := flag.Set("rapid.checks", "5"); err != nil { // the command line, parsed later, wins
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		appliancetest.RemoveBinary()
		printTable()
		os.Exit(code)
	}))
}

type answer struct {
	ID     string `json:"id"`
	Status any    `json:"status"` // a word in a message, a number in a refusal
	Code   string `json:"code"`
}

func submit(t *testing.T, n *appliancetest.Node, body string, headers ...string) (int, answer) {
	t.Helper()
	req, _ := http.NewRequest("POST", n.URL+"/v1/messages", strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+n.Key)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return do(t, n, req)
}

func get(t *testing.T, n *appliancetest.Node, path string) (int, answer) {
	t.Helper()
	req, _ := http.NewRequest("GET", n.URL+path, nil)
	req.Header.Set("Authorization", "Bearer "+n.Key)
	return do(t, n, req)
}

func do(t *testing.T, n *appliancetest.Node, req *http.Request) (int, answer) {
	t.Helper()
	r, err := n.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	data, _ := io.ReadAll(r.Body)
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		t.Fatalf("%s %s: %d %q: %v", req.Method, req.URL, r.StatusCode, data, err)
	}
	return r.StatusCode, a
}

// stores runs a test against both stores.
func stores(t *testing.T, test func(t *testing.T, options ...appliancetest.Option)) {
	t.Run("store=embedded", func(t *testing.T) { test(t) })
	t.Run("store=postgres", func(t *testing.T) {
		pg := sinktest.StartPostgres(t)
		test(t, appliancetest.WithPostgres(pg.URL()))
	})
}

func TestMessageReachesTheStore(t *testing.T) {
	stores(t, func(t *testing.T, options ...appliancetest.Option) {
		n := appliancetest.Start(t, options...)
		status, a := submit(t, n, `{"channel":"store","body":"hello","client_ref":"r1"}`)
		if status != 202 || a.Status != "accepted" {
			t.Fatalf("%d %+v", status, a)
		}
		if status, v := get(t, n, "/v1/messages/"+a.ID); status != 200 || v.ID != a.ID {
			t.Fatalf("%d %+v", status, v)
		}
		appliancetest.Eventually(t, 10*time.Second, "the message is stored", func() bool {
			_, v := get(t, n, "/v1/messages/"+a.ID)
			return v.Status == "stored"
		})
		status, waited := submit(t, n, `{"channel":"store","body":"hello again"}`, "Prefer", "wait=10")
		if status != 201 || waited.Status != "stored" {
			t.Fatalf("Prefer: wait: %d %+v", status, waited)
		}
		n = n.Restart()
		for _, id := range []string{a.ID, waited.ID} {
			// Ready comes before the database is: until then the answer is 503.
			appliancetest.Eventually(t, 10*time.Second, id+" is found after a restart", func() bool {
				status, v := get(t, n, "/v1/messages/"+id)
				return status == 200 && v.Status == "stored"
			})
		}
		audit, err := n.Admin.Audit(context.Background(), time.Time{})
		if err != nil || audit.Accepted != 2 || audit.Missing != 0 || audit.Stored != 2 {
			t.Fatalf("%+v %v", audit, err)
		}
	})
}
