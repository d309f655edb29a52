// Package whatsapp is the channel over Meta's WhatsApp Business Cloud API: one
// POST for each message, one envelope for every error, and the status updates
// that Meta posts back.
//
// What decides is the error's code and never the HTTP status: Meta answers a
// throttle with 400 as well as with 429 (see codes.go, a row for each code that
// Meta documents). A 200 means that Meta has taken the message; whether it
// reached anyone comes later, as an update.
//
// The API has no idempotency: two equal calls are two messages, and the second
// costs the customer money. So a call that was written and not answered is
// unknown and not a failure, and a 2xx whose body cannot be read is sent, with no
// id of Meta's. Every call carries our id in biz_opaque_callback_data, and
// updates bring it back: that is how an update finds a message whose answer was
// lost, and one that it overtakes.
//
// The access token is read from its file again when the file changes, so that a
// new one needs no reload; see token.go.
package whatsapp
