package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"strconv"
)

// A .mem file ends in one of three ways:
//
//	clean    zeros after the last transaction
//	torn     by a kill or a power cut in the middle of a transaction that was
//	         therefore never acknowledged
//	damaged  by a bit that flipped, or a page that was lost, later on
//
// Badger takes the third for the second, and drops the damaged entry and every
// transaction after it. The differences: transactions are written one after the
// other, each synced before the next begins, so nothing whole can follow a torn
// one; and what a torn one lacks is zeros, by whole sectors or to the end.

const sector = 512

// errCut says of a .mem file that it ends in a torn transaction.
var errCut = errors.New("it ends in the middle of a transaction")

// checkMem returns nil for a .mem file that ends clean, errCut for a torn one,
// and what is wrong with a damaged one.
func checkMem(data []byte) error {
	if len(data) < memHeader {
		if len(trimZeros(data)) == 0 {
			return nil
		}
		return fmt.Errorf("it has %d bytes", len(data))
	}
	if binary.BigEndian.Uint64(data) != 0 {
		return fmt.Errorf("%w: its head is not that of a file of ours", errDamaged)
	}
	var open uint64 // version of the transaction that has begun and not ended
	at := scanMem(data, memHeader, func(e memItem) {
		if open = e.version; e.last {
			open = 0
		}
	})
	data = data[:min(len(data), len(trimZeros(data))+crc32.Size)] // a sum may end in zeros
	if at >= len(trimZeros(data)) {
		if open != 0 {
			return errCut
		}
		return nil
	}
	return checkBreak(data, at, open)
}

// checkBreak judges what stands at a place where an entry should, in the
// transaction with that version, if one has begun.
func checkBreak(data []byte, at int, version uint64) error {
	next := resync(data, at+1)
	damaged := fmt.Errorf("%w: at byte %d an entry does not match its checksum; Badger would drop it and all after it", errDamaged, at)
	for from := next; from < len(data); {
		whole := 0
		end := scanMem(data, from, func(e memItem) {
			if whole++; version == 0 {
				version = e.version
			}
			if e.version != version {
				version = ^uint64(0)
			}
		})
		if version == ^uint64(0) {
			return damaged // another transaction follows
		}
		from = resync(data, end+1)
	}
	if next < len(data) {
		if zeroSector(data, at, next) {
			return errCut
		}
		return damaged
	}
	// Nothing whole follows. The entry was cut if its end was never written.
	_, size, ok := memSize(data[at:])
	sumAt := min(at+size-crc32.Size, len(data))
	var sum, written []byte
	if ok {
		sum = binary.BigEndian.AppendUint32(nil, crc32.Checksum(data[at:sumAt], castagnoli))
		written = trimZeros(data[sumAt:min(at+size, len(data))])
	}
	switch {
	case len(written) > 0 && bytes.HasPrefix(sum, written): // cut within its sum
		return errCut
	case version != 0 && nearly(data[at:], lastEntry(version)):
		return damaged
	case len(written) == 0 || zeroSector(data, at, min(at+size, len(data))):
		return errCut
	}
	return damaged
}

// lastEntry is the entry that ends a transaction.
func lastEntry(version uint64) []byte {
	key := binary.BigEndian.AppendUint64([]byte("!badger!txn"), ^version)
	value := strconv.FormatUint(version, 10)
	b := []byte{bitFinTxn, 0, byte(len(key)), byte(len(value)), 0}
	b = append(append(b, key...), value...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// nearly reports whether b begins with want, but for a few bits.
func nearly(b, want []byte) bool {
	if len(b) < len(want) {
		return false
	}
	differ := 0
	for i, w := range want {
		differ += bits.OnesCount8(b[i] ^ w)
	}
	return differ <= 8
}

// zeroSector reports whether some sector is all zeros between from and to.
func zeroSector(data []byte, from, to int) bool {
	for at := from; at < to; {
		end := min((at/sector+1)*sector, to)
		if end-at >= 8 && len(trimZeros(data[at:end])) == 0 {
			return true
		}
		at = end
	}
	return false
}

var zeros [4096]byte

// trimZeros cuts off zeros at the end: Badger's log files are mostly that.
func trimZeros(data []byte) []byte {
	for len(data) >= len(zeros) && bytes.Equal(data[len(data)-len(zeros):], zeros[:]) {
		data = data[:len(data)-len(zeros)]
	}
	for len(data) > 0 && data[len(data)-1] == 0 {
		data = data[:len(data)-1]
	}
	return data
}

// resync returns where the next entry of ours begins, at from or after it;
// len(data) if nowhere.
func resync(data []byte, from int) int {
	for at := from; at+2 < len(data); at++ {
		switch data[at] {
		case bitTxn, bitTxn | bitDelete, bitFinTxn:
		default:
			continue
		}
		if data[at+1] != 0 { // user meta
			continue
		}
		if e, _, ok := memEntry(data[at:]); ok && len(e.key) > 0 {
			return at
		}
	}
	return len(data)
}
