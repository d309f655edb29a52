package watch

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/httpapi/admin"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func judge(s admin.Status, firing ...string) []condition {
	l := look{Status: &s, settings: settings, now: noon, firing: func(name, _ string) bool { return slices.Contains(firing, name) }}
	return l.conditions()
}

// TestRules raises every alert by the state that it is about, and no other; that
// all names occur here, the test holds too.
func TestRules(t *testing.T) {
	if found := judge(well()); len(found) != 0 {
		t.Fatalf("nothing is wrong, and it finds %+v", found)
	}
	yes, no := true, false
	seen := map[string]bool{}
	for _, test := range []struct {
		what     string
		change   func(*admin.Status)
		name     string
		severity string
		subject  string
		says     string // a part of what it says or what to do
	}{
		{"slow answers", func(s *admin.Status) { s.Intake.Latency.P99 = .6 }, "acceptance_latency", "warning", "", "600 ms"},
		{"errors", func(s *admin.Status) { s.Intake.ErrorRate = .02 }, "error_rate", "critical", "", "2.0 %"},
		{"old backlog", func(s *admin.Status) { s.Log.OldestAgeSeconds = 90 }, "backlog_age", "warning", "", "90 s"},
		{"database down", func(s *admin.Status) { s.Store.Up, s.Store.Detail = false, "connection refused" }, "database_down", "critical", "", "connection refused."},
		{"embedded store", func(s *admin.Status) { s.Store.Up, s.Store.Kind = false, "embedded" }, "database_down", "critical", "", "df -h"},
		{"room left", func(s *admin.Status) {
			s.Store.Up, s.Log.Backlog["normal"], s.Log.DiskBytes = false, 1<<20, 1<<30
		}, "database_down", "critical", "", "about 26 hours at this rate"},
		{"breaker open here", func(s *admin.Status) {
			s.Breakers = []admin.BreakerStatus{{Name: "email", State: "open", OpenOn: []uint16{1}, NextProbe: noon.Add(20 * time.Second)}}
		}, "breaker_open", "warning", "email", "this node (1) alone"},
		{"breaker open there", func(s *admin.Status) {
			s.Breakers = []admin.BreakerStatus{{Name: "email", State: "open", OpenOn: []uint16{2}}}
		}, "breaker_open", "warning", "email", "node 2"},
		{"breaker open everywhere", func(s *admin.Status) { s.Breakers = []admin.BreakerStatus{{Name: "whatsapp", State: "open"}} }, "breaker_open", "warning", "whatsapp", "forebay breaker close whatsapp"},
		{"database down, and its breaker open", func(s *admin.Status) {
			s.Store.Up, s.Breakers = false, []admin.BreakerStatus{{Name: "database", State: "open"}}
		}, "database_down", "critical", "", "forebay config show"},
		{"breaker forced", func(s *admin.Status) {
			s.Breakers = []admin.BreakerStatus{{Name: "email", State: "open", Forced: "open", ForcedBy: "uid=0(root)"}}
		}, "breaker_forced", "warning", "email", "held open by uid=0(root); its messages wait."},
		{"all hosts held open", func(s *admin.Status) {
			s.Breakers = []admin.BreakerStatus{{Name: "webhook", State: "open", Forced: "open"}, {Name: "webhook:a:443", State: "open", Forced: "open"}, {Name: "webhook:b:443", State: "open", Forced: "open"}}
		}, "breaker_forced", "warning", "webhook", "forebay breaker auto webhook`"},
		{"breaker forced closed", func(s *admin.Status) {
			s.Breakers = []admin.BreakerStatus{{Name: "email", State: "closed", Forced: "closed"}}
		}, "breaker_forced", "notice", "email", "forebay breaker auto email"},
		{"host off", func(s *admin.Status) {
			s.Breakers = []admin.BreakerStatus{{Name: "webhook:h:443", State: "open", HostOff: true}}
			s.Endpoints = []admin.Endpoint{{Account: "acme", ID: "e1", Host: "h:443", Disabled: noon, Reason: "gone"}, {Account: "b", ID: "e2", Host: "h:443", Warned: 50}}
		}, "webhook_host_off", "warning", "h:443", "forebay account endpoint enable acme e1"},
		{"host failing", func(s *admin.Status) {
			s.Endpoints = []admin.Endpoint{{Account: "acme", ID: "e1", Host: "h:443", Warned: 70, Since: noon}}
		}, "webhook_host_failing", "notice", "h:443", "70 %"},
		{"host failing for long", func(s *admin.Status) {
			s.Endpoints = []admin.Endpoint{{Account: "acme", ID: "e1", Host: "h:443", Warned: 90, Since: noon}}
		}, "webhook_host_failing", "warning", "h:443", "24 November 2026"},
		{"channel stopped", func(s *admin.Status) {
			s.Channels = []admin.ChannelStatus{{Name: "whatsapp", StoppedFor: "bad credentials"}}
		}, "channel_stopped", "critical", "whatsapp", "channels.whatsapp"},
		{"channel throttled", func(s *admin.Status) {
			s.Channels = []admin.ChannelStatus{{Name: "whatsapp", ThrottledUntil: noon.Add(time.Hour)}, {Name: "email", ThrottledUntil: noon}}
		}, "channel_throttled", "notice", "whatsapp", "13:00:00 UTC"},
		{"disk full", func(s *admin.Status) { s.Log.Full = true }, "disk", "critical", "", "storage_full"},
		{"disk filling", func(s *admin.Status) { s.Log.DiskBytes = 9 << 30 }, "disk", "warning", "", "90 %"},
		{"file system filling", func(s *admin.Status) { s.Log.FreeBytes = 3 << 29 }, "disk", "warning", "", "1.5 GiB free"},
		{"memory", func(s *admin.Status) { s.Memory.UsedBytes = 900 << 20 }, "memory", "warning", "", "88 %"},
		{"memory, nearly all", func(s *admin.Status) { s.Memory.UsedBytes = 1000 << 20 }, "memory", "critical", "", "98 %"},
		{"pressure high", func(s *admin.Status) {
			s.Pressure = &admin.PressureStatus{Level: "high", Signals: []admin.PressureSignal{{Name: "memory", Value: .9}}}
		}, "pressure", "warning", "", "It comes from memory, at 90 % of the limit. Lower"},
		{"pressure critical", func(s *admin.Status) { s.Pressure = &admin.PressureStatus{Level: "critical"} }, "pressure", "critical", "", "priority critical"},
		{"no leader", func(s *admin.Status) { s.Raft.Leader = 0 }, "raft_no_leader", "critical", "", "journalctl"},
		{"no leader of three", func(s *admin.Status) { s.Raft.Leader, s.Raft.Members = 0, make([]admin.RaftMember, 3) }, "raft_no_leader", "critical", "", "forebay cluster recover"},
		{"member away", func(s *admin.Status) {
			s.Raft.Members = append(s.Raft.Members, admin.RaftMember{Node: 2, Reachable: &no}, admin.RaftMember{Node: 3, Reachable: &yes}, admin.RaftMember{Node: 4})
		}, "raft_member_away", "warning", "node 2", "forebay cluster remove 2"},
		{"limits", func(s *admin.Status) { s.Limiter = &admin.LimiterStatus{Degraded: true} }, "limits_degraded", "warning", "", "forebay cluster status"},
		{"drift", func(s *admin.Status) { s.Config.Drift = []string{"rate_limiting.window"} }, "config_drift", "warning", "", "rate_limiting.window"},
		{"failed reload", func(s *admin.Status) { s.Config.LastError = "line 3: unknown key bufer" }, "config_reload_failed", "warning", "", "line 3"},
		{"certificate", func(s *admin.Status) { s.Raft.CertificateEnds = noon.Add(10 * 24 * time.Hour) }, "certificate_ends", "warning", "", "4 December 2026"},
		{"certificate, soon", func(s *admin.Status) { s.Raft.CertificateEnds = noon.Add(time.Hour) }, "certificate_ends", "critical", "", "forebay cluster certs"},
		{"audit", func(s *admin.Status) { s.Log.MissingMessages = 3 }, "messages_missing", "critical", "", "forebay audit"},
	} {
		s := well()
		test.change(&s)
		found := judge(s)
		if len(found) != 1 || found[0].name != test.name || found[0].severity != test.severity || found[0].subject != test.subject {
			t.Errorf("%s: got %+v", test.what, found)
			continue
		}
		c := found[0]
		seen[c.name] = true
		if !strings.Contains(c.summary+" "+c.whatToDo, test.says) || !strings.HasSuffix(c.summary, ".") || !strings.HasSuffix(c.whatToDo, ".") {
			t.Errorf("%s: %q, %q, want %q and two sentences", test.what, c.summary, c.whatToDo, test.says)
		}
	}
	for _, name := range Names {
		if !seen[name] {
			t.Errorf("no state raises %s", name)
		}
	}
	if len(seen) != len(Names) {
		t.Errorf("rules raise what is not in Names: %v", seen)
	}
}

// TestTheManualHasEveryAlert: receivers route by names, so they are written down.
func TestTheManualHasEveryAlert(t *testing.T) {
	page, err := os.ReadFile("../../packaging/doc/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "| alert | severity | when |")
	for _, name := range Names {
		if !found || !strings.Contains(table, "`"+name+"`") {
			t.Errorf("the manual's table of alerts does not have %s", name)
		}
	}
}

// TestRelief: a measure at the edge does not end its alert; one well under does.
func TestRelief(t *testing.T) {
	for _, name := range []string{"acceptance_latency", "backlog_age", "disk", "memory"} {
		at := func(part float64) admin.Status {
			s := well()
			switch name {
			case "acceptance_latency":
				s.Intake.Latency.P99 = .5 * part
			case "backlog_age":
				s.Log.OldestAgeSeconds = 60 * part
			case "disk":
				s.Log.DiskBytes = uint64(diskWarns * float64(s.Log.DiskLimitBytes) * part)
			case "memory":
				s.Memory.UsedBytes = uint64(.85 * float64(s.Memory.LimitBytes) * part)
			}
			return s
		}
		for _, test := range []struct {
			part   float64
			firing []string
			want   int
		}{{.97, nil, 0}, {1.03, nil, 1}, {.97, []string{name}, 1}, {.85, []string{name}, 0}} {
			if got := len(judge(at(test.part), test.firing...)); got != test.want {
				t.Errorf("%s at %v of its limit, firing %v: %d conditions, want %d", name, test.part, test.firing, got, test.want)
			}
		}
	}
}
