package wal

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"forebay/wal/message"
)

const tideName = "TIDE"

// tide is the mark on the wall: how high the log has surely stood. It lives in
// a file of its own, so that a log which Badger opens short can be told from a
// log which is short. One line of JSON, a space, and its CRC-32C in hex.
type tide struct {
	Format   int                       `json:"format"`
	Node     uint16                    `json:"node"`
	Seq      uint64                    `json:"seq"`      // highest durable sequence number
	ID       message.ID                `json:"id"`       // the ID issued with it
	Lowest   [message.Lanes]message.ID `json:"lowest"`   // per lane: no live record is below
	MemTable int64                     `json:"memtable"` // Badger can't open a log with smaller ones
	Open     bool                      `json:"open"`     // the log runs, or was killed: it has a log file
}

// writeTide replaces the file: write, sync, rename, sync the directory.
func writeTide(dir string, t tide) error {
	line, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode tide mark: %w", err)
	}
	line = fmt.Appendf(line, " %08x\n", crc32.Checksum(line, castagnoli))
	return replaceFile(filepath.Join(dir, tideName), line)
}

// readTide returns fs.ErrNotExist when there is none.
func readTide(dir string) (tide, error) {
	var t tide
	path := filepath.Join(dir, tideName)
	data, err := os.ReadFile(path)
	if err != nil {
		return t, err
	}
	var sum uint32
	n := len(data) - len(" 01234567\n")
	if n < 0 {
		return t, fmt.Errorf("%w: %s is cut short", errDamaged, path)
	}
	if _, err := fmt.Sscanf(string(data[n:]), " %08x\n", &sum); err != nil || sum != crc32.Checksum(data[:n], castagnoli) {
		return t, fmt.Errorf("%w: %s: the checksum does not match", errDamaged, path)
	}
	if err := json.Unmarshal(data[:n], &t); err != nil {
		return t, fmt.Errorf("%w: %s: %w", errDamaged, path, err)
	}
	if t.Format < 1 || t.Format > formatVersion {
		return t, fmt.Errorf("%s: format %d, this program knows %d", path, t.Format, formatVersion)
	}
	return t, nil
}

func replaceFile(path string, data []byte) (err error) {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeIfThere removes a file that need not exist.
func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
