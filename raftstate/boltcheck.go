package raftstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"
	"time"
)

// bbolt trusts its file: a page that points outside of it is a fault on the
// mapping, raised in a goroutine of bbolt's own where nobody can recover it. So
// before bbolt maps the file, all pages that can be reached are checked here
// with ordinary reads. Their layout, integers in the machine's order:
//
//	page    id u64 · flags u16 · count u16 · overflow u32 · elements
//	branch  pos u32 · key size u32 · page u64               per element
//	leaf    flags u32 · pos u32 · key size u32 · value size u32
//	bucket  root page u64 · sequence u64                    a value; root 0: the page follows in it
//	meta    magic u32 · version u32 · page size u32 · flags u32 · root bucket ·
//	        freelist u64 · high water u64 · transaction u64 · FNV-64a of all before
//
// pos counts from the element itself. Pages 0 and 1 are metas; the one with the
// higher transaction is in force, and the other is the one before it.
const (
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	boltPageHead = 16
	boltElement  = 16
	boltMetaSize = 64 // up to the sum

	boltBranch = 0x01
	boltLeaf   = 0x02

	boltBucketFlag = 0x01

	maxBoltDepth = 64
)

// openBolt opens raft.db for bbolt: locked, and with its pages checked. The lock
// is bbolt's own and stays with the file that is returned.
func openBolt(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f, lockWait); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 { // an empty file is a new one; whether it may be new, checkOwner knows
		err = checkBolt(f, info.Size())
	}
	if err != nil {
		return nil, errors.Join(&DamagedError{Path: path, Err: err}, f.Close())
	}
	return f, nil
}

func lockFile(f *os.File, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(deadline) {
			return ErrInUse
		}
		time.Sleep(wait / 20) // flock has no wait that ends
	}
}

// boltChecker walks over the pages of one file.
type boltChecker struct {
	file     io.ReaderAt
	pageSize int64
	pages    uint64 // how many are in use: ids below this
	seen     map[uint64]bool
}

func checkBolt(file io.ReaderAt, size int64) error {
	c := boltChecker{file: file, seen: map[uint64]bool{}}
	root, err := c.meta(size)
	if err != nil {
		return err
	}
	return c.page(root, nil, nil, 0)
}

// meta checks both meta pages and returns the root page in force. One bad meta
// is damage, though bbolt would go on with the other: its sum covers less than
// a sector, so no crash tears it, and the other is one committed change older.
func (c *boltChecker) meta(size int64) (root uint64, err error) {
	var newest uint64
	c.pageSize = int64(os.Getpagesize())
	for id := range uint64(2) {
		b := make([]byte, boltPageHead+boltMetaSize+8)
		if _, err := c.file.ReadAt(b, int64(id)*c.pageSize); err != nil {
			return 0, fmt.Errorf("root page %d: %w", id, err)
		}
		m := b[boltPageHead:]
		u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(m[at:]) }
		u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(m[at:]) }
		h := fnv.New64a()
		h.Write(m[:boltMetaSize-8])
		if u32(0) != boltMagic || u32(4) != boltVersion || u64(boltMetaSize-8) != h.Sum64() {
			return 0, fmt.Errorf("root page %d is damaged", id)
		}
		if id == 0 {
			c.pageSize = int64(u32(8)) // where page 1 is
		}
		if tx := u64(48); id == 0 || tx > newest {
			newest, root, c.pages = tx, u64(16), u64(40)
		}
	}
	if c.pageSize < 512 || c.pages > uint64(size/c.pageSize) {
		return 0, fmt.Errorf("file has %d bytes and should have %d pages of %d", size, c.pages, c.pageSize)
	}
	return root, nil
}

// page checks the tree under a page. All keys in it must be lo or above, and
// below hi; nil is no bound.
func (c *boltChecker) page(id uint64, lo, hi []byte, depth int) error {
	b, err := c.read(id)
	if err != nil {
		return err
	}
	if depth > maxBoltDepth {
		return fmt.Errorf("page %d: too deep", id)
	}
	if err := c.elements(b, lo, hi, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// read returns a page with what overflows from it.
func (c *boltChecker) read(id uint64) ([]byte, error) {
	if id < 2 || id >= c.pages {
		return nil, fmt.Errorf("page %d is none of %d", id, c.pages)
	}
	head := make([]byte, boltPageHead)
	if _, err := c.file.ReadAt(head, int64(id)*c.pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	overflow := uint64(binary.NativeEndian.Uint32(head[12:]))
	if got := binary.NativeEndian.Uint64(head); got != id || id+overflow >= c.pages {
		return nil, fmt.Errorf("page %d says that it is page %d and %d more, of %d", id, got, overflow, c.pages)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	b := make([]byte, int64(overflow+1)*c.pageSize)
	if _, err := c.file.ReadAt(b, int64(id)*c.pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return b, nil
}

// elements checks one page's elements and what they point to.
func (c *boltChecker) elements(b, lo, hi []byte, depth int) error {
	if len(b) < boltPageHead {
		return io.ErrUnexpectedEOF
	}
	flags, count := binary.NativeEndian.Uint16(b[8:]), int(binary.NativeEndian.Uint16(b[10:]))
	if flags != boltBranch && flags != boltLeaf || flags == boltBranch && count == 0 {
		return fmt.Errorf("has type %#x and %d elements", flags, count)
	}
	if boltPageHead+count*boltElement > len(b) {
		return fmt.Errorf("has %d elements in %d bytes", count, len(b))
	}
	key := func(i int) ([]byte, []byte, error) {
		at := boltPageHead + i*boltElement
		e := b[at:]
		pos, size, value := binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:]), uint32(0)
		if flags == boltLeaf {
			pos, size, value = binary.NativeEndian.Uint32(e[4:]), binary.NativeEndian.Uint32(e[8:]), binary.NativeEndian.Uint32(e[12:])
		}
		start := uint64(at) + uint64(pos)
		end := start + uint64(size) + uint64(value)
		if end > uint64(len(b)) {
			return nil, nil, fmt.Errorf("element %d ends at %d of %d bytes", i, end, len(b))
		}
		return b[start:][:size:size], b[start+uint64(size) : end], nil
	}
	for i := range count {
		k, value, err := key(i)
		if err != nil {
			return err
		}
		if bytes.Compare(k, lo) < 0 || i > 0 && bytes.Equal(k, lo) || hi != nil && bytes.Compare(k, hi) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
		if flags == boltLeaf {
			if binary.NativeEndian.Uint32(b[boltPageHead+i*boltElement:])&boltBucketFlag != 0 {
				if err := c.bucket(value, depth); err != nil {
					return fmt.Errorf("bucket %q: %w", k, err)
				}
			}
			lo = k
			continue
		}
		next := hi
		if i+1 < count {
			if next, _, err = key(i + 1); err != nil {
				return err
			}
		}
		if err := c.page(binary.NativeEndian.Uint64(b[boltPageHead+i*boltElement+8:]), k, next, depth+1); err != nil {
			return err
		}
		lo = k
	}
	return nil
}

func (c *boltChecker) bucket(value []byte, depth int) error {
	if len(value) < boltPageHead {
		return io.ErrUnexpectedEOF
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.page(root, nil, nil, depth+1)
	}
	return c.elements(value[boltPageHead:], nil, nil, depth+1)
}
