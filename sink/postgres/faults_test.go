package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestClassify(t *testing.T) {
	for code, want := range map[string]fault{
		"08000": transient, "08006": transient, "08P01": operator,
		"0A000": transient,
		"21000": operator, // a statement of ours that is wrong
		"22P05": rowFault, "22P02": rowFault, "22003": rowFault, "22021": rowFault, "22001": rowFault,
		"23502": rowFault, "23503": rowFault, "23505": rowFault, "23P01": rowFault,
		"23514": noPartition, // without a constraint's name
		"25006": transient, "25P02": operator, "25P03": transient,
		"26000": transient,
		"28000": operator, "28P01": operator,
		"3D000": operator, "3F000": operator,
		"40001": transient, "40P01": transient, "40003": transient,
		"42501": operator, "42P01": operator, "42703": operator, "42804": operator,
		"44000": rowFault,
		"53000": transient, "53100": transient, "53200": transient, "53300": transient, "53400": transient,
		"54000": rowFault, "54001": rowFault,
		"55000": transient, "55006": transient, "55P03": transient,
		"57014": transient, "57P01": transient, "57P02": transient, "57P03": transient, "57P04": operator, "57P05": transient,
		"58000": transient, "58030": transient,
		"F0000": operator, "HV000": operator,
		"P0000": operator, "P0001": rowFault, "P0004": rowFault,
		"XX000": operator, "XX001": operator, "XX002": operator,
		"": operator, "?": operator,
	} {
		err := fmt.Errorf("insert: %w", &pgconn.PgError{Severity: "ERROR", Code: code})
		if got := classify(err); got != want {
			t.Errorf("%q is %v, want %v", code, got, want)
		}
		if remedy(err) == "" {
			t.Errorf("%q has no remedy", code)
		}
	}
	if got := classify(&pgconn.PgError{Code: "23514", ConstraintName: "no_secrets"}); got != rowFault {
		t.Errorf("a broken CHECK is %v, want a row's fault", got)
	}
	for _, err := range []error{io.ErrUnexpectedEOF, net.ErrClosed, &net.OpError{Op: "dial", Err: errors.New("refused")}, context.DeadlineExceeded, errors.New("conn closed")} {
		if got := classify(err); got != transient {
			t.Errorf("%v is %v, want transient", err, got)
		}
	}
}

// TestDescribe: what a server says about a row stays on the server.
func TestDescribe(t *testing.T) {
	err := fmt.Errorf("insert: %w", &pgconn.PgError{Code: "23514", Message: "violates check constraint", ConstraintName: "no_secrets",
		Detail: "Failing row contains (private)", Where: "COPY messages, line 1: private", Hint: "private"})
	got := describe(err)
	if strings.Contains(got, "private") || !strings.Contains(got, "23514") || !strings.Contains(got, "no_secrets") {
		t.Errorf("described as %q", got)
	}
}

// TestWorthInsert: only what INSERT can tell more about is tried again.
func TestWorthInsert(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {io.EOF, false}, {&pgconn.PgError{Code: "23505"}, true}, {&pgconn.PgError{Code: "22021"}, true},
		{&pgconn.PgError{Code: "0A000"}, true}, {&pgconn.PgError{Code: "53100"}, false}, {&pgconn.PgError{Code: "23514"}, false},
		{&pgconn.PgError{Code: "23505", Severity: "FATAL"}, false}, {&pgconn.PgError{Code: "42501"}, false},
	} {
		if got := worthInsert(c.err); got != c.want {
			t.Errorf("worthInsert(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestStatementName(t *testing.T) {
	for sql, want := range map[string]string{"/* insert */ INSERT": "insert", insertSQL(): "insert", copySQL(): "copy", claimSQL: "claim",
		"": "", "/* ": "", "/*": "", "SELECT /* no */ 1": "", "/* open": "", "/* x */": "x"} {
		if got := statementName(sql); got != want {
			t.Errorf("name of %.40q = %q, want %q", sql, got, want)
		}
	}
}
