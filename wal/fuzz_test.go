package wal

import (
	"bytes"
	"hash/crc32"
	"testing"

	"forebay/wal/message"
)

// FuzzRecord opens every kind of value: none may panic, and what opens is sealed
// again to the same bytes.
func FuzzRecord(f *testing.F) {
	id := message.NewID(1, 2, 7, message.Low, 3)
	f.Add([]byte{}, id[:])
	f.Add(newRecord(message.Entry{ID: id, Seq: 9, Payload: []byte("payload")}), id[:])
	f.Add(newProgress(progressKey(nil, id), 5, []byte("state")), progressKey(nil, id))
	f.Add(claim{id: id, expiry: 7}.value([]byte("kacme\x00key")), []byte("kacme\x00key"))
	f.Add(head{seq: 1, id: id}.value(), keyHead)
	f.Add(new(bitmap).value(chunkKey(nil, 3)), chunkKey(nil, 3))
	f.Fuzz(func(t *testing.T, value, key []byte) {
		// The sum is made right half of the time, or the fuzzer gets nowhere.
		for _, v := range [][]byte{value, resealed(value, key)} {
			var kid message.ID
			copy(kid[:], key)
			if seq, payload, err := openRecord(v, kid); err == nil {
				same(t, "record", newRecord(message.Entry{ID: kid, Seq: seq, Payload: payload}), v)
				if recordSeq(v) != seq {
					t.Errorf("number %d, and %d unchecked", seq, recordSeq(v))
				}
			}
			if due, state, err := openProgress(v, key); err == nil {
				same(t, "progress", newProgress(key, due, state), v)
			}
			if c, err := openClaim(v, key); err == nil {
				same(t, "claim", c.value(key), v)
			}
			if h, err := openHead(v); err == nil {
				same(t, "head", h.value(), v)
			}
			if b, err := openBitmap(v, key); err == nil {
				same(t, "bitmap", b.value(key), v)
			}
			if b, err := openBitmap(resealed(v, key), key); err == nil {
				same(t, "bitmap", b.value(key), resealed(v, key))
			}
			recordSeq(v)
		}
		if got, err := recordID(key); err == nil {
			back := messageKey(nil, got)
			if key[0] == prefixParked {
				back = parkedKey(nil, 0, got)
				copy(back[1:9], key[1:9])
			}
			same(t, "key", back, key)
		}
	})
}

func resealed(value, salt []byte) []byte {
	if len(value) < sealSize {
		return value
	}
	v := bytes.Clone(value)
	seal(v, salt)
	return v
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: sealed again % x, was % x", what, got, want)
	}
}

// memFile makes a .mem file of whole transactions.
func memFile(transactions int) []byte {
	data := make([]byte, memHeader)
	for v := range uint64(transactions) {
		for i := range byte(3) {
			key := append([]byte{prefixMessage, i, byte(v)}, bytes.Repeat([]byte{0xff}, 7)...)
			entry := []byte{bitTxn, 0, byte(len(key) + 1), 5, 0}
			entry = append(append(append(entry, key...), ^byte(v+1)), "value"...)
			data = appendSum(data, entry)
		}
		last := lastEntry(v + 1)
		data = append(data, last...)
	}
	return append(data, make([]byte, 4096)...)
}

func appendSum(data, entry []byte) []byte {
	sum := crc32.Checksum(entry, castagnoli)
	return append(append(data, entry...), byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

// FuzzMem scans anything as a log file of Badger's: it must end, within the
// file, without a panic, and every entry found must be where it says.
func FuzzMem(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add(memFile(3), 0)
	f.Add(memFile(3)[:200], 30)
	f.Fuzz(func(t *testing.T, data []byte, from int) {
		if from < 0 || from > len(data) {
			from = min(memHeader, len(data))
		}
		total := 0
		end := scanMem(data, from, func(e memItem) { total += len(e.key) + len(e.value) })
		if end < from || end > len(data) || total > end-from {
			t.Fatalf("from %d to %d of %d, %d bytes of keys and values", from, end, len(data), total)
		}
		if next := resync(data, end); next < end || next > len(data) {
			t.Fatalf("resync from %d to %d of %d", end, next, len(data))
		}
		_ = checkMem(data)
		_ = wholeChange(data)
		w := newWreck(func(Finding) {})
		_ = w.readLog(data, func(rawEntry) {})
	})
}

// TestTornAndDamagedLogFilesAreToldApart for every cut and every flipped bit.
func TestTornAndDamagedLogFilesAreToldApart(t *testing.T) {
	whole := memFile(3)
	n := len(trimZeros(whole))
	if err := checkMem(whole); err != nil {
		t.Fatal(err)
	}
	two := len(trimZeros(memFile(2)))
	for at := memHeader; at < n; at++ {
		for bit := range 8 {
			hurt := bytes.Clone(whole)
			hurt[at] ^= 1 << bit
			if err := checkMem(hurt); err == nil || err == errCut {
				t.Errorf("bit %d of byte %d of %d flipped: %v", bit, at, n, err)
			}
		}
	}
	for cut := two + 1; cut < n; cut++ {
		torn := append(bytes.Clone(whole[:cut]), make([]byte, len(whole)-cut)...)
		if err := checkMem(torn); err != errCut && err != nil {
			t.Errorf("cut at %d of %d: %v", cut, n, err)
		}
	}
}
