package web_test

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(closing{m}) }

// closing ends the Chromium of the tests when the last one has run.
type closing struct{ *testing.M }

func (c closing) Run() int {
	code := c.M.Run()
	if chromium.close != nil {
		chromium.close()
	}
	return code
}
