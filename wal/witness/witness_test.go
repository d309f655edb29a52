package witness_test

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forebay/appliance/appliancetest"
	"forebay/wal/witness"
)

const (
	recordSize = 1500 // so that most syncs write blocks that are new
	mapped     = 64 << 20
)

// told is what one run of syncs said.
type told struct {
	synced  int   // records that msync called durable
	checked int   // of them, those that the witness confirmed
	err     error // that ended the run
}

// syncUntilDead writes and syncs one record after another, as Badger does. It
// closes reached when so many are synced.
func syncUntilDead(m []byte, w *witness.Witness, many int, reached chan<- struct{}) (r told) {
	for i := 1; i*recordSize < len(m); i++ {
		binary.LittleEndian.PutUint64(m[(i-1)*recordSize:], uint64(i))
		if r.err = unix.Msync(m, unix.MS_SYNC); r.err != nil {
			return r
		}
		r.synced = i
		if r.err = w.Check(); r.err != nil {
			return r
		}
		if r.checked = i; i == many {
			close(reached)
		}
	}
	return r
}

// survived counts the records that are there.
func survived(t *testing.T, path string) (n int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for (n+1)*recordSize < len(data) && binary.LittleEndian.Uint64(data[n*recordSize:]) == uint64(n+1) {
		n++
	}
	return n
}

// round lets a process sync on a disk that breaks under it, and returns what it
// was told and what is there.
func round(t *testing.T, disk *appliancetest.Disk, breakIt func(*appliancetest.Disk), after int) (r told, there int) {
	t.Helper()
	path := filepath.Join(disk.Path, "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(mapped); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	w, err := witness.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, mapped, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	ended, reached := make(chan told), make(chan struct{})
	go func() { ended <- syncUntilDead(m, w, after, reached) }()
	<-reached
	breakIt(disk)
	r = <-ended
	if err := w.Check(); err == nil {
		t.Error("the witness believes in a file system that has failed")
	}
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	disk.Remount()
	there = survived(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	return r, there
}

// TestNoSyncIsBelievedThatIsNone: what the witness has confirmed is there after
// the file system has failed, in whatever way. What msync alone calls durable is
// the control: it is not always there (a kernel that has mended this shows 0).
func TestNoSyncIsBelievedThatIsNone(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for name, breakIt := range map[string]func(*appliancetest.Disk){
		"power cut":     (*appliancetest.Disk).CutPower,
		"journal fails": (*appliancetest.Disk).AbortJournal,
	} {
		t.Run(name, func(t *testing.T) {
			disk := appliancetest.NewDisk(t, 128)
			falsely, rounds := 0, 0
			for ; rounds < 40 && falsely < 2; rounds++ {
				r, there := round(t, disk, breakIt, 20+rnd.IntN(100))
				if r.synced == 0 || r.err == nil {
					t.Fatalf("the disk did not fail under a sync: %+v", r)
				}
				if r.synced > there {
					falsely++
				}
				if r.checked > there {
					t.Fatalf("round %d: %d records were confirmed, %d are there", rounds, r.checked, there)
				}
			}
			t.Logf("%d of %d last syncs were called a success and were none", falsely, rounds)
		})
	}
}

// TestAHealthyFileSystemIsBelieved: the look changes nothing of the file.
func TestAHealthyFileSystemIsBelieved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("what is in it"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := witness.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Check(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !after.ModTime().Equal(before.ModTime()) || after.Size() != before.Size() {
		t.Errorf("the file has changed: %v, %d bytes; before %v, %d", after.ModTime(), after.Size(), before.ModTime(), before.Size())
	}
	if _, err := witness.Open(path + "-missing"); err == nil {
		t.Error("a file that is not there is taken as a witness")
	}
}

func BenchmarkCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	w, err := witness.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	for b.Loop() {
		if err := w.Check(); err != nil {
			b.Fatal(err)
		}
	}
}
