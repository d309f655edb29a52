package raftstate

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
)

// A command in the replicated log, integers big-endian:
//
//	version  1 byte, commandVersion
//	kind     1 byte, which part and which of its commands: see part
//	request 16 bytes, random, the same when the command is tried again
//	stamp    8 bytes, cluster time in ms
//	body     as the kind has it
//	sum      4 bytes, CRC-32C of all before
const (
	commandVersion = 1
	commandHead    = 1 + 1 + 16 + 8
	commandSum     = 4
)

// requestID names one command through all of its tries.
type requestID [16]byte

// MarshalText implements encoding.TextMarshaler.
func (id requestID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *requestID) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(id) {
		return errors.New("not a request id")
	}
	_, err := hex.Decode(id[:], text)
	return err
}

type command struct {
	kind    uint8
	request requestID
	stamp   uint64
	body    []byte
}

var (
	errCommandDamaged = errors.New("damaged: its sum is wrong")
	errCommandShort   = errors.New("damaged: too short")
)

func sum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func (c command) encode() []byte {
	b := make([]byte, 0, commandHead+len(c.body)+commandSum)
	b = append(b, commandVersion, c.kind)
	b = append(b, c.request[:]...)
	b = binary.BigEndian.AppendUint64(b, c.stamp)
	b = append(b, c.body...)
	return binary.BigEndian.AppendUint32(b, sum(b))
}

// decodeCommand reads what encode wrote; the body shares b's memory.
func decodeCommand(b []byte) (command, error) {
	if len(b) < commandHead+commandSum {
		return command{}, errCommandShort
	}
	end := len(b) - commandSum
	if binary.BigEndian.Uint32(b[end:]) != sum(b[:end]) {
		return command{}, errCommandDamaged
	}
	if b[0] != commandVersion {
		return command{}, fmt.Errorf("version %d, this program knows %d", b[0], commandVersion)
	}
	return command{
		kind:    b[1],
		request: requestID(b[2:18]),
		stamp:   binary.BigEndian.Uint64(b[18:commandHead]),
		body:    b[commandHead:end],
	}, nil
}
