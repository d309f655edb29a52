// Package email is the channel to an SMTP relay, over connections that are kept.
//
// A mail has one recipient, for a relay that refuses one of several recipients
// refuses the whole mail. Its Message-ID is made of our id and the same over all
// attempts, so that receivers who look can tell a repeat.
//
// What decides is the relay's reply code and, where it has one, its enhanced
// code (RFC 3463); see classify.go. Of a connection that was lost the moment
// counts: before the end of the mail nothing was taken and it is tried again;
// after it, with the reply to the final dot missing, nobody knows, and the
// outcome is unknown. The library reports both as "not temporary".
//
// A connection belongs to one attempt at a time. It is used again until it is a
// few minutes old, has carried a hundred mails, has lain idle, or something on
// it went wrong. One that the relay has closed while it lay idle costs no
// attempt: nothing of the mail had gone, so it goes over a new one.
//
// Nothing that a client sends can become a header of its own: addresses and
// unsubscribe links are checked to the character, and everything else is encoded
// by the library.
package email
