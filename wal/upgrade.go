package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dgraph-io/badger/v4"

	"forebay/wal/message"
)

// In a log of format 1 a message that waits has the key
//
//	1 byte    m
//	1 byte    lane
//	16 bytes  id
//
// and is moved to the key of today (lane.go), record and all, before anything else
// is looked at.
const formerMessageKeySize = 2 + idSize

// formerID returns the ID inside a message key of format 1.
func formerID(key []byte) (id message.ID, ok bool) {
	if len(key) != formerMessageKeySize || key[0] != prefixFormer {
		return id, false
	}
	id = message.ID(key[2:])
	return id, id.Valid() && key[1] == byte(id.Lane())
}

// upgrade brings a log of an older format up to date. A crash leaves some messages
// under their old keys and some under new ones, each under one, and the old format,
// so that the next Open goes on. Keys that are none of a message stay where they
// are, for the scan to name them.
func upgrade(db *badger.DB, cfg Config, mark tide) error {
	format, err := readFormat(db)
	if err != nil || format == 0 || format == formatVersion {
		return err
	}
	if format > formatVersion {
		return fmt.Errorf("the log has format %d, this program knows %d", format, formatVersion)
	}
	if err := roomToUpgrade(db, cfg, mark); err != nil {
		return err
	}
	// From here on an older program would take the log for a damaged one. Until then
	// it may have it back. A log that was robbed of its mark gets none.
	if mark.Format != 0 && mark.Format != formatVersion {
		mark.Format = formatVersion
		if err := writeTide(cfg.Dir, mark); err != nil {
			return err
		}
	}
	u := upgrader{db: db, commit: cfg.commit, maxBytes: maxTxnShare(cfg.MemTable) / 2, log: cfg.Logger, told: time.Now()}
	for from := []byte{prefixFormer}; from != nil && err == nil; {
		from, err = u.some(from)
	}
	if err == nil {
		err = u.update(func(txn *badger.Txn) error { return txn.Set(keyFormat, formatValue()) })
	}
	if err != nil {
		return fmt.Errorf("bring the log up to format %d: %w", formatVersion, err)
	}
	return nil
}

// readFormat returns 0 for a log that is new.
func readFormat(db *badger.DB) (format byte, err error) {
	err = db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(keyFormat)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			body, err := unseal(v, keyFormat)
			if err == nil && len(body) == 1 {
				format = body[0]
			}
			return nil // what is damaged the scan names
		})
	})
	return format, err
}

func formatValue() []byte {
	value := append(make([]byte, sealSize), formatVersion)
	seal(value, keyFormat)
	return value
}

// roomToUpgrade refuses where the disk could become full: what is moved takes its
// space twice until a compaction frees the old one. What was moved before a crash
// has taken it already.
func roomToUpgrade(db *badger.DB, cfg Config, mark tide) error {
	free, err := freeBytes(cfg.Dir)
	if err != nil {
		return err
	}
	used, err := usedBytes(dbDir(cfg.Dir))
	if err != nil || free >= used+reserve(cfg.MemTable) {
		return err
	}
	left, err := bytesToMove(db)
	if err != nil {
		return err
	}
	need := left + reserve(cfg.MemTable)
	if free >= need {
		return nil
	}
	otherwise := ""
	if mark.Format != formatVersion {
		otherwise = ", or let the version that wrote it drain it first"
	}
	return fmt.Errorf("the log is of an older format and needs %d MiB free to be brought up to format %d, %d MiB are: free some space%s",
		need>>20, formatVersion, free>>20, otherwise)
}

// bytesToMove is about what the messages that have their old keys will take anew.
func bytesToMove(db *badger.DB) (n int64, err error) {
	err = db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefixFormer}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			n += bytesOf(it.Item())
		}
		return nil
	})
	return n, err
}

// bytesOf is what a message takes under its new key, and the tombstone of the old one.
func bytesOf(item *badger.Item) int64 { return item.EstimatedSize() + 4*int64(messageKeySize) }

type upgrader struct {
	db       *badger.DB
	commit   func(*badger.Txn) error
	maxBytes int64 // of one transaction
	log      *slog.Logger
	moved    int
	told     time.Time // when it last said how many
}

func (u *upgrader) update(change func(*badger.Txn) error) error {
	txn := u.db.NewTransaction(true)
	defer txn.Discard()
	if err := change(txn); err != nil {
		return err
	}
	return u.commit(txn)
}

// some moves messages from a key on, as many as fit one transaction, and returns
// where to go on; nil: there are no more.
func (u *upgrader) some(from []byte) (next []byte, err error) {
	err = u.update(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefixFormer}})
		defer it.Close()
		left, moved := u.maxBytes, 0
		for it.Seek(from); it.Valid(); it.Next() {
			item := it.Item()
			id, ok := formerID(item.Key())
			if !ok {
				continue
			}
			size := bytesOf(item)
			if moved > 0 && (left < size || moved == int(u.maxBytes/1000)) {
				next = item.KeyCopy(nil)
				break
			}
			left, moved = left-size, moved+1
			if err := move(txn, item, id); err != nil {
				return err
			}
		}
		u.moved += moved
		return nil
	})
	if err == nil && time.Since(u.told) > 2*time.Second {
		u.told = time.Now()
		u.log.Info("the messages of an older log are moved to new keys", "moved", u.moved)
	}
	return next, err
}

func move(txn *badger.Txn, item *badger.Item, id message.ID) error {
	key := item.KeyCopy(nil)
	value, err := item.ValueCopy(nil)
	if err != nil {
		return fmt.Errorf("read key % x: %w", key, err)
	}
	return errors.Join(txn.Set(messageKey(nil, id), value), txn.Delete(key))
}
