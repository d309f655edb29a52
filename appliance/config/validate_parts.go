package config

import (
	"net/mail"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

func (v *validator) delivery(d *Delivery) {
	between(v, "delivery.max_attempts", d.MaxAttempts, 1, 100)
	between(v, "delivery.base_delay", d.BaseDelay, time.Millisecond, 7*day)
	between(v, "delivery.max_delay", d.MaxDelay, time.Millisecond, 7*day)
	v.require(d.BaseDelay <= d.MaxDelay, "delivery.base_delay", "%s is over delivery.max_delay, which is %s", FormatDuration(d.BaseDelay), FormatDuration(d.MaxDelay))
	between(v, "delivery.default_ttl", d.DefaultTTL, time.Second, 30*day)
	v.require(d.DefaultTTL%time.Second == 0, "delivery.default_ttl", "%s is no whole number of seconds, which a message's ttl_seconds is", show(d.DefaultTTL))
	between(v, "delivery.workers_per_channel", d.WorkersPerChannel, 1, 10_000)
	v.oneOf("delivery.unknown_outcome", d.UnknownOutcome, "retry", "fail")
	between(v, "delivery.per_account_in_flight", d.PerAccountInFlight, 1, 10_000)
	between(v, "delivery.per_host_in_flight", d.PerHostInFlight, 1, 10_000)
}

func (v *validator) whatsapp(w *WhatsApp) {
	v.url("channels.whatsapp.base_url", w.BaseURL, "https", "http")
	between(v, "channels.whatsapp.messages_per_second", w.MessagesPerSecond, 1, 10_000)
	v.require(!w.Enabled || strings.Trim(w.PhoneNumberID, "0123456789") == "", "channels.whatsapp.phone_number_id", "%s is no number; write the id that Meta gives the number, digits only", excerpt(w.PhoneNumberID))
	if w.Enabled {
		v.needed("channels.whatsapp", map[string]string{"api_version": w.APIVersion,
			"phone_number_id": w.PhoneNumberID, "access_token_file": w.AccessTokenFile})
	}
}

func (v *validator) email(e *Email) {
	between(v, "channels.email.port", e.Port, 1, 65535)
	v.oneOf("channels.email.tls", e.TLS, "starttls", "implicit", "none")
	between(v, "channels.email.connections", e.Connections, 1, 1000)
	v.together([]string{"channels.email.username", "channels.email.password_file"}, e.Username, e.PasswordFile)
	v.require(e.TLS != "none" || e.Host == "" || isLoopback(strings.ToLower(e.Host)), "channels.email.tls",
		"none is for a relay on this machine only, and %s is not loopback; write starttls or implicit", excerpt(e.Host))
	if e.From != "" {
		_, err := mail.ParseAddress(e.From)
		v.require(err == nil, "channels.email.from", "%s is no address; write for example Forebay <noreply@example.org>", excerpt(e.From))
	}
	if e.Enabled {
		v.needed("channels.email", map[string]string{"host": e.Host, "from": e.From})
	}
}

// needed: what a channel cannot do without once it is enabled.
func (v *validator) needed(section string, values map[string]string) {
	for key, value := range values {
		v.require(value != "", section+"."+key, "is empty; %s.enabled needs it", section)
	}
}

func (v *validator) webhook(w *Webhook) {
	between(v, "channels.webhook.timeout", w.Timeout, 100*time.Millisecond, 10*time.Minute)
	for _, cidr := range w.AllowCIDRs {
		_, err := netip.ParsePrefix(cidr)
		v.require(err == nil, "channels.webhook.allow_cidrs", "%s is no network; write for example 10.0.0.0/8", excerpt(cidr))
	}
}

func (v *validator) cluster(c *Cluster, node uint16) {
	keys := []string{"cluster.tls_cert_file", "cluster.tls_key_file", "cluster.tls_ca_file"}
	v.together(keys, c.TLSCertFile, c.TLSKeyFile, c.TLSCAFile)
	if c.Listen == "" {
		v.require(c.Advertise == "", "cluster.advertise", "is set without cluster.listen; set both or none")
		v.require(len(c.Peers) == 0, "cluster.peers", "are set without cluster.listen; set both or none")
		return
	}
	host := v.address("cluster.listen", c.Listen, false)
	v.require(isLoopback(host) || c.TLSCertFile != "", "cluster.listen",
		"%s is not loopback, where nodes speak under mutual TLS only; set cluster.tls_cert_file, tls_key_file and tls_ca_file", excerpt(c.Listen))
	if c.Advertise != "" {
		v.address("cluster.advertise", c.Advertise, false)
	}
	v.require(!everywhere(host) || c.TLSCertFile == "" || c.Advertise != "" || c.Peers[node] != "", "cluster.listen",
		"%s is no address that others could dial; set cluster.advertise, or this node among cluster.peers", excerpt(c.Listen))
	for peer, addr := range c.Peers {
		key := "cluster.peers." + strconv.Itoa(int(peer))
		v.require(peer > 0, key, "0 is no node; write 1 to 65535")
		v.address(key, addr, false)
	}
	// Without this node among them, they are the members of a group that it joins.
	if n := len(c.Peers); c.Peers[node] != "" {
		v.require(n == 1 || n == 3 || n == 5, "cluster.peers", "name %d nodes; a cluster has one, three or five", n)
	}
}

func (v *validator) alerts(a *Alerts) {
	if a.WebhookURL != "" {
		v.url("alerts.webhook_url", a.WebhookURL, "https", "http")
	}
	between(v, "alerts.p99_latency", a.P99Latency, time.Millisecond, time.Minute)
	v.require(a.ErrorRate > 0 && a.ErrorRate <= 1, "alerts.error_rate", "%v is out of range; write a fraction over 0 and at most 1", a.ErrorRate)
	between(v, "alerts.backlog_age", a.BacklogAge, time.Second, 7*day)
}
