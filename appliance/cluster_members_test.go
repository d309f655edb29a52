package appliance_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
)

// refused runs a command that must end with code, without output, and with one
// line on standard error that has part in it.
func (o operating) refused(line string, code int, part string) {
	o.t.Helper()
	cmd := o.Command(strings.Fields(line)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	exit, _ := errors.AsType[*exec.ExitError](cmd.Run())
	if exit == nil || exit.ExitCode() != code || stdout.Len() > 0 ||
		strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), part) {
		o.t.Errorf("forebay %s: %v, said %q and %q; want code %d and one line with %q", line, exit, stdout.String(), stderr.String(), code, part)
	}
}

// answers is the status of a GET, 0 where there is none, and its text.
func (o operating) answers(path string) (status int, text string) {
	resp, err := o.Client.Get(o.URL + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// fourMachines are three processes that are a group, and a fourth that knows them
// and waits to be added.
func fourMachines(t *testing.T, settings ...string) (nodes [5]operating, addresses [5]string) {
	var peers []string
	for n := 1; n <= 4; n++ {
		addresses[n] = clusterPort(t)
		if n <= 3 {
			peers = append(peers, fmt.Sprintf("%d: %q", n, addresses[n]))
		}
	}
	for n := 1; n <= 4; n++ {
		nodes[n] = operating{t, appliancetest.NewProcess(t, filepath.Join(t.TempDir(), "data"), fmt.Sprint("FOREBAY_NODE=", n),
			"FOREBAY_CLUSTER_LISTEN="+addresses[n], "FOREBAY_CLUSTER_PEERS={"+strings.Join(peers, ", ")+"}")}
		nodes[n].Set(settings...)
		nodes[n].Spawn()
	}
	for n := 1; n <= 3; n++ {
		nodes[n].AwaitReady(time.Minute)
	}
	return nodes, addresses
}

// TestClusterMembersByCommand walks a fourth node through its life by the commands
// of an operator: without a vote, with one, as the leader, and removed; and what
// must not be done is refused, with the code that scripts go by.
func TestClusterMembersByCommand(t *testing.T) {
	t.Parallel()
	const limit = 24
	nodes, addresses := fourMachines(t, "FOREBAY_RATE_LIMITING_WINDOW=1h",
		fmt.Sprintf("FOREBAY_RATE_LIMITING_TIERS={test: {requests_per_minute: 1000, burst: 1000, concurrent: 100}, "+
			"small: {requests_per_minute: %d, burst: %[1]d, concurrent: 30}}", limit))
	first, fourth := nodes[1], nodes[4]
	appliancetest.Eventually(t, time.Minute, "the fourth runs, and is not ready before it is added", func() bool {
		healthy, _ := fourth.answers("/healthz")
		ready, _ := fourth.answers("/readyz")
		return healthy == http.StatusOK && ready == http.StatusServiceUnavailable
	})
	first.refused("cluster add 4", 2, "cluster add")
	first.refused("cluster add x 127.0.0.1:7000", 2, "is no node")
	first.refused("cluster add 4 nowhere", 1, "host:port")
	first.refused("cluster transfer --to 4", 1, "node 4 is no member with a vote")
	first.refused("cluster recover", 1, "the appliance is running")

	nodes[2].does("cluster add 4 " + addresses[4] + " --nonvoter")
	fourth.AwaitReady(time.Minute)
	first.sees("cluster status", "nonvoter")
	first.refused("cluster transfer --to 4", 1, "node 4 is no member with a vote")

	// Without a vote it takes changes and messages, and the limit is one.
	fourth.does("account create small --tier small")
	key := strings.TrimSpace(fourth.does("key create small"))
	spendOnAll(t, nodes[1:], key, limit)

	nodes[3].does("cluster add 4 " + addresses[4])
	appliancetest.Eventually(t, time.Minute, "the fourth has a vote", func() bool {
		return !strings.Contains(first.does("cluster status"), "nonvoter")
	})
	nodes[2].does("cluster transfer --to 4")
	first.sees("cluster status", "leader  4")
	fourth.does("cluster remove 4")
	appliancetest.Eventually(t, time.Minute, "the fourth serves no more", func() bool {
		ready, _ := fourth.answers("/readyz")
		return ready == http.StatusServiceUnavailable
	})
	appliancetest.Eventually(t, time.Minute, "another leads", func() bool {
		out := first.does("cluster status")
		return !strings.Contains(out, "leader  4") && !strings.Contains(out, "leader  none")
	})
	first.refused("cluster remove 4", 1, "node 4 is not a member")

	// What is left must be able to go on, also if a node has died only now.
	nodes[2].does("cluster transfer --to 1")
	first.sees("cluster status", "leader  1")
	nodes[3].Kill()
	first.refused("cluster remove 2", 1, "no majority")
	first.does("cluster remove 3")
	first.does("account create after --tier test")
}

// spendOnAll uses up a plan of so many messages on all nodes in turn: it is given
// whole, and not more.
func spendOnAll(t *testing.T, nodes []operating, key string, limit int) {
	t.Helper()
	takings := appliancetest.NewTakings()
	send := func(o operating) int {
		target := o.Target()
		target.Key = key
		return takings.Submit(target, 0).Status
	}
	for _, o := range nodes {
		appliancetest.Eventually(t, time.Minute, "the node knows the key", func() bool { return send(o) != http.StatusUnauthorized })
	}
	appliancetest.Eventually(t, time.Minute, "all of the plan is given", func() bool {
		for _, o := range nodes {
			send(o)
		}
		return takings.Count("202") >= limit
	})
	for range limit / 2 {
		for _, o := range nodes {
			send(o)
		}
	}
	if got := takings.Count("202"); got != limit {
		t.Errorf("%d of %d messages were taken: %s", got, limit, takings.Summary())
	}
}

// TestClusterOfOneHasNoMembersToChange: an appliance without a cluster port.
func TestClusterOfOneHasNoMembersToChange(t *testing.T) {
	t.Parallel()
	o := operating{t, appliancetest.StartProcess(t, filepath.Join(t.TempDir(), "data"))}
	o.refused("cluster add 2 127.0.0.1:7000", 1, "set cluster.listen")
	o.refused("cluster remove 1", 1, "no majority")
	o.refused("cluster remove 2", 1, "node 2 is not a member")
	o.refused("cluster transfer", 1, "no other node that could lead")
	o.does("account create after --tier test")
}
