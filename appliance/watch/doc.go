// Package watch looks at the appliance once a second and keeps what it saw: one
// sampler, whatever the number of viewers.
//
// # What it does with a sample
//
//   - The last hour is kept as points of five seconds each, so that a page that
//     is opened now shows the past (History).
//   - Each alert's rule is held against it (rules.go). A condition must hold for
//     a while before its alert fires, and must be gone for a while before it is
//     over (engine.go): what flaps does not ring twice.
//   - What fired or was resolved is sent to a webhook (sender.go). The sender has
//     a bounded queue and a goroutine of its own, so that a receiver that hangs
//     delays no sample and no alert.
//   - It is encoded once and handed to every viewer of the feed (feed.go). A
//     viewer that does not read is dropped; its browser comes back by itself.
//
// Nothing here is durable: after a restart the conditions are looked at anew,
// and an alert whose condition still holds fires again with a new Since.
package watch
