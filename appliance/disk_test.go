package appliance_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"forebay/appliance/appliancetest"
	"forebay/httpapi/admin"
)

// TestPowerCut takes the power of the disk away from a running process. What it
// had acknowledged by then is on the disk, and it acknowledges nothing after.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	disk := appliancetest.NewDisk(t, 2048)
	dir := filepath.Join(disk.Path, "data")
	p := appliancetest.StartProcess(t, dir)
	ledger := appliancetest.NewLedger()
	for round := range 2 {
		before := ledger.Count("202")
		loadWhile(ledger, p.Target(), 4, fmt.Sprintf("cut%d-", round), uint64(round), func() {
			appliancetest.Eventually(t, time.Minute, "messages are taken", func() bool { return ledger.Count("202") > before+200*(round+1) })
			disk.CutPower()
			// A log that can't sync must end its process; one that goes on would
			// acknowledge what is not there.
			ended := make(chan error, 1)
			go func() { ended <- p.Wait() }()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("forebay ended with 0 after its disk had failed")
				}
			case <-time.After(time.Minute):
				t.Errorf("forebay runs a minute after its disk has failed\n%s", p.Log())
				p.Kill()
				<-ended
			}
		})
		disk.Remount()
		p.Start()
		if err := ledger.LookUp(p.Target(), ledger.Acked(), ""); err != nil {
			t.Fatalf("after cut %d: %v\n%s", round, err, p.Log())
		}
		ledger.Repeat(p.Target())
	}
	awaitDrained(t, p.Admin())
	commandAudit(t, p)
	stopGracefully(t, p)
	must(t, "compare the store with what was sent", ledger.Compare(appliancetest.EmbeddedRows(t, dir)))
	t.Log(ledger.Summary())
}

// TestFullDisk fills the disk under load: the appliance refuses with 503
// storage_full, says so, lives on, and accepts again by itself when there is
// space. It starts on a full disk, too. Nothing that it accepted is lost.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := appliancetest.NewDisk(t, 2048)
	dir := filepath.Join(disk.Path, "data")
	p := appliancetest.StartProcess(t, dir, "FOREBAY_BUFFER_MAX_DISK_BYTES=512MiB", "FOREBAY_BUFFER_CAPACITY=200")
	ledger := appliancetest.NewLedger()
	unready := func() bool {
		var r admin.Readiness
		status, err := p.Target().Get("/readyz", &r)
		return err == nil && status == http.StatusServiceUnavailable && r.Status == admin.Unready && r.Checks["disk"].Status == "failed"
	}
	accepts := func(ref string) func() bool {
		n := 0
		return func() bool {
			n++
			return ledger.Submit(p.Target(), appliancetest.Submission{Ref: fmt.Sprint(ref, n), Body: "b"}).Status == http.StatusAccepted
		}
	}
	loadWhile(ledger, p.Target(), 8, "full-", 1, func() {
		appliancetest.Eventually(t, time.Minute, "messages are taken", func() bool { return ledger.Count("202") > 300 })
		appliancetest.Eventually(t, time.Minute, "refused with 503 storage_full", func() bool {
			disk.Fill(64 << 20) // again and again: whoever fills a disk takes what the ballast gives, too
			return ledger.Count("503 storage_full") > 100
		})
		appliancetest.Eventually(t, time.Minute, "/readyz is unready for the disk", unready)
		must(t, "look up on the full disk", ledger.LookUp(p.Target(), ledger.Acked(), ""))
		disk.Empty()
		before := ledger.Count("202")
		appliancetest.Eventually(t, time.Minute, "accepted again", func() bool { return ledger.Count("202") > before+300 })
	})
	// Before the disk is full, what is not critical is shed.
	must(t, "the answers", checkOutcomes(ledger, "202", "503 storage_full", "503 overloaded"))
	awaitDrained(t, p.Admin())

	appliancetest.Eventually(t, time.Minute, "the ballast is laid again", func() bool {
		_, err := os.Stat(filepath.Join(dir, "wal", "BALLAST"))
		return err == nil
	})
	p.Kill()
	refused := ledger.Count("503 storage_full")
	disk.Fill(0)
	p.Spawn()
	defer func() {
		if t.Failed() {
			t.Logf("end of the log:\n%s", p.Log())
		}
	}()
	// The ballast has been given up for the start; what it held is not for taking.
	accepted, onFull := accepts("on-full-"), func() bool { return ledger.Count("503 storage_full") > refused }
	appliancetest.Eventually(t, time.Minute, "refused with 503 storage_full after the start", func() bool { accepted(); return onFull() })
	appliancetest.Eventually(t, time.Minute, "/readyz is unready for the disk after the start", unready)
	disk.Empty()
	appliancetest.Eventually(t, time.Minute, "accepted again after the start on a full disk", accepts("again-"))
	must(t, "look up all", ledger.LookUp(p.Target(), ledger.Acked(), ""))
	awaitDrained(t, p.Admin())
	commandAudit(t, p)
	stopGracefully(t, p)
	must(t, "compare the store with what was sent", ledger.Compare(appliancetest.EmbeddedRows(t, dir)))
	t.Log(ledger.Summary())
}
