package appliance_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// operating is an operator at a process: the manual's commands, by their lines.
type operating struct {
	t *testing.T
	*appliancetest.Process
}

// does runs a command that must succeed, and returns what it says.
func (o operating) does(line string) string {
	o.t.Helper()
	out, err := o.Command(strings.Fields(line)...).CombinedOutput()
	if err != nil {
		o.t.Fatalf("forebay %s: %v\n%s\n%s", line, err, out, o.Log())
	}
	return string(out)
}

// fails runs one that must not, and says so with part.
func (o operating) fails(line, part string) {
	o.t.Helper()
	if out, err := o.Command(strings.Fields(line)...).CombinedOutput(); err == nil || !strings.Contains(string(out), part) {
		o.t.Errorf("forebay %s: %v, want an error with %q\n%s", line, err, part, out)
	}
}

// sees waits until a command says part.
func (o operating) sees(line, part string) {
	o.t.Helper()
	appliancetest.Eventually(o.t, time.Minute, "forebay "+line+" says "+part, func() bool {
		out, _ := o.Command(strings.Fields(line)...).CombinedOutput()
		return strings.Contains(string(out), part)
	})
}

// sends submits n messages, of which each must be accepted.
func (o operating) sends(prefix string, n int) {
	o.t.Helper()
	l := appliancetest.NewLedger()
	sendAll(l, o.Target(), makeSubmissions(prefix, 1, make([]int, n), message.Lanes), 4)
	if got := len(l.Acked()); got != n {
		o.t.Errorf("%s: %d of %d messages were accepted", prefix, got, n)
	}
}

// clusterPort is an address that nothing listens on at the moment.
func clusterPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, "find a port", err)
	defer l.Close()
	return l.Addr().String()
}

// TestLostQuorumProcedure walks the manual's procedure for a lost quorum on real
// processes: two of three nodes are gone for good, the third one becomes a group
// of its own with all that it knew, and a new node joins it.
func TestLostQuorumProcedure(t *testing.T) {
	t.Parallel()
	ports := map[int]string{}
	var peers []string
	for n := 1; n <= 4; n++ {
		ports[n] = clusterPort(t)
		if n <= 3 {
			peers = append(peers, fmt.Sprintf("%d: %q", n, ports[n]))
		}
	}
	process := func(n int, peers string) operating {
		return operating{t, appliancetest.NewProcess(t, filepath.Join(t.TempDir(), "data"), fmt.Sprint("FOREBAY_NODE=", n),
			"FOREBAY_CLUSTER_LISTEN="+ports[n], "FOREBAY_CLUSTER_PEERS={"+peers+"}")}
	}
	all := strings.Join(peers, ", ")
	first, second, third := process(1, all), process(2, all), process(3, all)
	for _, p := range []operating{first, second, third} {
		p.Spawn()
	}
	for _, p := range []operating{first, second, third} {
		p.AwaitReady(time.Minute)
	}
	first.does("account create kept --tier test")
	first.Key = strings.TrimSpace(first.does("key create kept"))
	first.sends("before-", 50)

	// While the others answer, a node must not be made a group of its own.
	first.does("drain --wait")
	first.fails("cluster recover", "leads the group: it is not lost")
	first.Start()
	first.sees("cluster status", "leader")
	first.fails("cluster recover", "the appliance is running: stop it first")

	for _, p := range []operating{second, third} { // for good
		p.Kill()
		must(t, "lose the disk", os.RemoveAll(p.Dir))
	}
	first.sees("status", "raft_no_leader")
	first.fails("account create new --tier test", "forebay: ")
	first.does("drain --wait") // systemctl stop
	first.does("cluster recover")
	first.Start()
	first.sees("cluster status", "leader  1")
	if out := first.does("cluster status"); strings.Contains(out, ports[2]) || strings.Contains(out, ports[3]) {
		t.Errorf("the lost nodes are members still:\n%s", out)
	}
	first.does("account create new --tier test")
	first.sends("after-", 50) // with the key of before

	// A new node, with a number of its own, joins.
	fourth := process(4, fmt.Sprintf("1: %q", ports[1]))
	fourth.Spawn()
	appliancetest.Eventually(t, time.Minute, "the new node waits to be added", func() bool {
		resp, err := fourth.Client.Get(fourth.URL + "/healthz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode == http.StatusOK
	})
	first.does("cluster add 4 " + ports[4])
	fourth.AwaitReady(time.Minute)
	fourth.Key = first.Key
	appliancetest.Eventually(t, time.Minute, "the new node knows the key", func() bool {
		l := appliancetest.NewLedger()
		sendAll(l, fourth.Target(), makeSubmissions("fourth-", 1, []int{1}, message.Lanes), 1)
		return len(l.Acked()) == 1
	})
	for _, p := range []operating{first, fourth} {
		a := p.Admin()
		awaitDrained(t, a)
		a.Close()
		commandAudit(t, p.Process)
	}
}

// TestDatabaseGoneProcedure walks what the manual says of a database that is gone:
// messages are accepted meanwhile, all that is said says so, the drain goes on by
// itself; and where the database comes back older than it was, the audit names what
// it lost.
func TestDatabaseGoneProcedure(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	p := operating{t, appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"), world{pg}.settings()...)}
	operator := p.Admin()
	defer operator.Close()
	p.sends("before-", 40)
	awaitDrained(t, operator)

	pg.Stop(sinktest.Fast)
	p.sees("status", "database_down")
	p.sends("meanwhile-", 40)
	ready := func() (status int, text string) {
		resp, err := p.Client.Get(p.URL + "/readyz")
		must(t, "ask whether it is ready", err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, "read the answer", err)
		return resp.StatusCode, string(body)
	}
	if status, text := ready(); status != http.StatusOK || !strings.Contains(text, `"status":"degraded"`) {
		t.Errorf("without the database it is %d %s, want 200 degraded", status, text)
	}
	pg.Start()
	awaitDrained(t, operator)
	p.sees("status", "health  ")
	commandAudit(t, p.Process)

	// It comes back as it was some messages ago.
	lost := []uint64{71, 72, 73, 74, 75, 76, 77, 78, 79, 80}
	pg.ExecSQL("DELETE FROM messages WHERE seq > 70")
	p.fails("audit", "10 accepted messages are in neither log nor store, the first with number 71; was the database restored from a backup?")
	var report admin.Audit
	out, err := p.Command("audit", "--output", "json").Output()
	if err == nil {
		t.Error("an audit that misses messages succeeds")
	}
	must(t, "read the audit", json.Unmarshal(out, &report))
	if report.Missing != uint64(len(lost)) || !slices.Equal(report.MissingNumbers, lost) {
		t.Errorf("missing: %d, %v; want %v", report.Missing, report.MissingNumbers, lost)
	}
	p.sees("status", "messages_missing")
}
