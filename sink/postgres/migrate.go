package postgres

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// The ways in which a database is unfit. They end Run: repeating cures nothing.
var (
	// ErrSchemaNewer: a newer version of this program has migrated the database.
	ErrSchemaNewer = errors.New("the database has a newer schema than this version knows: upgrade forebay to the version that made it, or restore a backup from before")
	// ErrSchemaChanged: a migration that was applied is not the one in this program.
	ErrSchemaChanged = errors.New("the database was migrated by another build: use the build that made it, or an empty database")
	// ErrServerTooOld: PostgreSQL before 13.
	ErrServerTooOld = errors.New("the server is older than PostgreSQL 13: upgrade it")
	// ErrEncoding: a database that cannot hold every text.
	ErrEncoding = errors.New("the encoding of the database is not UTF8: create a database with ENCODING 'UTF8'")
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationLock is the key of the advisory lock that migrations and new
// partitions take, so that of several appliances one works at a time.
const migrationLock = 0x666f7265626179 // "forebay"

// minServer is the oldest server, as server_version_num.
const minServer = 130000

// migration is one step of the schema. Files are named 0001_words.sql and never
// change after a release: their checksum stands in the database.
type migration struct {
	version  int
	name     string
	sql      string
	checksum string
}

// readMigrations reads the steps in order, which must be 1, 2, 3 …
func readMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, name := range names {
		number, title, _ := strings.Cut(strings.TrimSuffix(path.Base(name), ".sql"), "_")
		if version, err := strconv.Atoi(number); err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: want number %d", name, i+1)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{i + 1, title, string(text), hex.EncodeToString(sum[:])})
	}
	return all, nil
}

// migrate brings the schema up to date. Several appliances may do so at once.
// A crash leaves whole steps: each is a transaction.
func migrate(ctx context.Context, conn *pgx.Conn, steps []migration) (applied int, err error) {
	if err := checkServer(ctx, conn); err != nil {
		return 0, err
	}
	for {
		more, err := migrateStep(ctx, conn, steps)
		if err != nil || !more {
			return applied, err
		}
		applied++
	}
}

func checkServer(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var encoding string
	err := conn.QueryRow(ctx, "/* server */ SELECT current_setting('server_version_num')::int, current_setting('server_encoding')").Scan(&version, &encoding)
	switch {
	case err != nil:
		return fmt.Errorf("ask for the server's version: %w", err)
	case version < minServer:
		return fmt.Errorf("%w (it is %d)", ErrServerTooOld, version/10000)
	case encoding != "UTF8":
		return fmt.Errorf("%w (it is %s)", ErrEncoding, encoding)
	}
	return nil
}

// migrateStep applies the next step, if there is one, under the lock.
func migrateStep(ctx context.Context, conn *pgx.Conn, steps []migration) (more bool, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, fmt.Errorf("begin migration: %w", err)
	}
	defer tx.Rollback(ctx) // after a commit it does nothing
	done, err := appliedSteps(ctx, tx)
	if err != nil {
		return false, fmt.Errorf("read schema version: %w", err)
	}
	if len(done) > len(steps) {
		return false, fmt.Errorf("%w (schema %d, this version knows %d)", ErrSchemaNewer, len(done), len(steps))
	}
	for i, checksum := range done {
		if checksum != steps[i].checksum {
			return false, fmt.Errorf("%w (migration %d)", ErrSchemaChanged, i+1)
		}
	}
	if len(done) == len(steps) {
		return false, nil
	}
	step := steps[len(done)]
	if _, err := tx.Exec(ctx, step.sql); err != nil {
		return false, fmt.Errorf("apply migration %d: %w", step.version, err)
	}
	_, err = tx.Exec(ctx, "INSERT INTO schema_version (version, name, checksum) VALUES ($1, $2, $3)", step.version, step.name, step.checksum)
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("record migration %d: %w", step.version, err)
	}
	return true, nil
}

// appliedSteps returns the checksums of what was applied, in order. It takes the
// lock, and as long as it takes: another appliance may be migrating.
func appliedSteps(ctx context.Context, tx pgx.Tx) ([]string, error) {
	for _, sql := range []string{
		"SET LOCAL lock_timeout = 0",
		"SET LOCAL statement_timeout = 0",
		fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", migrationLock),
		`CREATE TABLE IF NOT EXISTS schema_version (
			version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`,
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	rows, err := tx.Query(ctx, "SELECT checksum FROM schema_version ORDER BY version")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
