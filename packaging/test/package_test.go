package test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// packages builds the package, and one of the same program with a higher
// version, to upgrade to.
func packages(t *testing.T) (deb, newer string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	must(t, "name the repository", err)
	build := func(version string) string {
		cmd := exec.Command("make", "--silent", "package", "DEB_VERSION="+version)
		cmd.Dir = root
		output(t, cmd)
		return filepath.Join(root, "dist", "forebay_"+version+"_"+output(t, exec.Command("go", "env", "GOARCH"))+".deb")
	}
	deb, newer = build("0.1.0~test1"), build("0.1.0~test2")
	t.Cleanup(func() { os.Remove(deb); os.Remove(newer) })
	return deb, newer
}

// load is what forebay bench reports.
type load struct {
	Sent       uint64            `json:"sent"`
	OK         uint64            `json:"ok"`
	Codes      map[string]uint64 `json:"codes"`
	Errors     map[string]uint64 `json:"errors"`
	Reconnects uint64            `json:"reconnects"`
}

// underLoad sends 1,000 messages a second while during runs, and checks that
// every one of them was accepted.
func (m *machine) underLoad(duration string, during func()) load {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	bench := m.command(ctx, "forebay bench --accounts 20 --rate 1000 --connections 50 --duration "+duration+" --timeout 30s --output json 2>/dev/null")
	var out strings.Builder
	bench.Stdout = &out
	must(m.t, "start the load", bench.Start())
	<-time.After(time.Second)
	during()
	err := bench.Wait()
	var l load
	if jsonErr := json.Unmarshal([]byte(out.String()), &l); jsonErr != nil {
		m.t.Fatalf("the load: %v: %v\n%s", err, jsonErr, out.String())
	}
	if l.Sent == 0 || l.OK != l.Sent || len(l.Errors) != 0 {
		m.t.Errorf("under load: %+v: want every request accepted", l)
	}
	return l
}

// audit checks that nothing that was accepted is missing.
func (m *machine) audit() {
	m.t.Helper()
	eventually(m.t, time.Minute, "the audit finds nothing missing and nothing waiting", func() bool {
		out, err := m.try("forebay audit --output json")
		var a struct{ Accepted, Stored, Waiting, Missing uint64 }
		return err == nil && json.Unmarshal([]byte(out), &a) == nil && a.Accepted > 0 && a.Missing == 0 && a.Waiting == 0 && a.Stored == a.Accepted
	})
}

func (m *machine) property(name string) string {
	return m.run("systemctl show --value --property " + name + " forebay.service")
}

func (m *machine) awaitReady() {
	m.t.Helper()
	eventually(m.t, time.Minute, "the service is active", func() bool {
		out, err := m.try("systemctl is-active forebay.service && forebay status --output json")
		return err == nil && strings.HasPrefix(out, "active")
	})
}

// TestPackage is the life of an installation, in order.
func TestPackage(t *testing.T) {
	deb, newer := packages(t)
	m := boot(t)
	m.copy(deb, "/root/old.deb")
	m.copy(newer, "/root/new.deb")

	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Failed() {
			t.Log(name)
			f(t)
		}
	}
	step("install", func(t *testing.T) {
		m.run("dpkg -i /root/old.deb")
		m.awaitReady()
		m.run("test $(stat -c %U:%a /var/lib/forebay) = forebay:700")
		m.run("test $(stat -c %U:%G:%a /run/forebay/admin.sock) = root:forebay:660")
		m.run("systemd-analyze --man=no verify forebay.service forebay-api.socket forebay-ops.socket forebay-admin.socket")
		m.run("systemd-analyze security --threshold=20 forebay.service")
		m.run("test -f /usr/share/man/man1/forebay.1.gz -a -f /usr/share/man/man5/forebay.yaml.5.gz -a -f /usr/share/bash-completion/completions/forebay")
		m.underLoad("3s", func() {})
		m.audit()
	})
	step("the manual's commands", func(t *testing.T) {
		n := 0
		for _, page := range []string{"deployment", "monitoring", "troubleshooting", "emergency", "tuning", "scaling", "security"} {
			text, err := os.ReadFile("../doc/" + page + ".md")
			must(t, "read the manual", err)
			for i, block := range strings.Split(string(text), "```sh run\n") {
				if i > 0 {
					commands, _, _ := strings.Cut(block, "```")
					m.run("set -e\n" + commands)
					n++
				}
			}
		}
		if n < 5 {
			t.Errorf("%d blocks of commands found", n)
		}
	})
	step("restart under load", func(t *testing.T) {
		before := m.property("MainPID")
		m.underLoad("12s", func() {
			for range 2 {
				m.run("systemctl restart forebay.service")
				<-time.After(time.Second)
			}
		})
		if after := m.property("MainPID"); after == before {
			t.Errorf("the process %s was not restarted", before)
		}
		m.audit()
	})
	step("reload", func(t *testing.T) {
		m.run(`sed -i 's/batch_size: 1000 /batch_size: 1001 /' /etc/forebay/forebay.yaml`)
		m.run("systemctl reload forebay.service")
		if shown := m.run("forebay config show"); !strings.Contains(shown, "1001") {
			t.Errorf("after a reload forebay config show says\n%s", shown)
		}
		m.run(`sed -i 's/batch_size: 1001 /batch_size: many /' /etc/forebay/forebay.yaml`)
		m.fails("systemctl reload forebay.service") // waits for the answer, which is no
		m.run("systemctl is-active forebay.service")
		m.run(`sed -i 's/batch_size: many /batch_size: 1001 /' /etc/forebay/forebay.yaml`)
		m.run("systemctl reload forebay.service")
	})
	step("kill", func(t *testing.T) {
		before := m.property("MainPID")
		m.run("kill -9 " + before)
		eventually(t, time.Minute, "another process serves", func() bool {
			pid := m.property("MainPID")
			return pid != before && pid != "0"
		})
		m.awaitReady()
		m.audit()
	})
	step("hang", func(t *testing.T) {
		m.run("mkdir -p /run/systemd/system/forebay.service.d && printf '[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n' > /run/systemd/system/forebay.service.d/test.conf && systemctl daemon-reload && systemctl restart forebay.service")
		m.awaitReady()
		before := m.property("MainPID")
		m.run("kill -STOP " + before)
		eventually(t, time.Minute, "the watchdog has ended it, and another process serves", func() bool {
			pid := m.property("MainPID")
			return pid != before && pid != "0"
		})
		m.awaitReady()
		if log := m.run("journalctl --no-pager -u forebay.service"); !strings.Contains(log, "Watchdog timeout") {
			t.Errorf("no watchdog in the journal:\n%s", log)
		}
		m.run("rm -r /run/systemd/system/forebay.service.d && systemctl daemon-reload")
		m.audit()
	})
	step("upgrade under load", func(t *testing.T) {
		before := m.property("MainPID")
		m.underLoad("12s", func() { m.run("dpkg -i /root/new.deb") })
		if after := m.property("MainPID"); after == before {
			t.Error("the old process is still there")
		}
		if shown := m.run("forebay config show"); !strings.Contains(shown, "1001") {
			t.Errorf("the upgrade changed the configuration:\n%s", shown)
		}
		m.audit()
	})
	step("remove and install again", func(t *testing.T) {
		m.run("dpkg -r forebay")
		m.fails("systemctl is-active forebay.service")
		m.run("test -d /var/lib/forebay/wal -a -f /etc/forebay/forebay.yaml")
		m.run("dpkg -i /root/new.deb")
		m.awaitReady()
		m.audit()
	})
	step("purge keeps the data, unless told otherwise", func(t *testing.T) {
		m.run("dpkg -P forebay")
		m.run("test -d /var/lib/forebay/wal -a ! -e /etc/forebay")
		m.run("dpkg -i /root/new.deb")
		m.awaitReady()
		m.audit()
		// dpkg asks debconf; an answer given before stands in for a person.
		m.run("echo 'forebay forebay/purge-data boolean true' | debconf-set-selections && dpkg -P forebay")
		m.run("test ! -e /var/lib/forebay")
	})
}
