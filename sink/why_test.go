package sink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"forebay/wal/message"
)

type stateError struct{ error }

func (stateError) SQLState() string { return "57P03" }

func TestWhyOf(t *testing.T) {
	secret := errors.New("password=hunter2 host=10.0.0.7")
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"of a channel": {&Transient{Fault{Failure: message.Failure{Code: "channel_unavailable", ChannelCode: "503", Message: "The server is not available."}, Cause: secret}},
			"channel_unavailable (503): The server is not available."},
		"refused":   {&Down{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}, "connection refused"},
		"time-out":  {&Down{fmt.Errorf("ping: %w", context.DeadlineExceeded)}, "no answer in time"},
		"SQL state": {&Down{stateError{secret}}, "the database answers SQLSTATE 57P03"},
		"anything":  {&Down{secret}, "the connection failed"},
	} {
		if got := whyOf(test.err); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
