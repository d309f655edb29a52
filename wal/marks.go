package wal

import (
	"bytes"
	"encoding/binary"
	"sync"

	"forebay/wal/message"
)

// marks are places in the order of the parked keys below which nothing is left:
// one for what waits for a time, and one for each shelf. What came back leaves a
// tombstone in Badger until a compaction; without a mark each look would walk
// over all of them, and a long shelf would take the square of its length.
type marks struct {
	mu      sync.Mutex       // guards what follows
	regions map[uint64]*mark // by region
}

// mark is that of one region. Nothing of the region lies below both of these.
type mark struct {
	low []byte // a parked key
	put []byte // the lowest that was put there since the last look began; nil: none
}

// regionOf says where a parked key belongs: to a shelf, or to 0 for all times.
func regionOf(due uint64) uint64 {
	if due < shelfBase {
		return 0
	}
	return due
}

// startOf is the first key that a region could have.
func startOf(region uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixParked}, region)
}

// begin begins a look and returns from where.
func (m *marks) begin(region uint64) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.regions[region]
	if p == nil {
		if m.regions == nil {
			m.regions = map[uint64]*mark{}
		}
		p = &mark{low: startOf(region)}
		m.regions[region] = p
	}
	if p.put != nil && bytes.Compare(p.put, p.low) < 0 {
		p.low = p.put
	}
	p.put = nil
	return p.low
}

// low is where a region's first message is, or before it.
func (m *marks) low(region uint64) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.regions[region]
	switch {
	case p == nil:
		return startOf(region)
	case p.put != nil && bytes.Compare(p.put, p.low) < 0:
		return p.put
	}
	return p.low
}

// end ends a look that has left nothing below low; nil: nothing at all.
func (m *marks) end(region uint64, low []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.regions[region]
	switch {
	case low != nil:
		p.low = low
	case p.put != nil:
		p.low = p.put
	case region == 0:
		p.low = startOf(shelfBase)
	default:
		delete(m.regions, region)
	}
}

// note takes what the writer has made durable.
func (m *marks) note(due uint64, id message.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.regions[regionOf(due)]
	if p == nil {
		return // nobody has looked yet: a look begins at the start
	}
	key := parkedKey(nil, due, id)
	if p.put == nil || bytes.Compare(key, p.put) < 0 {
		p.put = key
	}
}

// due reports whether something may be due at now, in Unix ms.
func (m *marks) due(now uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.regions[0]
	return p == nil || dueOf(p.low) <= now || p.put != nil && dueOf(p.put) <= now
}

func dueOf(parked []byte) uint64 { return binary.BigEndian.Uint64(parked[1:]) }
