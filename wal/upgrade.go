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
// so that the next Open goes on.
func upgrade(db *badger.DB, cfg Config) error {
	format, err := readFormat(db)
	if err != nil || format == 0 || format == formatVersion {
		return err
	}
	if format > formatVersion {
		return fmt.Errorf("the log has format %d, this program knows %d", format, formatVersion)
	}
	if err := roomToUpgrade(cfg); err != nil {
		return err
	}
	u := upgrader{db: db, maxBytes: maxTxnShare(cfg.MemTable) / 2, log: cfg.Logger, told: time.Now()}
	for from := []byte{prefixFormer}; from != nil; {
		if from, err = u.some(from); err != nil {
			return fmt.Errorf("bring the log up to format %d: %w", formatVersion, err)
		}
	}
	return db.Update(func(txn *badger.Txn) error { return txn.Set(keyFormat, formatValue()) })
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
// space twice until a compaction frees the old one.
func roomToUpgrade(cfg Config) error {
	used, err := usedBytes(dbDir(cfg.Dir))
	if err != nil {
		return err
	}
	free, err := freeBytes(cfg.Dir)
	if err != nil {
		return err
	}
	if need := used + reserve(cfg.MemTable); free < need {
		return fmt.Errorf("the log in %s is of format 1 and needs %d MiB free to be brought up to format %d, %d MiB are: free some space, "+
			"or let the version that wrote it drain it first", cfg.Dir, need>>20, formatVersion, free>>20)
	}
	return nil
}

type upgrader struct {
	db       *badger.DB
	maxBytes int64 // of one transaction
	log      *slog.Logger
	moved    int
	told     time.Time // when it last said how many
}

// some moves messages from a key on, as many as fit one transaction, and returns
// where to go on; nil: there are no more.
func (u *upgrader) some(from []byte) (next []byte, err error) {
	err = u.db.Update(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefixFormer}})
		defer it.Close()
		left, moved := u.maxBytes, 0
		for it.Seek(from); it.Valid(); it.Next() {
			item := it.Item()
			size := item.EstimatedSize() + 4*int64(messageKeySize)
			if moved > 0 && (left < size || moved == int(u.maxBytes/1000)) {
				next = item.KeyCopy(nil)
				break
			}
			left, moved = left-size, moved+1
			if err := move(txn, item); err != nil {
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

func move(txn *badger.Txn, item *badger.Item) error {
	key := item.KeyCopy(nil)
	id, ok := formerID(key)
	if !ok {
		return fmt.Errorf("key % x is none of a message; see `forebay wal verify`", key)
	}
	value, err := item.ValueCopy(nil)
	if err != nil {
		return fmt.Errorf("read key % x: %w", key, err)
	}
	return errors.Join(txn.Set(messageKey(nil, id), value), txn.Delete(key))
}
