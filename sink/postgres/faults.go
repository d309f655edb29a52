package postgres

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// fault says whose fault an error of the database is, and so what to do next.
type fault uint8

const (
	transient   fault = iota + 1 // goes away by itself: repeat soon
	rowFault                     // lies in a row: the same row will be refused again
	operator                     // somebody has to do something: repeat slowly, tell loudly
	noPartition                  // the table has no partition for an id: create it, repeat
)

// String is for logs and tests.
func (f fault) String() string {
	return [...]string{transient: "transient", rowFault: "row", operator: "operator", noPartition: "no partition"}[f]
}

// ofCode are the codes that differ from their class, and ofClass the classes
// (the first two characters), of appendix A of PostgreSQL's manual. What is in
// neither is the operator's: something that nobody has foreseen.
var (
	ofCode = map[string]fault{
		"08P01": operator,  // protocol violation: a pooler that does not know what we send
		"0A000": transient, // a cached plan that a change of the table has made invalid
		"23505": rowFault,  // of a unique index that is not ours: ours do not raise it
		"25006": transient, // read-only: now a standby
		"25P03": transient, // idle in transaction for too long
		"25P04": transient, // transaction for too long
		"57P04": operator,  // database dropped
		"P0001": rowFault,  // raised by somebody's trigger
		"P0004": rowFault,  // asserted by somebody's trigger
	}
	ofClass = map[string]fault{
		"08": transient, // connection
		"22": rowFault,  // data
		"23": rowFault,  // integrity constraint
		"26": transient, // a prepared statement that is gone: a pooler has changed servers
		"28": operator,  // authorization
		"3D": operator,  // no such database
		"3F": operator,  // no such schema
		"40": transient, // rollback: deadlock, serialization
		"42": operator,  // no such table or column, no privilege
		"44": rowFault,  // WITH CHECK OPTION
		"53": transient, // resources: disk, memory, connections
		"54": rowFault,  // a limit of the program: too large for an index
		"55": transient, // not in the state that is needed: lock not available
		"57": transient, // intervention: shutting down, starting up, cancelled
		"58": transient, // system: I/O
	}
)

// classify says whose fault err is. What is no answer of the database, such as
// a connection that broke, is transient.
func classify(err error) fault {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return transient
	}
	if pgErr.Code == "23514" && pgErr.ConstraintName == "" {
		return noPartition // a CHECK constraint has a name, a partition's bounds have none
	}
	if f, ok := ofCode[pgErr.Code]; ok {
		return f
	}
	if f, ok := ofClass[pgErr.Code[:min(2, len(pgErr.Code))]]; ok {
		return f
	}
	return operator
}

// repeatAtOnce reports whether the same call may well succeed at once: two
// transactions met, or a pooler changed servers under a prepared statement.
func repeatAtOnce(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code {
	case "40001", "40P01", "0A000", "26000":
		return true
	}
	return false
}

// code is the SQLSTATE of an error, or empty.
func code(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// remedy says what an operator should do about an error.
func remedy(err error) string {
	c := code(err)
	switch {
	case strings.HasPrefix(c, "28"):
		return "check user and password of database.url and the server's pg_hba.conf"
	case strings.HasPrefix(c, "3D"), c == "57P04":
		return "create the database, or name another one in database.url"
	case strings.HasPrefix(c, "3F"):
		return "create the schema, or name another one as search_path in database.url"
	case c == "42501":
		return "grant the role of database.url what it lacks: it should own the tables"
	case strings.HasPrefix(c, "42"):
		return "somebody has changed the tables: restore them as the migrations made them"
	case c == "53300":
		return "raise max_connections of the server, or lower database.max_pool_size"
	case strings.HasPrefix(c, "53"):
		return "give the server more disk or memory"
	case c == "25006":
		return "database.url leads to a standby: name all hosts and target_session_attrs=read-write"
	case c == "08P01":
		return "is there a pooler in between? It may have to ignore startup parameters"
	case c == "":
		return "check that the server runs and can be reached"
	}
	return "see the server's log"
}

// describe is err in words for operators. Not all that a server says may be
// repeated: its detail and its context quote rows.
func describe(err error) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err.Error()
	}
	text := fmt.Sprintf("%s (SQLSTATE %s)", pgErr.Message, pgErr.Code)
	if pgErr.ConstraintName != "" {
		text += ", constraint " + pgErr.ConstraintName
	}
	return text
}

// refusal is the error of a statement that a row is at fault for.
type refusal struct{ err error }

func (r *refusal) Error() string { return "row refused: " + describe(r.err) }
func (r *refusal) Unwrap() error { return r.err }
