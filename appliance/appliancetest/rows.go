package appliancetest

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"forebay/sink/embedded"
	"forebay/wal/message"
)

// Row is a message as it stands in a store.
type Row struct {
	ID, Ref, Priority, Status, Body string
	Seq                             uint64
	StoredAt                        int64 // Unix µs
}

// PostgresRows reads every row of the database at url, in the order of
// acceptance, past the appliance's own code.
func PostgresRows(tb testing.TB, url string) []Row {
	tb.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		tb.Fatalf("connect to the database: %v", err)
	}
	defer conn.Close(ctx)
	result, err := conn.Query(ctx, `SELECT id::text, coalesce(client_ref, ''), priority, status, coalesce(body, ''), seq,
		(extract(epoch FROM stored_at) * 1000000)::bigint FROM messages ORDER BY seq`)
	if err != nil {
		tb.Fatalf("read the rows: %v", err)
	}
	rows, err := pgx.CollectRows(result, func(r pgx.CollectableRow) (row Row, err error) {
		err = r.Scan(&row.ID, &row.Ref, &row.Priority, &row.Status, &row.Body, &row.Seq, &row.StoredAt)
		return row, err
	})
	if err != nil {
		tb.Fatalf("read the rows: %v", err)
	}
	return rows
}

// EmbeddedRows reads every message of the embedded store in a data directory
// whose appliance is stopped.
func EmbeddedRows(tb testing.TB, dataDir string) []Row {
	tb.Helper()
	store, err := embedded.Open(embedded.Config{Dir: filepath.Join(dataDir, "store")})
	if err != nil {
		tb.Fatalf("open the store: %v", err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			tb.Errorf("close the store: %v", err)
		}
	}()
	var rows []Row
	q := message.Query{Limit: 1000}
	for {
		page, err := store.List(context.Background(), q)
		if err != nil {
			tb.Fatalf("list the store: %v", err)
		}
		for i := range page.Records {
			r := &page.Records[i]
			rows = append(rows, Row{ID: r.ID.String(), Ref: r.ClientRef, Priority: r.Priority.String(), Status: r.Status.String(),
				Body: r.Body, Seq: r.Seq, StoredAt: r.StoredAt.UnixMicro()})
		}
		if !page.More {
			return rows
		}
		q.Before = page.Records[len(page.Records)-1].ID
	}
}
