package postgres

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"forebay/wal/message"
)

// A column of a batch travels as one array in PostgreSQL's binary form:
//
//	int32 dimensions = 1
//	int32 1 if there may be NULLs
//	int32 OID of the elements
//	int32 how many
//	int32 number of the first = 1
//	then for each: int32 length, or -1 for NULL, and its bytes
//
// Building it by hand into memory that is used again spares an insert of a
// thousand rows some ten thousand allocations.
type column struct {
	elem uint32 // OID of the elements
	n    uint32
	buf  []byte
}

const (
	arrayHeader = 20
	arrayCount  = 12 // offset of the number of elements
)

// reset empties the column. A buffer that one huge batch has made is given up.
func (c *column) reset(elem uint32) {
	if cap(c.buf) > maxKept {
		c.buf = nil
	}
	c.elem, c.n = elem, 0
	c.buf = append(c.buf[:0], make([]byte, arrayHeader)...)
}

const maxKept = 8 << 20

func (c *column) null() {
	c.n++
	c.buf = append(c.buf, 0xff, 0xff, 0xff, 0xff)
}

func (c *column) head(size int) {
	c.n++
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(size))
}

// text appends a string; an empty one is NULL.
func (c *column) text(s string) {
	if s == "" {
		c.null()
		return
	}
	c.required(s)
}

// required appends a string, also an empty one.
func (c *column) required(s string) {
	c.head(len(s))
	c.buf = append(c.buf, s...)
}

// bytes appends bytes; nil is NULL.
func (c *column) bytes(b []byte) {
	if b == nil {
		c.null()
		return
	}
	c.head(len(b))
	c.buf = append(c.buf, b...)
}

// id appends an id; a zero one is NULL.
func (c *column) id(id message.ID) {
	if id.IsZero() {
		c.null()
		return
	}
	c.head(len(id))
	c.buf = append(c.buf, id[:]...)
}

func (c *column) int8(v int64) {
	c.head(8)
	c.buf = binary.BigEndian.AppendUint64(c.buf, uint64(v))
}

func (c *column) int4(v int32) {
	c.head(4)
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(v))
}

func (c *column) bool(v bool) {
	c.head(1)
	if v {
		c.buf = append(c.buf, 1)
	} else {
		c.buf = append(c.buf, 0)
	}
}

// epochMillis is PostgreSQL's epoch, 2000-01-01, as Unix time in ms.
const epochMillis = 946684800000

// time appends a time, to the ms; a zero one is NULL.
func (c *column) time(t time.Time) {
	if t.IsZero() {
		c.null()
		return
	}
	c.int8((t.UnixMilli() - epochMillis) * 1000)
}

// encode appends the finished array.
func (c *column) encode(dst []byte) []byte {
	b := c.buf
	binary.BigEndian.PutUint32(b[0:], 1)
	binary.BigEndian.PutUint32(b[4:], 1)
	binary.BigEndian.PutUint32(b[8:], c.elem)
	binary.BigEndian.PutUint32(b[arrayCount:], c.n)
	binary.BigEndian.PutUint32(b[16:], 1)
	return append(dst, b...)
}

// arrayCodec is pgx's codec of an array type that takes a *column as well.
type arrayCodec struct{ pgtype.Codec }

func (arrayCodec) PreferredFormat() int16 { return pgtype.BinaryFormatCode }

func (a arrayCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(*column); ok && format == pgtype.BinaryFormatCode {
		return encodeColumn{}
	}
	return a.Codec.PlanEncode(m, oid, format, value)
}

type encodeColumn struct{}

func (encodeColumn) Encode(value any, buf []byte) ([]byte, error) {
	return value.(*column).encode(buf), nil
}

// registerTypes makes a connection take columns, and give times in UTC.
func registerTypes(m *pgtype.Map) {
	for _, oid := range []uint32{pgtype.UUIDArrayOID, pgtype.TextArrayOID, pgtype.JSONArrayOID, pgtype.ByteaArrayOID,
		pgtype.Int4ArrayOID, pgtype.Int8ArrayOID, pgtype.BoolArrayOID, pgtype.TimestamptzArrayOID} {
		if t, ok := m.TypeForOID(oid); ok {
			m.RegisterType(&pgtype.Type{Name: t.Name, OID: oid, Codec: arrayCodec{t.Codec}})
		}
	}
	m.RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC}})
}
