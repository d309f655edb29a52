package wal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// A backup is a stream:
//
//	8 bytes   "FBWAL\x00\x00\x01"
//	2 bytes   node
//	          chunks: length (4 bytes, big endian, above 0), CRC-32C (4 bytes),
//	          that many bytes of Badger's own backup format
//	4 bytes   0
//	32 bytes  SHA-256 of everything before
//
// Chunks have sums of their own so that no damaged byte reaches Badger, which
// believes the lengths it reads.
const (
	backupMagic = "FBWAL\x00\x00\x01"
	backupChunk = 1 << 20
)

// Backup writes a consistent copy of the log, as of one commit, while it runs.
func (l *Log) Backup(ctx context.Context, w io.Writer) error {
	db, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release()
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	head := binary.BigEndian.AppendUint16([]byte(backupMagic), l.cfg.Node)
	if _, err := out.Write(head); err != nil {
		return err
	}
	stream := db.NewStream()
	stream.LogPrefix = "backup"
	stream.NumGo = 1 // each goroutine would read as of a moment of its own
	c := &chunkWriter{w: out, ctx: ctx}
	if _, err := stream.Backup(c, 0); err != nil {
		if c.err != nil {
			err = c.err // Badger makes a canceled context of it
		}
		return fmt.Errorf("back up the log: %w", err)
	}
	if err := c.close(); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

type chunkWriter struct {
	w   io.Writer
	ctx context.Context
	buf []byte
	err error // the first
}

func (c *chunkWriter) Write(p []byte) (n int, err error) {
	defer func() {
		if c.err == nil {
			c.err = err
		}
	}()
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), backupChunk-len(c.buf))
		c.buf, rest = append(c.buf, rest[:n]...), rest[n:]
		if len(c.buf) == backupChunk {
			if err := c.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (c *chunkWriter) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(c.buf)))
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(c.buf, castagnoli))
	if _, err := c.w.Write(head); err != nil {
		return err
	}
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

func (c *chunkWriter) close() error {
	if err := c.flush(); err != nil {
		return err
	}
	_, err := c.w.Write(make([]byte, 4))
	return err
}

// Restore makes a log in dir, which must be empty or not there, from a backup. It is
// verified to its last byte before it is put in place. Messages that were
// complete by the time of the restore are handed out again; the store knows
// them. The log goes on behind what its node is known to have issued since; zero:
// nothing is.
func Restore(r io.Reader, dir string, since Issued) (Summary, error) {
	if err := makeWay(dir); err != nil {
		return Summary{}, err
	}
	fresh := filepath.Clean(dir) + ".restored"
	if err := os.RemoveAll(fresh); err != nil {
		return Summary{}, err
	}
	defer os.RemoveAll(fresh)
	if err := loadBackup(r, fresh, since); err != nil {
		return Summary{}, fmt.Errorf("restore the log: %w", err)
	}
	s, err := Verify(fresh, func(Finding) {})
	if err != nil {
		return s, err
	}
	if s.Grave > 0 {
		return s, fmt.Errorf("restore the log: the backup has %d grave findings", s.Grave)
	}
	if err := os.Rename(fresh, dir); err != nil { // it fails if anything is there by now
		return s, err
	}
	return s, syncDir(filepath.Dir(filepath.Clean(dir)))
}

// makeWay removes dir if it is empty, and refuses otherwise.
func makeWay(dir string) error {
	for _, d := range []string{dbDir(dir), dir} {
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is not empty; move what is there away first: %w", dir, err)
		}
	}
	return nil
}

func loadBackup(r io.Reader, dir string, since Issued) (err error) {
	in := &chunkReader{sum: sha256.New()}
	in.r = io.TeeReader(r, in.sum)
	var start [len(backupMagic) + 2]byte
	if _, err := io.ReadFull(in.r, start[:]); err != nil || string(start[:len(backupMagic)]) != backupMagic {
		return errors.New("this is not a backup of a log")
	}
	node := binary.BigEndian.Uint16(start[len(backupMagic):])
	cfg := Config{Dir: dir, Node: node}.withDefaults()
	if err := os.MkdirAll(dbDir(dir), 0o700); err != nil {
		return err
	}
	w := newWatch(slog.New(slog.DiscardHandler))
	db, err := openBadger(dir, cfg.badgerOptions(w))
	if err != nil {
		return err
	}
	err = db.Load(in, 16)
	var h head
	if err == nil {
		if _, err = io.Copy(io.Discard, in); err == nil {
			err = in.verify(r)
		}
	}
	if err == nil {
		h, err = loadHead(db)
	}
	if err == nil && (since.Seq > h.seq || since.ID.Compare(h.id) > 0) {
		h, err = advance(db, h, since)
	}
	if err = errors.Join(err, db.Close(), w.err()); err != nil {
		return err
	}
	return writeTide(dir, tide{Format: formatVersion, Node: node, Seq: h.seq, ID: h.id, MemTable: cfg.MemTable})
}

func loadHead(db *badger.DB) (h head, err error) {
	err = db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(keyHead)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil // an empty log
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			h, err = openHead(v)
			return err
		})
	})
	return h, err
}

// chunkReader undoes chunkWriter.
type chunkReader struct {
	r    io.Reader
	sum  hash.Hash
	buf  []byte // a chunk, checked
	left []byte // of buf
	done bool
}

func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.left) == 0 {
		if c.done {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, cutShort(err)
		}
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

func (c *chunkReader) next() error {
	var head [8]byte
	if _, err := io.ReadFull(c.r, head[:4]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head[:])
	if c.done = size == 0; c.done {
		return nil
	}
	if size > backupChunk {
		return errBackupDamaged
	}
	if _, err := io.ReadFull(c.r, head[4:]); err != nil {
		return err
	}
	c.buf = append(c.buf[:0], make([]byte, size)...)
	if _, err := io.ReadFull(c.r, c.buf); err != nil {
		return err
	}
	if crc32.Checksum(c.buf, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return errBackupDamaged
	}
	c.left = c.buf
	return nil
}

var errBackupDamaged = errors.New("the backup is damaged: its checksum does not match")

// verify compares the sum; r is the stream without the tee.
func (c *chunkReader) verify(r io.Reader) error {
	want := c.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		return cutShort(err)
	}
	if string(got) != string(want) {
		return errBackupDamaged
	}
	return nil
}

func cutShort(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("the backup is cut short")
	}
	return err
}
