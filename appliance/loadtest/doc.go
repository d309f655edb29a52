// Package loadtest sends messages to an appliance and measures how it answers:
// `forebay bench`, the benchmarks and the crash tests use it.
//
// # Open loop
//
// With a rate, message i is due at start + i/rate, whatever the appliance does.
// Any free connection takes the next message that is due, and its latency
// counts from the moment it was due, not from the moment it could be sent. So
// a stall of a second shows in the latency of every message that was due in
// that second, as it would to the clients that sent them. (Measuring from the
// actual sending hides all but one of them: "coordinated omission".) Both are
// reported: latency from due, service time from sent. Messages that were due
// before the end and never got a connection are counted as unsent.
//
// Without a rate each connection sends as soon as it has its answer: a closed
// loop. It finds the highest throughput; its latencies say little, as a slow
// answer slows the question down. The result is labelled so.
//
// # Cost
//
// The generator shares its machine with what it measures. So it speaks HTTP/1.1
// by itself, over one goroutine and 1 KiB for each connection: the requests are
// rendered before the start except for their reference number, and of an answer
// only what is needed is read.
//
// # What is sent
//
// Message i depends on Seed and i alone: its key, priority, size, and its
// client_ref, "bench-SEED-I", which tells every message of a run apart. A
// message is sent once and never again; one whose answer did not come may have
// been accepted or not.
package loadtest
