package sinktest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// templateVersion is part of the template's name; raise it when what is below
// changes.
const templateVersion = 1

// template returns a data directory to copy from, and makes it when it is not
// there: initdb costs more than all the rest of a start. The template stays in
// the temporary directory for the next run, as a build cache does, under a name
// that says by which server and for whom it was made.
func (p *Postgres) template() (string, error) {
	version, err := p.command("initdb", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask initdb for its version: %w", err)
	}
	words := strings.Fields(string(version)) // initdb (PostgreSQL) 15.18 (Debian …)
	if len(words) < 3 {
		return "", fmt.Errorf("version of initdb: %q", version)
	}
	uid := os.Geteuid()
	if p.owner != nil {
		uid = int(p.owner.Uid)
	}
	name := fmt.Sprintf("forebay-sinktest-%d-%d-%s", templateVersion, uid, words[2])
	path := filepath.Join(os.TempDir(), name)
	if info, err := os.Lstat(path); err == nil {
		// Anybody may write to the temporary directory: trust only our own.
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(stat.Uid) != uid {
			return "", fmt.Errorf("%s is not a directory of user %d: remove it", path, uid)
		}
		return path, nil
	}
	return path, p.makeTemplate(path)
}

// makeTemplate builds the template beside its place and renames it: a template
// under its name is whole, and of two test binaries one wins.
func (p *Postgres) makeTemplate(path string) error {
	work, err := os.MkdirTemp("", "pginit")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	secret := filepath.Join(work, "password")
	if err := os.WriteFile(secret, []byte(password), 0o644); err != nil {
		return err
	}
	if p.owner != nil {
		if err := os.Chown(work, int(p.owner.Uid), int(p.owner.Gid)); err != nil {
			return err
		}
	}
	data := filepath.Join(work, "data")
	initdb := p.command("initdb", "-D", data, "-N", "-E", "UTF8", "--locale=C.UTF-8", "-U", superuser,
		"--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile="+secret)
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	// One statement a line: that is how single-user mode reads.
	single := p.command("postgres", "--single", "-D", data, "-c", "fsync=off", "postgres")
	single.Stdin = strings.NewReader("CREATE ROLE " + role + " LOGIN PASSWORD '" + password + "'\n" +
		"CREATE DATABASE " + database + " OWNER " + role + "\n")
	if out, err := single.CombinedOutput(); err != nil || strings.Contains(string(out), "ERROR") {
		return fmt.Errorf("create role and database: %v: %s", err, out)
	}
	if err := os.Rename(data, path); err != nil {
		if _, there := os.Stat(filepath.Join(path, "PG_VERSION")); there != nil {
			return fmt.Errorf("keep template: %w", err)
		}
	}
	return nil
}
