package appliance_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/appliance"
	"forebay/appliance/appliancetest"
	"forebay/wal/message"
)

// TestBackupUnderLoad takes a backup while messages come in and wait, restores
// it elsewhere and starts there: keys work, what was accepted before the backup
// is there, what waited drains, and what is in the database already is not there
// twice. Of a database that went on after the backup no number is given out again.
func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, w world) {
		var options []appliancetest.Option
		if w.pg != nil {
			options = append(options, appliancetest.WithPostgres(w.pg.URL()))
		}
		first := appliancetest.Start(t, options...)
		before, during := appliancetest.NewLedger(), appliancetest.NewLedger()
		sendAll(before, first.Target(), makeSubmissions("stored-", 1, slices.Repeat([]int{700}, 300), message.Lanes), 8)
		awaitDrained(t, first.Admin)
		if w.pg != nil {
			w.pg.Pause() // so that these wait in the log
		}
		sendAll(before, first.Target(), makeSubmissions("waiting-", 2, slices.Repeat([]int{700}, 300), message.Lanes), 8)
		file := filepath.Join(t.TempDir(), "backup.zip")
		loadWhile(during, first.Target(), 4, "during-", 3, func() {
			appliancetest.Eventually(t, time.Minute, "messages are taken", func() bool { return during.Count("202") > 50 })
			backUp(t, first, file)
		})
		if w.pg != nil {
			w.pg.Resume()
		}
		key := first.Key
		must(t, "stop", first.Stop()) // it goes on for a while, as a real one would have

		c := appliancetest.Config(filepath.Join(t.TempDir(), "data"))
		for _, o := range options {
			o(&c)
		}
		_, err := appliance.Restore(context.Background(), c, file)
		must(t, "restore", err)
		second := appliancetest.StartIn(t, c)
		old := second.Target()
		old.Key = key
		must(t, "look up with the old key", before.LookUp(old, before.Acked(), ""))
		awaitDrained(t, second.Admin)
		must(t, "look up all, drained", before.LookUp(old, before.Acked(), "stored"))
		after := appliancetest.NewLedger()
		sendAll(after, old, makeSubmissions("after-", 4, slices.Repeat([]int{700}, 100), message.Lanes), 8)
		awaitDrained(t, second.Admin)
		checkAudit(t, second.Admin)
		must(t, "stop", second.Stop())
		rows := w.rows(t, c.DataDir)
		must(t, "what was accepted before the backup", before.Compare(of(rows, "stored-", "waiting-")))
		must(t, "what was accepted after the restore", after.Compare(of(rows, "after-")))
		numbers := map[uint64]string{}
		for _, row := range rows {
			if other := numbers[row.Seq]; other != "" {
				t.Fatalf("number %d stands for %s and for %s", row.Seq, other, row.Ref)
			}
			numbers[row.Seq] = row.Ref
		}
		refs := map[string]bool{}
		for _, row := range of(rows, "during-") {
			if refs[row.Ref] {
				t.Errorf("%s is there twice", row.Ref)
			}
			refs[row.Ref] = true
		}
		t.Logf("%d of %d that came in during the backup are there", len(refs), during.Count("202"))
	})
}

func backUp(t *testing.T, n *appliancetest.Node, file string) {
	t.Helper()
	f, err := os.Create(file)
	must(t, "make a file", err)
	defer f.Close()
	_, err = n.Admin.Backup(context.Background(), f)
	must(t, "back up", err)
}

// of are the rows whose client_ref begins with one of these.
func of(rows []appliancetest.Row, prefixes ...string) (some []appliancetest.Row) {
	for _, row := range rows {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(row.Ref, p) }) {
			some = append(some, row)
		}
	}
	return some
}

// TestRestoreRefuses: over data, and from what is no whole backup.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	n := appliancetest.Start(t)
	submit(t, n, `{"channel":"store","body":"b"}`, "Prefer", "wait=10")
	file := filepath.Join(t.TempDir(), "backup.zip")
	backUp(t, n, file)
	must(t, "stop", n.Stop())
	over := appliancetest.Config(n.Dir())
	if _, err := appliance.Restore(context.Background(), over, file); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("over data: %v", err)
	}
	whole, err := os.ReadFile(file)
	must(t, "read the backup", err)
	flipped := slices.Clone(whole)
	flipped[len(flipped)/2] ^= 4
	for name, content := range map[string][]byte{"nothing": nil, "half": whole[:len(whole)/2], "a flipped bit": flipped} {
		must(t, "write", os.WriteFile(file, content, 0o600))
		c := appliancetest.Config(filepath.Join(t.TempDir(), "data"))
		if _, err := appliance.Restore(context.Background(), c, file); err == nil {
			t.Errorf("%s: no error", name)
		}
		if entries, _ := os.ReadDir(c.DataDir); len(entries) > 0 {
			t.Errorf("%s left %d entries", name, len(entries))
		}
	}
}
