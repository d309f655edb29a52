package sinktest

import (
	"io"
	"log"
)

// quietLog is for servers that report every connection a test cuts.
func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }
