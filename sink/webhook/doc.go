// Package webhook is the channel that posts a message to any HTTPS address, and
// the way that status callbacks leave the appliance.
//
// A request is signed by Standard Webhooks 1.0.0: webhook-id is the message's id
// and stays the same over all attempts, so that a receiver can tell a repeat;
// webhook-timestamp is the attempt's. While an account's secret is rotated a
// request carries two signatures.
//
// The address comes from a client of the appliance and is therefore hostile
// until shown otherwise:
//
//   - what is dialled is checked after the name was resolved and for each
//     connection (see guard), so a name that resolves to something else the
//     second time gains nothing;
//   - redirects are never followed, proxies of the environment never used;
//   - of an answer at most 16 KiB of header and 64 KiB of body are read, within
//     the time-out of the call; a connection whose answer was longer is closed;
//   - what an answer says reaches nobody but through its status and Retry-After.
//
// What an answer means is in classify.go; how long an endpoint may fail before it
// is switched off, and who hears of it on the way, in patience.go.
package webhook
