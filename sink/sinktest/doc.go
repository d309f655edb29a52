// Package sinktest holds what tests of the sink share: the suite of
// conformance tests that every sink.Store must pass, and a Store in memory,
// itself held to that suite, whose every call a test can delay or fail.
package sinktest
