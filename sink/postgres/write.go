package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// carefulBatches is for how many batches COPY is not tried after it has failed:
// what repeats one batch, such as a restart, repeats its neighbours too.
const carefulBatches = 16

// writer writes rows of a job, and sets the outcomes of those that are new.
type writer func(ctx context.Context, conn *pgx.Conn, j *job, rows []int) error

// write writes rows by COPY, which is the fastest way and fails as a whole when a
// row is there already or is refused. Then, and for a while after, it takes the
// way that says which rows are new, and that a refused row can be found by.
func (s *Store) write(ctx context.Context, conn *pgx.Conn, j *job, rows []int) error {
	if s.careful.Load() <= 0 || s.careful.Add(-1) < 0 {
		err := s.writeKeyed(ctx, conn, j, rows, s.copyRows)
		if !worthInsert(err) {
			return err
		}
		s.careful.Store(carefulBatches)
		j.reset(rows)
	}
	return s.writeKeyed(ctx, conn, j, rows, s.insertNew)
}

// worthInsert reports whether INSERT may succeed, or at least tell more, where
// COPY failed.
func worthInsert(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Severity == "FATAL" {
		return false
	}
	// 0A000: there are tables, those with row security, that COPY cannot write to.
	return classify(err) == rowFault || pgErr.Code == "0A000"
}

// copySQL begins a COPY of the columns of messages.
func copySQL() string {
	names := make([]string, len(messageColumns))
	for i, c := range messageColumns {
		names[i] = c.name
	}
	return "/* copy */ COPY messages (" + strings.Join(names, ", ") + ") FROM STDIN (FORMAT binary)"
}

// insertSQL inserts columns. The arrays are unnested in the select list, where
// they advance together without being laid down in between.
func insertSQL() string {
	var names, arrays []string
	for i, c := range messageColumns {
		names = append(names, c.name)
		arrays = append(arrays, fmt.Sprintf("unnest($%d::%s[])", i+1, c.typ))
	}
	return "/* insert */ INSERT INTO messages (" + strings.Join(names, ", ") + ") SELECT " + strings.Join(arrays, ", ") +
		" ON CONFLICT (id) DO NOTHING RETURNING id"
}

// byID sorts rows: two batches that overlap then take their locks in the same
// order, and neither has to be rolled back.
func (j *job) byID(rows []int) []int {
	j.sorted = append(j.sorted[:0], rows...)
	slices.SortFunc(j.sorted, func(a, b int) int { return j.batch[a].ID.Compare(j.batch[b].ID) })
	return j.sorted
}

// The binary form of COPY: a head, the rows, and an end. A row is the number of
// its fields, then each as in an array: its length, or -1 for NULL, and its bytes.
const (
	copyHead = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" // signature, flags, no extension
	copyEnd  = "\xff\xff"
)

// encodeCopy lays rows down for COPY.
func (j *job) encodeCopy(rows []int) []byte {
	c := &j.copied
	c.reset(0)
	c.buf = append(c.buf[:0], copyHead...)
	for _, i := range j.byID(rows) {
		c.buf = binary.BigEndian.AppendUint16(c.buf, uint16(len(messageColumns)))
		for k := range messageColumns {
			messageColumns[k].put(c, &j.batch[i], &j.results[i].State)
		}
	}
	c.buf = append(c.buf, copyEnd...)
	return c.buf
}

// copyRows is the writer by COPY.
func (s *Store) copyRows(ctx context.Context, conn *pgx.Conn, j *job, rows []int) error {
	data := j.encodeCopy(rows)
	began := time.Now()
	tag, err := conn.PgConn().CopyFrom(ctx, bytes.NewReader(data), s.copySQL)
	s.tracer.observe("copy", time.Since(began))
	if err != nil {
		j.copied.buf = nil // of a connection that broke, pgx may still be reading it
		return err
	}
	if tag.RowsAffected() != int64(len(rows)) {
		return nil // something swallowed some: none counts as new, and all are looked for
	}
	for _, i := range rows {
		j.markNew(i)
	}
	return nil
}

// insertNew is the writer by INSERT.
func (s *Store) insertNew(ctx context.Context, conn *pgx.Conn, j *job, rows []int) error {
	columns := make([]column, len(messageColumns))
	args := make([]any, len(messageColumns))
	sorted := j.byID(rows)
	for k := range messageColumns {
		spec := &messageColumns[k]
		columns[k].reset(spec.oid)
		for _, i := range sorted {
			spec.put(&columns[k], &j.batch[i], &j.results[i].State)
		}
		args[k] = &columns[k]
	}
	found, err := conn.Query(ctx, s.insertSQL, args...)
	if err != nil {
		return err
	}
	return j.collect(found)
}
