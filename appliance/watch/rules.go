package watch

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"forebay/httpapi/admin"
)

// Names are all alerts that there are. They are promises: receivers route by them.
var Names = []string{
	"acceptance_latency", "error_rate", "backlog_age", "database_down", "breaker_open", "breaker_forced", "channel_stopped", "channel_throttled", "webhook_host_off", "webhook_host_failing",
	"disk", "memory", "pressure", "raft_no_leader", "raft_member_away", "limits_degraded", "config_drift", "config_reload_failed",
	"certificate_ends", "messages_missing",
}

const (
	// relief is the part of its threshold under which a measure must fall before
	// its condition is over, so that one at the edge does not flap.
	relief = 0.9

	diskWarns        = 0.85 // of buffer.max_disk_bytes
	freeWarns        = 2.0  // times buffer.min_free_disk_bytes
	certificateWarns = 21 * 24 * time.Hour
	certificateUrges = 3 * 24 * time.Hour
	throttleNoticed  = 10 * time.Second // of a service: shorter ones are every day's
)

// look is one moment that the rules judge.
type look struct {
	*admin.Status
	settings Settings
	now      time.Time
	firing   func(name, subject string) bool
}

// over reports whether a measure is over its limit, or not yet well under it
// while its alert fires.
func (l *look) over(name string, value, limit float64) bool {
	if l.firing(name, "") {
		limit *= relief
	}
	return value > limit
}

// conditions are all that hold now.
func (l *look) conditions() (all []condition) {
	for _, rule := range []func(*look) []condition{
		latencyRule, errorRule, backlogRule, databaseRule, breakerRule, endpointRule, channelRule, diskRule, memoryRule, pressureRule,
		raftRule, limiterRule, configRule, certificateRule, auditRule,
	} {
		all = append(all, rule(l)...)
	}
	return all
}

func latencyRule(l *look) []condition {
	p99, limit := l.Intake.Latency.P99, l.settings.P99Latency.Seconds()
	if !l.over("acceptance_latency", p99, limit) {
		return nil
	}
	return []condition{{name: "acceptance_latency", severity: admin.SeverityWarning, holdFor: 5 * time.Second,
		summary: fmt.Sprintf("One in a hundred submissions waits %s or more for its answer (limit %s).", seconds(p99), seconds(limit)),
		whatToDo: fmt.Sprintf("An append to the log takes %s at p99: if that is most of it, the disk is slow (`iostat -x 1`). "+
			"Otherwise the machine is short of processor time: spread the load over another appliance.", seconds(l.Log.AppendLatency.P99))}}
}

func errorRule(l *look) []condition {
	if !l.over("error_rate", l.Intake.ErrorRate, l.settings.ErrorRate) {
		return nil
	}
	return []condition{{name: "error_rate", severity: admin.SeverityCritical, holdFor: 5 * time.Second,
		summary:  fmt.Sprintf("%.1f %% of submissions are answered with a server error (limit %.1f %%).", 100*l.Intake.ErrorRate, 100*l.settings.ErrorRate),
		whatToDo: "Look which code grows under “refused” (`forebay status`): overloaded and storage_full are cured by what the other alerts say; for unavailable look into the journal (`journalctl -u forebay -p warning`)."}}
}

func backlogRule(l *look) []condition {
	age, limit := l.Log.OldestAgeSeconds, l.settings.BacklogAge
	if !l.over("backlog_age", age, limit.Seconds()) {
		return nil
	}
	do := "The database takes less than what comes in: look at the time of a batch and at the slow queries (`forebay status`), and raise buffer.batch_size or give the database more."
	if !l.Store.Up {
		do = "The database is down, so everything waits; it drains by itself once the database is back."
	}
	return []condition{{name: "backlog_age", severity: admin.SeverityWarning, holdFor: 3 * time.Second,
		summary:  fmt.Sprintf("The oldest message has waited for %s (limit %s). Nothing is lost.", seconds(age), seconds(limit.Seconds())),
		whatToDo: do}}
}

func databaseRule(l *look) []condition {
	if l.Store.Up && l.Store.DownSince.IsZero() {
		return nil
	}
	what, do := "The database does not answer", "Bring the database back; the appliance connects by itself (database.url in `forebay config show`). Until then messages wait in the log"
	if l.Store.Kind == "embedded" {
		what, do = "The embedded store takes no messages", "Look at the free space of data_dir (`df -h`) and into the journal (`journalctl -u forebay`). Until then messages wait in the log"
	}
	if room := roomOf(l.Status); room != "" {
		do += ", which has room for " + room
	}
	return []condition{{name: "database_down", severity: admin.SeverityCritical, holdFor: 2 * time.Second,
		summary: what + sentence(l.Store.Detail), whatToDo: do + "."}}
}

// roomOf says how long the log can take what comes in now, or nothing where
// that is not to be foreseen.
func roomOf(s *admin.Status) string {
	var waiting uint64
	for _, n := range s.Log.Backlog {
		waiting += n
	}
	if waiting < 1000 || s.Intake.Rate < 1 || s.Log.DiskLimitBytes <= s.Log.DiskBytes {
		return ""
	}
	room := float64(s.Log.DiskLimitBytes - s.Log.DiskBytes)
	if s.Log.FreeBytes > s.Log.MinFreeBytes {
		room = min(room, float64(s.Log.FreeBytes-s.Log.MinFreeBytes))
	}
	bytesEach := float64(s.Log.DiskBytes) / float64(waiting)
	return "about " + seconds(room/bytesEach/s.Intake.Rate) + " at this rate"
}

func breakerRule(l *look) (found []condition) {
	for _, b := range l.Breakers {
		switch {
		case b.Forced == "open" && l.classHeld(b.Name): // said once, not for each of its hosts
		case b.Forced != "":
			severity, then := admin.SeverityNotice, "."
			if b.Forced == "open" { // easily forgotten, and messages wait for it
				severity, then = admin.SeverityWarning, "; its messages wait."
			}
			found = append(found, condition{name: "breaker_forced", subject: b.Name, severity: severity,
				summary:  fmt.Sprintf("The breaker of %s is held %s by %s%s", b.Name, b.Forced, cmp.Or(b.ForcedBy, "an operator"), then),
				whatToDo: fmt.Sprintf("When it should watch again: `forebay breaker auto %s`.", b.Name)})
		case b.Name == "database" && len(databaseRule(l)) > 0, b.HostOff: // which is said better by its own rule
		case b.State == "open":
			found = append(found, condition{name: "breaker_open", subject: b.Name, severity: admin.SeverityWarning,
				summary: fmt.Sprintf("%s cannot be reached from %s; its messages wait%s", b.Name, nodesOf(b.OpenOn, l.Node), sentence(b.Reason)),
				whatToDo: fmt.Sprintf("Look whether %s is up and reachable from there (proxy, firewall, credentials). A probe tries by itself%s; `forebay breaker close %s` tries at once.",
					b.Name, probeOf(b.NextProbe, l.now), b.Name)})
		}
	}
	return found
}

// classHeld reports whether a breaker is one of a host, and all hosts are held
// open at once.
func (l *look) classHeld(name string) bool {
	class, _, ok := strings.Cut(name, ":")
	return ok && slices.ContainsFunc(l.Breakers, func(b admin.BreakerStatus) bool { return b.Name == class && b.Forced == "open" })
}

func nodesOf(nodes []uint16, own uint16) string {
	if len(nodes) == 0 {
		return "every node"
	}
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = fmt.Sprint(n)
	}
	if len(nodes) == 1 && nodes[0] == own {
		return "this node (" + names[0] + ") alone, and the others reach it"
	}
	return "node " + strings.Join(names, ", ")
}

func probeOf(at, now time.Time) string {
	if at.IsZero() || !at.After(now) {
		return ""
	}
	return " in " + seconds(at.Sub(now).Seconds())
}

func channelRule(l *look) (found []condition) {
	for _, c := range l.Channels {
		switch {
		case c.StoppedFor != "":
			found = append(found, condition{name: "channel_stopped", subject: c.Name, severity: admin.SeverityCritical,
				summary:  fmt.Sprintf("Channel %s has stopped by itself%s", c.Name, sentence(c.StoppedFor)),
				whatToDo: fmt.Sprintf("Its messages wait and use up no attempts. Mend the credentials of channels.%s, then reload (`systemctl reload forebay`).", c.Name)})
		case c.ThrottledUntil.After(l.now):
			found = append(found, condition{name: "channel_throttled", subject: c.Name, severity: admin.SeverityNotice, holdFor: throttleNoticed,
				summary: fmt.Sprintf("The service of channel %s asks that nothing be sent until %s. Its messages wait and use up no attempts.",
					c.Name, c.ThrottledUntil.UTC().Format("2 January, 15:04:05 UTC")),
				whatToDo: fmt.Sprintf("It goes on by itself. If this comes often, more is sent than the service allows: lower the pace of channels.%s, or have the service raise its limit.", c.Name)})
		}
	}
	return found
}

func diskRule(l *look) []condition {
	const do = "Messages leave the log as soon as the database has them: look there first. Otherwise raise buffer.max_disk_bytes, or free space on the file system of data_dir (`du -sh`, `df -h`)."
	used := 0.0
	if l.Log.DiskLimitBytes > 0 {
		used = float64(l.Log.DiskBytes) / float64(l.Log.DiskLimitBytes)
	}
	tight := l.Log.MinFreeBytes > 0 && l.over("disk", freeWarns*float64(l.Log.MinFreeBytes), float64(l.Log.FreeBytes))
	switch {
	case l.Log.Full:
		return []condition{{name: "disk", severity: admin.SeverityCritical,
			summary: fmt.Sprintf("The log may not grow any more (%s of %s, %s free): submissions are refused with storage_full. What was accepted is safe.",
				size(l.Log.DiskBytes), size(l.Log.DiskLimitBytes), size(l.Log.FreeBytes)),
			whatToDo: do + " Submissions are taken again by themselves."}}
	case l.over("disk", used, diskWarns):
		return []condition{{name: "disk", severity: admin.SeverityWarning, holdFor: 5 * time.Second,
			summary: fmt.Sprintf("The log fills %.0f %% of its disk limit of %s.", 100*used, size(l.Log.DiskLimitBytes)), whatToDo: do}}
	case tight:
		return []condition{{name: "disk", severity: admin.SeverityWarning, holdFor: 5 * time.Second,
			summary:  fmt.Sprintf("The file system of the log has %s free; under %s nothing is accepted.", size(l.Log.FreeBytes), size(l.Log.MinFreeBytes)),
			whatToDo: do}}
	}
	return nil
}

func memoryRule(l *look) []condition {
	if l.Memory == nil || l.Memory.LimitBytes == 0 {
		return nil
	}
	used := float64(l.Memory.UsedBytes) / float64(l.Memory.LimitBytes)
	c := condition{name: "memory", severity: admin.SeverityWarning, holdFor: 5 * time.Second,
		summary:  fmt.Sprintf("The process uses %s, %.0f %% of memory.limit (%s).", size(l.Memory.UsedBytes), 100*used, size(l.Memory.LimitBytes)),
		whatToDo: "Lower buffer.capacity (what is over it waits on disk only) or http.max_body_bytes, both without a restart; or raise memory.limit if the machine has more."}
	switch {
	case used > l.settings.MemoryCritical:
		c.severity = admin.SeverityCritical
	case !l.over("memory", used, l.settings.MemoryHigh):
		return nil
	}
	return []condition{c}
}

func pressureRule(l *look) []condition {
	if l.Pressure == nil || l.Pressure.Level != "high" && l.Pressure.Level != "critical" {
		return nil
	}
	c := condition{name: "pressure", severity: admin.SeverityWarning, holdFor: 2 * time.Second,
		summary:  "Pressure is high: submissions of priority low are refused, and so are lists of messages.",
		whatToDo: "See `forebay status`."}
	if l.Pressure.Level == "critical" {
		c.severity, c.summary = admin.SeverityCritical, "Pressure is critical: only submissions of priority critical are accepted."
	}
	if len(l.Pressure.Signals) > 0 {
		top := l.Pressure.Signals[0]
		c.whatToDo = fmt.Sprintf("It comes from %s, at %.0f %% of the limit%s %s", sourceOf(top.Name), 100*top.Value, sentence(top.Detail), adviceFor(top.Name))
	}
	return []condition{c}
}

// sourceOf names a signal as people would.
func sourceOf(signal string) string {
	switch signal {
	case "log":
		return "the size of the log"
	case "disk":
		return "the free disk space"
	case "connections":
		return "the open connections"
	}
	return signal
}

// adviceFor is what to do about a signal that refuses something: see the tops of
// package pressure.
func adviceFor(signal string) string {
	switch signal {
	case "memory":
		return "Lower buffer.capacity, or raise memory.limit."
	case "log", "disk":
		return "Messages leave the log as soon as the database has them: look there first. Otherwise raise buffer.max_disk_bytes, or free disk space."
	case "connections":
		return "Look for a client that opens too many (`ss -Hnt state established`), or raise http.max_connections."
	}
	return "See `forebay status`."
}

func raftRule(l *look) (found []condition) {
	if l.Raft.Leader == 0 {
		do := "It elects one by itself within seconds where a majority can talk: start the nodes that are away (`forebay cluster status`). If a majority is lost for good: `forebay cluster recover`."
		if len(l.Raft.Members) <= 1 {
			do = "Look into the journal (`journalctl -u forebay`) for what the replicated state says."
		}
		found = append(found, condition{name: "raft_no_leader", severity: admin.SeverityCritical, holdFor: 3 * time.Second,
			summary: "The group has no leader: accounts cannot be changed, and limits are held by each node's reserve.", whatToDo: do})
	}
	for _, m := range l.Raft.Members {
		if m.Reachable != nil && !*m.Reachable && m.Node != l.Node {
			found = append(found, condition{name: "raft_member_away", subject: fmt.Sprintf("node %d", m.Node), severity: admin.SeverityWarning, holdFor: 3 * time.Second,
				summary:  fmt.Sprintf("Node %d (%s) is not heard of.", m.Node, m.Address),
				whatToDo: fmt.Sprintf("Start it, or mend the network between; it catches up by itself. If it never comes back: `forebay cluster remove %d`.", m.Node)})
		}
	}
	return found
}

func limiterRule(l *look) []condition {
	if l.Limiter == nil || !l.Limiter.Degraded {
		return nil
	}
	return []condition{{name: "limits_degraded", severity: admin.SeverityWarning, holdFor: 2 * time.Second,
		summary:  "The limiter cannot reach the group: each account gets this node's standing reserve, and 503 past it.",
		whatToDo: "Bring a majority of the nodes together (`forebay cluster status`)."}}
}

func configRule(l *look) (found []condition) {
	if len(l.Config.Drift) > 0 {
		found = append(found, condition{name: "config_drift", severity: admin.SeverityWarning, holdFor: 5 * time.Second,
			summary:  "This node's file differs from what runs: " + strings.Join(l.Config.Drift, ", ") + ".",
			whatToDo: "Make the files of all nodes the same and reload (`systemctl reload forebay`); what needs a restart takes effect with one. `forebay config show` says what runs."})
	}
	if l.Config.LastError != "" {
		found = append(found, condition{name: "config_reload_failed", severity: admin.SeverityWarning,
			summary:  "The last reload failed, and the configuration before it runs on" + sentence(l.Config.LastError),
			whatToDo: "Mend the file; `forebay config check` says what is wrong with it without touching what runs."})
	}
	return found
}

func certificateRule(l *look) []condition {
	if l.Raft.CertificateEnds.IsZero() {
		return nil
	}
	left := l.Raft.CertificateEnds.Sub(l.now)
	if left > certificateWarns {
		return nil
	}
	c := condition{name: "certificate_ends", severity: admin.SeverityWarning,
		summary:  "A certificate ends on " + l.Raft.CertificateEnds.UTC().Format("2 January 2006, 15:04 UTC") + ".",
		whatToDo: "Put a new one in its place (`forebay cluster certs` makes those of the cluster) and reload (`systemctl reload forebay`)."}
	if left <= certificateUrges {
		c.severity = admin.SeverityCritical
	}
	return []condition{c}
}

func auditRule(l *look) []condition {
	if l.Log.MissingMessages == 0 {
		return nil
	}
	return []condition{{name: "messages_missing", severity: admin.SeverityCritical,
		summary:  fmt.Sprintf("The audit misses %d accepted messages, in neither log nor store.", l.Log.MissingMessages),
		whatToDo: "Run `forebay audit` for their numbers, stop the appliance, and run `forebay wal verify`. Keep the data directory as it is."}}
}
