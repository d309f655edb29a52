package sink

import (
	"context"
	"errors"
	"net"
	"syscall"
)

// whyOf says in a few words why a call failed, for the breaker that opens for it:
// the class of the error, and nothing that a stranger has written or that names an
// address, an account or a secret.
func whyOf(err error) string {
	var fault interface{ fault() *Fault }
	if errors.As(err, &fault) {
		f := fault.fault().Failure
		why := f.Code
		if f.ChannelCode != "" {
			why += " (" + f.ChannelCode + ")"
		}
		if f.Message != "" {
			why += ": " + f.Message
		}
		return why
	}
	var timeout net.Error
	var number syscall.Errno
	var coded interface{ SQLState() string }
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.As(err, &number):
		return number.Error()
	case errors.As(err, &coded):
		return "the database answers SQLSTATE " + coded.SQLState()
	}
	return "the connection failed"
}
