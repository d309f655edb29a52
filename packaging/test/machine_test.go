// Package test installs the Debian package on a machine with a real systemd and
// does to it what operators and accidents do. It needs root, systemd-container
// and mmdebstrap; `make test` installs them.
package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a container in which systemd is the first process.
type machine struct {
	t    *testing.T
	root string
	init int // its first process, as seen from outside
}

// debian makes, once, the tree that machines start from: the release and the
// package sources of this host. Its name begins with a dot, so that ./... does not
// go through a whole Debian, nor into the /proc of one that is being made.
func debian(t *testing.T) string {
	t.Helper()
	tree, err := filepath.Abs("../../dist/.debian")
	must(t, "name the tree", err)
	if _, err := os.Stat(filepath.Join(tree, "done")); err == nil {
		return tree
	}
	must(t, "clear the tree", os.RemoveAll(tree))
	release, err := os.ReadFile("/etc/os-release")
	must(t, "read the release", err)
	suite := ""
	for line := range strings.Lines(string(release)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			suite = name
		}
	}
	args := []string{"--variant=minbase", "--include=systemd,systemd-sysv,dbus,debconf,init-system-helpers,procps", suite, tree}
	for _, file := range []string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"} {
		if _, err := os.Stat(file); err == nil {
			args = append(args, file)
			break
		}
	}
	output(t, exec.Command("mmdebstrap", args...))
	must(t, "mark the tree as whole", os.WriteFile(filepath.Join(tree, "done"), nil, 0o644))
	return tree
}

// boot starts a machine on a copy of the tree that vanishes with it.
func boot(t *testing.T) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test boots a machine: run it as root")
	}
	tree, dir := debian(t), t.TempDir()
	mount := func(source, target, kind, options string) {
		must(t, "make "+target, os.MkdirAll(target, 0o755))
		must(t, "mount "+target, syscall.Mount(source, target, kind, 0, options))
		t.Cleanup(func() { syscall.Unmount(target, syscall.MNT_DETACH) })
	}
	mount("tmpfs", dir+"/layer", "tmpfs", "mode=755")
	for _, d := range []string{"upper", "work"} {
		must(t, "make a layer", os.Mkdir(dir+"/layer/"+d, 0o755))
	}
	mount("overlay", dir+"/root", "overlay", "lowerdir="+tree+",upperdir="+dir+"/layer/upper,workdir="+dir+"/layer/work")

	m := &machine{t: t, root: dir + "/root"}
	var log bytes.Buffer
	cmd := exec.Command("systemd-nspawn", "--directory", m.root, "--register=no", "--keep-unit", "--boot", "--private-network", "--quiet", "--machine=forebay-"+strconv.Itoa(os.Getpid()))
	cmd.Stdout, cmd.Stderr = &log, &log
	leave := enterControlGroup(t)
	must(t, "start systemd-nspawn", cmd.Start())
	leave()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if m.init != 0 {
			syscall.Kill(m.init, syscall.SIGKILL)
		}
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the machine's console:\n%s", log.String())
		}
	})
	eventually(t, 2*time.Minute, "the machine runs", func() bool {
		// nspawn has another child before the one that stays.
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		pids := strings.Fields(string(children))
		if len(pids) != 1 {
			return false
		}
		m.init, _ = strconv.Atoi(pids[0])
		_, err := m.try("systemctl is-active --quiet multi-user.target")
		return err == nil
	})
	return m
}

// enterControlGroup moves this process to a group of its own while nspawn
// starts, which makes others beside it; leave goes back. Where systemd runs the
// host it does that itself.
func enterControlGroup(t *testing.T) (leave func()) {
	const hierarchy = "/sys/fs/cgroup/systemd"
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return func() {}
	}
	if _, err := os.Stat(hierarchy); err != nil {
		return func() {}
	}
	group := fmt.Sprintf("%s/forebay-test-%d", hierarchy, os.Getpid())
	must(t, "make a control group", os.MkdirAll(group+"/nspawn", 0o755))
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, "read the control group", err)
	back := hierarchy
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.SplitN(strings.TrimSpace(line), ":", 2)[1], "name=systemd:"); ok {
			back += path
		}
	}
	move := func(to string) {
		must(t, "enter "+to, os.WriteFile(to+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0o644))
	}
	move(group + "/nspawn")
	return func() { move(back) }
}

// try runs a shell command on the machine and returns what it printed.
func (m *machine) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := m.command(ctx, script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *machine) command(ctx context.Context, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(m.init), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "sh", "-c", script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "HOME=/root", "LC_ALL=C.UTF-8"}
	return cmd
}

// run is try for what must succeed.
func (m *machine) run(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if err != nil {
		journal, _ := m.try("journalctl --no-pager -n 40 -u 'forebay*'")
		m.t.Fatalf("%s: %v\n%s\n%s", script, err, out, journal)
	}
	return out
}

// fails is try for what must not.
func (m *machine) fails(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if !errors.As(err, new(*exec.ExitError)) {
		m.t.Fatalf("%s: %v, want it to fail\n%s", script, err, out)
	}
	return out
}

// copy brings a file onto the machine.
func (m *machine) copy(from, to string) {
	m.t.Helper()
	content, err := os.ReadFile(from)
	must(m.t, "read "+from, err)
	must(m.t, "write "+to, os.WriteFile(m.root+to, content, 0o644))
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}

func eventually(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-time.After(20 * time.Millisecond)
	}
}
