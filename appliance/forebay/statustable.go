package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"forebay/httpapi/admin"
	"forebay/wal/message"
)

// statusTable prints a status for people: how it is and what is to be done first,
// then part by part in the order of a message's way.
func statusTable(w io.Writer, s admin.Status) {
	health := s.Health
	if s.Draining {
		health = "stopping in good order"
	}
	row(w, "health", orDash(health))
	for _, a := range s.Alerts {
		subject := a.Name
		if a.Subject != "" {
			subject += " " + a.Subject
		}
		row(w, a.Severity, fmt.Sprintf("%s, since %s: %s", subject, local(a.Since), a.Summary))
		row(w, "", "→ "+a.WhatToDo)
	}
	row(w, "node", fmt.Sprintf("%d, version %s, up %s", s.Node, s.Version, seconds(s.UptimeSeconds)))
	if p := s.Pressure; p != nil {
		most := ""
		if len(p.Signals) > 0 {
			most = fmt.Sprintf("; most of it from %s, at %.0f %% of its limit", p.Signals[0].Name, 100*p.Signals[0].Value)
		}
		row(w, "pressure", p.Level+most)
	}
	row(w, "intake", fmt.Sprintf("%.0f/s, %d accepted since the start; answered in %s", s.Intake.Rate, s.Intake.AcceptedTotal, quantiles(s.Intake.Latency)))
	if len(s.Intake.Refused) > 0 {
		var parts []string
		for _, code := range slices.Sorted(maps.Keys(s.Intake.Refused)) {
			parts = append(parts, fmt.Sprintf("%s %d", code, s.Intake.Refused[code]))
		}
		row(w, "refused", strings.Join(parts, ", "))
	}
	var lanes []string
	for p := range message.Priority(message.Lanes) {
		lanes = append(lanes, fmt.Sprintf("%s %d", p, s.Log.Backlog[p.String()]))
	}
	row(w, "log", fmt.Sprintf("%s; oldest %s; %s on disk; append in %s", strings.Join(lanes, ", "), seconds(s.Log.OldestAgeSeconds), size(s.Log.DiskBytes), quantiles(s.Log.AppendLatency)))
	store := "up"
	if !s.Store.Up {
		store = "DOWN since " + local(s.Store.DownSince) + ": " + s.Store.Detail
	}
	row(w, "store", fmt.Sprintf("%s, %s; %.0f rows/s; the last batch had %.0f, batches take %s", s.Store.Kind, store, s.Store.Rate, s.Store.BatchSize, quantiles(s.Store.Latency)))
	for _, c := range s.Channels {
		breaker := "breaker " + orDash(c.Breaker)
		switch {
		case c.StoppedFor != "":
			breaker = "STOPPED: " + c.StoppedFor
		case !c.ThrottledUntil.IsZero():
			breaker += ", throttled by the service until " + local(c.ThrottledUntil)
		}
		row(w, c.Name, fmt.Sprintf("%.0f/s, %s; %d queued, %d in flight, %d parked; %d sent, %d failed", c.Rate, breaker, c.Queued, c.InFlight, c.Parked, c.Sent, c.Failed))
	}
	row(w, "group", group(s.Raft))
	drift := ""
	if len(s.Config.Drift) > 0 {
		drift = "; differs from the files, or the group, in " + strings.Join(s.Config.Drift, ", ")
	}
	row(w, "config", fmt.Sprintf("version %d, loaded %s%s", s.Config.Version, local(s.Config.LoadedAt), drift))
}

// group is the cluster in a line.
func group(r admin.RaftStatus) string {
	if r.Leader == 0 {
		return fmt.Sprintf("NO LEADER; this node is %s", r.Role)
	}
	if len(r.Members) <= 1 {
		return "a cluster of one"
	}
	members := make([]string, len(r.Members))
	for i, m := range r.Members {
		members[i] = fmt.Sprintf("%d %s %s", m.Node, m.Role, m.Address)
		if m.Reachable != nil && !*m.Reachable {
			members[i] += " AWAY"
		}
	}
	return fmt.Sprintf("node %d leads, term %d: %s", r.Leader, r.Term, strings.Join(members, ", "))
}

// size is a number of bytes for people.
func size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + units[i]
}

// quantiles are in milliseconds, each with as many digits as say something.
func quantiles(q admin.Quantiles) string {
	digits := 1
	if q.P99 < 0.001 {
		digits = 2
	}
	return fmt.Sprintf("p50 %.*f p90 %.*f p99 %.*f ms", digits, 1000*q.P50, digits, 1000*q.P90, digits, 1000*q.P99)
}
