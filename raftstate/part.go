package raftstate

import "github.com/go-json-experiment/json/jsontext"

// part is one duty's share of the replicated state. Its commands and its section
// of a snapshot are its own; the log, the stamps, the remembered answers and the
// lock are the machine's. A part is deterministic: what it comes to follows from
// the commands and their stamps alone.
//
// The machine calls apply, snapshot and the function that restore returns under
// its lock; views of the part read under the same lock, or from something that
// apply publishes.
type part interface {
	// name is that of the part's section in a snapshot. It never changes.
	name() string
	// kinds names the commands that the part knows, for metrics and errors, by
	// their number in the log. Each part has a range; numbers are never reused:
	//
	//	 1–31 accounts   32–47 limiter   48–63 breakers   64–79 members and settings
	kinds() map[uint8]string
	// apply carries out a command. stamp is cluster time in ms and never
	// decreases. What refuses the command is part of the answer. An error means
	// that the body cannot be read, and stops the node.
	apply(kind uint8, body []byte, stamp uint64) (answer any, err error)
	// remembers reports whether the machine keeps the answers to commands of
	// that kind, and answers a repeat with them. It is false where the part
	// recognizes a repeat by itself.
	remembers(kind uint8) bool
	// decodeAnswer reads a remembered answer back. It stands in snapshots as
	// JSON; the two must be equal for all that callers do with them.
	decodeAnswer(kind uint8, text jsontext.Value) (any, error)
	// snapshot takes the part's state as it is now. What it returns shares
	// nothing that apply changes, and writes JSON values that begin with a
	// version and are the same for the same state.
	snapshot() section
	// restore reads what such a section wrote, and no further. The part changes
	// only when the machine calls replace, which it does when all parts could be
	// read. dec is nil for a snapshot from before there was such a part: it goes
	// back to what it was before the first command.
	restore(dec *jsontext.Decoder) (replace func(), err error)
}

// section is a part's state at one moment.
type section interface {
	Encode(*jsontext.Encoder) error
}
