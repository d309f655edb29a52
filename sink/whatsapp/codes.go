package whatsapp

import (
	"net/http"
	"time"

	"forebay/sink"
	"forebay/wal/message"
)

// class is what an error of the Graph API means for the message and the channel.
type class uint8

const (
	permanent       class = iota + 1 // this message never goes
	transient                        // try again; the service may be ill
	brief                            // try again, a few times only: may be the request's own fault
	slow                             // try again, in minutes
	throttleNumber                   // the sending number is too fast
	throttlePair                     // too many to this recipient
	throttleAccount                  // the app or business account is over its limit
	accountStop                      // nothing goes until somebody acts
	later                            // not today: reported as failed
)

// row is one code of Meta's list of errors.
type row struct {
	code     int
	class    class
	ours     string // stable code that clients see
	category string
	text     string // for the sender
}

// briefAttempts is how often a fault of class brief is tried.
const briefAttempts = 3

// The waits that Meta names for its own states.
const (
	syncWait        = 2 * time.Minute  // a template that is still syncing: up to 10 minutes
	maintenanceWait = 60 * time.Second // a number that is being upgraded: up to a minute
	accountWait     = 5 * time.Minute
	misuseWait      = time.Hour
)

const (
	auth      = "channel_auth"
	limited   = "channel_restricted"
	billing   = "channel_billing"
	down      = "channel_unavailable"
	paced     = "channel_rate_limited"
	badBody   = "invalid_content"
	template  = "template_error"
	unreached = "recipient_unreachable"
)

// rows are Meta's codes (Cloud API, "Error codes"), ascending. Those of 200 to
// 299 are all one: a permission is missing.
var rows = []row{
	{0, accountStop, auth, "account", "The WhatsApp account could not be authenticated."},
	{1, brief, down, "channel", "WhatsApp could not handle the request."},
	{2, transient, down, "channel", "WhatsApp is down or overloaded."},
	{3, accountStop, auth, "account", "The WhatsApp account lacks a permission."},
	{4, throttleAccount, paced, "throttle", "The app's call limit at WhatsApp is reached."},
	{10, accountStop, auth, "account", "The WhatsApp account lacks a permission."},
	{33, accountStop, auth, "account", "The sending number was deleted."},
	{100, permanent, badBody, "content", "WhatsApp refused a parameter of the message."},
	{190, accountStop, auth, "account", "The access token for WhatsApp is no longer valid."},
	{368, accountStop, limited, "account", "The WhatsApp account is blocked for a violation of policy."},
	{80007, throttleAccount, paced, "throttle", "The WhatsApp account's limit is reached."},
	{130403, permanent, "blocked", "recipient", "The recipient is blocked by the business."},
	{130429, throttleNumber, paced, "throttle", "The sending number's throughput is reached."},
	{130472, permanent, unreached, "recipient", "The recipient is part of an experiment of WhatsApp's and gets no such messages."},
	{130497, permanent, "blocked", "recipient", "The account may not send to the recipient's country."},
	{131000, transient, down, "channel", "WhatsApp had an unknown error."},
	{131005, accountStop, auth, "account", "The WhatsApp account lacks a permission."},
	{131008, permanent, badBody, "content", "A parameter of the message is missing."},
	{131009, permanent, badBody, "content", "A parameter of the message is not valid."},
	{131016, transient, down, "channel", "WhatsApp is not available."},
	{131021, permanent, "invalid_recipient", "recipient", "The recipient is the sending number itself."},
	{131026, permanent, unreached, "recipient", "WhatsApp could not deliver to this number."},
	{131031, accountStop, limited, "account", "The WhatsApp account is locked."},
	{131037, accountStop, limited, "account", "The sending number's display name is not approved."},
	{131042, accountStop, billing, "account", "The WhatsApp account has a payment problem."},
	{131045, accountStop, auth, "account", "The sending number is not registered."},
	{131047, permanent, "window_closed", "content", "The recipient last wrote more than 24 hours ago: only a template may be sent."},
	{131048, accountStop, limited, "account", "The sending number is restricted for messages marked as spam."},
	{131049, later, unreached, "recipient", "WhatsApp held the message back so that the recipient gets fewer of the kind."},
	{131050, permanent, "opted_out", "recipient", "The recipient no longer wants messages of this business."},
	{131051, permanent, badBody, "content", "The type of message is not supported."},
	{131052, permanent, badBody, "content", "WhatsApp could not fetch the media."},
	{131053, permanent, badBody, "content", "WhatsApp could not take the media."},
	{131056, throttlePair, "recipient_rate_limited", "throttle", "Too many messages to this recipient in a short time."},
	{131057, slow, down, "channel", "The WhatsApp account is under maintenance."},
	{131063, permanent, template, "content", "Marketing templates are switched off for this account."},
	{131064, throttleAccount, paced, "throttle", "The account is limited for a template of the wrong category."},
	{132000, permanent, template, "content", "The number of parameters is not the template's."},
	{132001, permanent, template, "content", "The template does not exist in this language, or is not approved."},
	{132005, permanent, template, "content", "The filled-in template is too long."},
	{132007, permanent, template, "content", "The template breaks a policy of WhatsApp's."},
	{132012, permanent, template, "content", "A parameter's format is not the template's."},
	{132015, permanent, template, "content", "The template is paused for low quality."},
	{132016, permanent, template, "content", "The template is switched off for low quality."},
	{132018, permanent, template, "content", "A parameter of the template is not valid."},
	{132068, permanent, template, "content", "The flow is blocked."},
	{132069, permanent, template, "content", "The flow is throttled."},
	{133004, transient, down, "channel", "WhatsApp's server is not available for the moment."},
	{133006, accountStop, auth, "account", "The sending number must be verified."},
	{133010, accountStop, auth, "account", "The sending number is not registered."},
	{133016, throttleAccount, paced, "throttle", "The sending number was registered too often."},
	{134011, accountStop, billing, "account", "The terms of WhatsApp's payments are not accepted."},
	{134101, slow, template, "content", "The template is still being synced."},
	{135000, permanent, badBody, "content", "WhatsApp found a parameter of the message wrong."},
}

// byCode finds a row.
var byCode = func() map[int]row {
	m := make(map[int]row, len(rows))
	for _, r := range rows {
		m[r.code] = r
	}
	return m
}()

// noCode stands for an answer that is no error of the Graph API (a proxy's HTML,
// nothing at all): 0 would be a real code.
const noCode = -1

// unpaired is the subcode by which code 100 says that the phone number id is
// wrong: the channel's fault, and no message's.
const unpaired = 33

// lookUp says what an error means. status counts only where Meta's code is
// unknown or absent.
func lookUp(status, code, subcode int, isTransient bool) row {
	if code == 100 && subcode == unpaired {
		return row{code, accountStop, auth, "account", "The sending number's id is wrong, or the token gives no access to it."}
	}
	if r, ok := byCode[code]; ok {
		return r
	}
	switch {
	case code >= 200 && code <= 299:
		return row{code, accountStop, auth, "account", "The WhatsApp account lacks a permission."}
	case status == http.StatusTooManyRequests:
		return row{code, throttleNumber, paced, "throttle", "WhatsApp asks for fewer messages."}
	case isTransient, status >= 500:
		return row{code, transient, down, "channel", "WhatsApp is not available."}
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return row{code, accountStop, auth, "account", "WhatsApp refused the account."}
	case code == noCode && status < 400:
		return row{code, transient, down, "channel", "WhatsApp's address answered with something else."}
	}
	return row{code, permanent, badBody, "content", "WhatsApp refused the message."}
}

// outcome turns a row into what the dispatcher acts on. after is what
// Retry-After or Meta's usage header asked for; zero: nothing.
func (r row) outcome(channelCode string, attempt int, after time.Duration) error {
	f := sink.Fault{Failure: message.Failure{Code: r.ours, Category: r.category, ChannelCode: channelCode, Message: r.text}}
	switch r.class {
	case transient:
		f.Failure.Retryable = true
		return waitOr(f, after)
	case brief:
		if attempt >= briefAttempts {
			f.Neutral = true
			return &sink.Permanent{Fault: f}
		}
		f.Failure.Retryable = true
		return waitOr(f, after)
	case slow:
		f.Neutral, f.Failure.Retryable = true, true
		wait := maintenanceWait
		if r.ours == template {
			wait = syncWait
		}
		return &sink.RetryAfter{Fault: f, After: max(after, wait)}
	case throttleNumber:
		f.Neutral, f.Failure.Retryable = true, true
		return &sink.Throttled{Fault: f, Scope: sink.ScopeNumber, After: after}
	case throttlePair:
		f.Neutral, f.Failure.Retryable = true, true
		return &sink.Throttled{Fault: f, Scope: sink.ScopeRecipient, After: after}
	case throttleAccount:
		f.Neutral, f.Failure.Retryable = true, true
		wait := accountWait
		if r.code == 131064 {
			wait = misuseWait
		}
		return &sink.Throttled{Fault: f, Scope: sink.ScopeAccount, After: max(after, wait)}
	case accountStop:
		f.Failure.Retryable = true
		return &sink.StopChannel{Fault: f}
	}
	f.Neutral = true
	return &sink.Permanent{Fault: f}
}

func waitOr(f sink.Fault, after time.Duration) error {
	if after > 0 {
		return &sink.RetryAfter{Fault: f, After: after}
	}
	return &sink.Transient{Fault: f}
}
