package sink

import (
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// This file says what the end of an attempt means beyond its message: for the
// service, the host and the recipient.

// maxProviderID bounds the name that a service has for a message, in bytes.
const maxProviderID = 512

// providerID is the service's name for a message, if it can be one: what is too long
// for the log, or for an index, or holds what no database takes, is none, whatever
// the service says.
func providerID(name string) string {
	if len(name) > maxProviderID || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return ""
	}
	return name
}

// learn takes what a call says of the service. A test message asked none.
func (o *outlet) learn(j *job, v Verdict, err error) {
	if j.rec.Test {
		return
	}
	o.d.mu.Lock()
	j.host.learnLocked(v)
	if err == nil {
		o.pace.pauses = 0
		o.d.recipients.well(recipient{o.channel, j.rec.To}, time.Now())
		if h := j.host; h.credit < fullCredit {
			h.credit *= 2
		}
		j.host.ill = false
	}
	// A call that began before the stop proves nothing.
	goesOn := o.stops > 0 && !time.Now().Before(o.stoppedUntil) && knowsUs(err)
	if goesOn {
		o.stops = 0
	}
	o.d.mu.Unlock()
	if !goesOn {
		return
	}
	o.d.log.Info("The channel goes on.", "channel", o.channel.String())
	if o.d.cfg.OnStop != nil {
		o.d.cfg.OnStop(o.channel, nil, time.Time{})
	}
}

// knowsUs reports whether the service has dealt with a message, so that whatever
// stopped the channel is mended: it has taken it, or refused for good this one, by
// its own code and not by a check of ours.
func knowsUs(err error) bool {
	var permanent *Permanent
	return err == nil || errors.As(err, &permanent) && permanent.Failure.ChannelCode != ""
}

// uncalled reports whether no attempt was made at all.
func uncalled(err error) bool {
	var f interface{ fault() *Fault }
	return errors.As(err, &f) && f.fault().Uncalled
}

// verdictOf says what an outcome means for the service's health.
func verdictOf(err error) Verdict {
	if err == nil {
		return Success
	}
	var f interface{ fault() *Fault }
	if errors.As(err, &f) && (f.fault().Neutral || f.fault().Uncalled) {
		return Neutral
	}
	return Failure
}
