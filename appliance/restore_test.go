package appliance_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/appliance/appliancetest"
	"forebay/sink/sinktest"
	"forebay/wal/message"
)

// TestRestoreAsksTheDatabase walks the manual's restore on a real process whose
// database is named by a file, as it is in production: the restored log goes on
// behind what the database has. Where that file cannot be read nothing is
// restored, for the numbers would be given out again.
func TestRestoreAsksTheDatabase(t *testing.T) {
	t.Parallel()
	pg := sinktest.StartPostgres(t)
	url := filepath.Join(t.TempDir(), "database_url")
	must(t, "write the address", os.WriteFile(url, []byte(pg.URL()+"\n"), 0o600))
	dir := filepath.Join(t.TempDir(), "data")
	p := appliancetest.StartProcess(t, dir, "FOREBAY_DATABASE_URL_FILE="+url, "FOREBAY_DATABASE_MIN_POOL_SIZE=1", "FOREBAY_DATABASE_MAX_POOL_SIZE=8")
	send := func(prefix string) {
		l := appliancetest.NewLedger()
		sendAll(l, p.Target(), makeSubmissions(prefix, 1, make([]int, 50), message.Lanes), 4)
		a := p.Admin()
		defer a.Close()
		awaitDrained(t, a)
	}
	send("before-")
	backup := filepath.Join(t.TempDir(), "forebay.zip")
	if out, err := p.Command("backup", backup).CombinedOutput(); err != nil {
		t.Fatalf("backup: %v\n%s", err, out)
	}
	send("after-")
	p.Kill()
	must(t, "lose the disk", os.RemoveAll(dir))

	away := url + ".away"
	must(t, "take the address away", os.Rename(url, away))
	if out, err := p.Command("restore", backup).CombinedOutput(); err == nil || !strings.Contains(string(out), "database.url_file") {
		t.Errorf("restore without the database's address: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "wal")); err == nil {
		t.Error("it has restored all the same")
	}
	must(t, "put it back", os.Rename(away, url))
	out, err := p.Command("restore", backup, "--output", "json").Output()
	must(t, "restore", err)
	var report struct {
		LastSeq uint64 `json:"last_seq"`
	}
	must(t, "read the report", json.Unmarshal(out, &report))
	if report.LastSeq < 100 {
		t.Errorf("the restored log goes on behind number %d, and the database has 100", report.LastSeq)
	}
	p.Start()
	send("again-")
	commandAudit(t, p)
}
