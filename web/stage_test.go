package web_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/web"
)

// object is JSON as the appliance sends it.
type object = map[string]any

// stage plays an appliance in any state for the page. That its words are those
// of a real one, the tests of appliance show.
type stage struct {
	*httptest.Server
	token string

	mu       sync.Mutex // guards what follows
	status   object
	hour     []([]float64)
	gone     bool
	calls    []string // of /admin/v1 that change something
	cut      chan struct{}
	news     chan struct{} // closed when another status is played
	messages []object
}

var columns = []string{"accepted_rate", "refused_rate", "p50", "p99", "backlog_critical", "backlog_high", "backlog_normal", "backlog_low",
	"parked", "stored_rate", "store_p99", "append_p99", "pressure", "memory", "oldest_age", "delivered_rate"}

func newStage(t *testing.T) *stage {
	s := &stage{token: "the-admin-token", cut: make(chan struct{}), news: make(chan struct{})}
	s.play(healthy(), true)
	mux := http.NewServeMux()
	mux.Handle("/", web.Handler())
	mux.HandleFunc("/events", s.events)
	mux.HandleFunc("/history.json", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		json.NewEncoder(w).Encode(object{"node": 1, "step_seconds": 5, "columns": columns, "points": s.hour})
	})
	mux.HandleFunc("/admin/v1/", s.admin)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		s.vanish()
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *stage) events(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	gone, cut := s.gone, s.cut
	s.mu.Unlock()
	if gone {
		http.Error(w, "", http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, "retry: 300\n\n")
	tick := time.NewTicker(time.Second) // as the appliance
	defer tick.Stop()
	for {
		s.mu.Lock()
		s.status["at"] = time.Now().UTC()
		b, _ := json.Marshal(s.status)
		news := s.news
		s.mu.Unlock()
		fmt.Fprintf(w, "data: %s\n\n", b)
		w.(http.Flusher).Flush()
		select {
		case <-tick.C:
		case <-news:
		case <-cut:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (s *stage) admin(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, password, _ := r.BasicAuth()
	if r.Header.Get("Authorization") != "Bearer "+s.token && password != s.token {
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"code":"unauthenticated","detail":"show the admin token"}`)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/admin/v1")
	switch {
	case r.Method != http.MethodGet:
		var body any
		json.NewDecoder(r.Body).Decode(&body)
		text, _ := json.Marshal(body)
		s.calls = append(s.calls, r.Method+" "+path+" "+string(text))
		fmt.Fprint(w, `{}`)
	case path == "/messages":
		json.NewEncoder(w).Encode(object{"data": s.messages, "has_more": false})
	default:
		json.NewEncoder(w).Encode(s.status)
	}
}

// play shows a status from now on, with a made-up hour behind it.
func (s *stage) play(status object, past bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.hour = status, nil
	close(s.news)
	s.news = make(chan struct{})
	if !past {
		return
	}
	intake, log := status["intake"].(object), status["log"].(object)
	now := time.Now().Unix() / 5 * 5
	down := status["store"].(object)["up"] == false
	for i := range 719 {
		t, x := float64(now-int64(719-i)*5), float64(i)
		wave := 1 + .18*math.Sin(x/47) + .07*math.Sin(x/6.1) + .05*math.Sin(x*1.7)
		in := number(intake["rate"]) * wave
		share := 0.0 // of the backlog that there is by now
		stored := in
		if down && i > 640 {
			share, stored = (x-640)/79, 0
		} else if !down {
			share = math.Max(0, .3+.7*math.Sin(x/31))
		}
		lane := func(n string) float64 { return math.Round(number(log["backlog"].(object)[n]) * share) }
		s.hour = append(s.hour, []float64{t, in, number(intake["refused_rate"]) * share, .0016 * wave, .0065 * wave * (1 + .6*math.Max(0, math.Sin(x/13))),
			lane("critical"), lane("high"), lane("normal"), lane("low"), 12, stored, .012, .004, .1 + .6*share*number(status["_pressure"]), .31 + .03*math.Sin(x/80), 1, in / 20})
	}
}

func number(v any) float64 {
	switch v := v.(type) {
	case int:
		return float64(v)
	case float64:
		return v
	}
	return 0
}

// vanish cuts every viewer off and answers none; appear answers again.
func (s *stage) vanish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		s.gone = true
		close(s.cut)
	}
}

func (s *stage) appear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone, s.cut = false, make(chan struct{})
}

func (s *stage) changes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

func ago(d time.Duration) time.Time { return time.Now().Add(-d).UTC() }

func healthy() object {
	return object{
		"node": 1, "version": "1.4.0", "at": time.Now().UTC(), "started_at": ago(75 * time.Hour), "uptime": 270000, "health": "ready", "_pressure": .2,
		"pressure": object{"level": "normal", "since": ago(70 * time.Hour), "signals": []object{signal("memory", "normal", .31), signal("window", "normal", .04), signal("disk", "normal", .03), signal("connections", "normal", .02)}},
		"intake": object{"rate": 1284.6, "accepted_total": 341_928_113, "refused": object{"rate_limited": 18213, "invalid": 412, "unauthenticated": 37}, "refused_rate": 0.02, "error_rate": 0.0,
			"latency": object{"p50": .0016, "p90": .0031, "p99": .0068}},
		"log": object{"backlog": object{"critical": 2, "high": 61, "normal": 204, "low": 18}, "parked": 12, "oldest_age_seconds": .2, "disk_bytes": 48 << 20, "disk_limit_bytes": 10 << 30,
			"free_bytes": 212 << 30, "min_free_bytes": 1 << 30, "capacity": 50000, "threshold": 40000, "backpressure": false, "full": false, "append_latency": object{"p50": .0009, "p90": .002, "p99": .0041}},
		"store": object{"kind": "postgres", "up": true, "rate": 1281.2, "batch_size": 214, "latency": object{"p50": .0058, "p90": .009, "p99": .014}, "pool": object{"acquired": 3, "idle": 9, "opening": 0, "max": 200}},
		"channels": []object{
			{"name": "email", "rate": 24.1, "breaker": "closed", "queued": 3, "in_flight": 2, "parked": 0, "sent": 812_344, "failed": 112},
			{"name": "webhook", "rate": 38.8, "breaker": "closed", "queued": 11, "in_flight": 8, "parked": 12, "sent": 2_112_002, "failed": 4031},
			{"name": "whatsapp", "rate": 61.3, "breaker": "closed", "queued": 6, "in_flight": 6, "parked": 0, "sent": 5_403_117, "failed": 960}},
		"breakers": []object{{"name": "email", "state": "closed", "failures": 0, "generation": 4}, {"name": "whatsapp", "state": "closed", "failures": 0, "generation": 2}, {"name": "webhook:hooks.example.com", "state": "closed", "failures": 1, "generation": 9}},
		"limiter": object{"mode": "distributed", "leases": 214, "commands_per_second": 11.2, "limited": 18213, "top_accounts": []object{
			{"account": "northwind", "tier": "enterprise", "rate": 7420, "limit": 10000}, {"account": "acme", "tier": "premium", "rate": 934, "limit": 1000}, {"account": "initech", "tier": "basic", "rate": 61, "limit": 100}}},
		"raft": object{"role": "leader", "term": 14, "leader": 1, "members": []object{
			{"node": 1, "address": "10.0.0.1:7000", "role": "leader", "reachable": true, "lag": 0}, {"node": 2, "address": "10.0.0.2:7000", "role": "voter", "reachable": true, "lag": 0}, {"node": 3, "address": "10.0.0.3:7000", "role": "voter", "reachable": true, "lag": 1}}},
		"memory": object{"used_bytes": 612 << 20, "limit_bytes": 2 << 30, "goroutines": 211},
		"config": object{"version": 12, "loaded_at": ago(26 * time.Hour), "history": []object{
			{"version": 12, "at": ago(26 * time.Hour), "who": "uid=0(root)", "source": "reload", "outcome": "applied", "changed": []string{"buffer.batch_size"}},
			{"version": 11, "at": ago(75 * time.Hour), "who": "uid=0(root)", "source": "start", "outcome": "applied", "changed": []string{"rate_limiting.tiers.premium.burst"}}}},
	}
}

func empty() object {
	s := healthy()
	s["uptime"], s["started_at"] = 12, ago(12*time.Second)
	s["intake"] = object{"rate": 0, "accepted_total": 0, "refused": object{}, "refused_rate": 0, "error_rate": 0, "latency": object{"p50": 0, "p90": 0, "p99": 0}}
	s["log"].(object)["backlog"], s["log"].(object)["oldest_age_seconds"], s["log"].(object)["parked"] = object{"critical": 0, "high": 0, "normal": 0, "low": 0}, 0, 0
	s["store"] = object{"kind": "embedded", "up": true, "rate": 0, "batch_size": 0, "latency": object{"p50": 0, "p90": 0, "p99": 0}}
	s["raft"] = object{"role": "leader", "term": 2, "leader": 1, "members": []object{{"node": 1, "address": "", "role": "leader"}}}
	s["config"] = object{"version": 1, "loaded_at": ago(12 * time.Second)}
	for _, section := range []string{"channels", "breakers", "limiter", "pressure"} {
		delete(s, section)
	}
	return s
}

func signal(name, level string, value float64) object {
	return object{"name": name, "level": level, "value": value}
}

func alert(name, subject, severity, summary, do string, since time.Duration) object {
	return object{"name": name, "subject": subject, "severity": severity, "since": ago(since), "summary": summary, "what_to_do": do}
}

func databaseDown() object {
	s := healthy()
	s["health"], s["_pressure"] = "degraded", .8
	s["log"].(object)["backlog"] = object{"critical": 1204, "high": 96_310, "normal": 310_882, "low": 99_104}
	s["log"].(object)["oldest_age_seconds"], s["log"].(object)["backpressure"], s["log"].(object)["disk_bytes"] = 395.0, true, 2<<30
	s["store"] = object{"kind": "postgres", "up": false, "rate": 0, "batch_size": 214, "down_since": ago(6 * time.Minute), "detail": "connection refused", "latency": object{"p50": 0, "p90": 0, "p99": 0}, "pool": object{"acquired": 0, "idle": 0, "opening": 1, "max": 200}}
	s["pressure"] = object{"level": "elevated", "since": ago(5 * time.Minute), "signals": []object{signal("window", "elevated", 10.15), signal("memory", "normal", .44), signal("log", "normal", .2), signal("connections", "normal", .02)}}
	s["alerts"] = []object{
		alert("database_down", "", "critical", "The database does not answer: connection refused.", "Bring the database back; the appliance connects by itself (database.url in `forebay config show`). Until then messages wait in the log, which has room for about 26 minutes at this rate.", 6*time.Minute),
		alert("backlog_age", "", "warning", "The oldest message has waited for 7 minutes (limit 60 s). Nothing is lost.", "The database is down, so everything waits; it drains by itself once the database is back.", 5*time.Minute)}
	return s
}

func memberAway() object {
	s := healthy()
	s["raft"].(object)["members"].([]object)[1]["reachable"] = false
	s["raft"].(object)["members"].([]object)[1]["lag"] = 41233
	s["breakers"].([]object)[2] = object{"name": "webhook:hooks.example.com", "state": "open", "open_on": []int{1}, "since": ago(80 * time.Second), "failures": 5, "generation": 10, "reason": "timeout after 15 s", "next_probe": time.Now().Add(20 * time.Second), "waiting": 840}
	s["channels"].([]object)[1]["breaker"], s["channels"].([]object)[1]["parked"] = "open", 840
	s["alerts"] = []object{
		alert("raft_member_away", "node 2", "warning", "Node 2 (10.0.0.2:7000) is not heard of.", "Start it, or mend the network between; it catches up by itself. If it never comes back: `forebay cluster remove 2`.", 2*time.Minute),
		alert("breaker_open", "webhook:hooks.example.com", "warning", "webhook:hooks.example.com cannot be reached from this node (1) alone, and the others reach it; its messages wait: timeout after 15 s.", "Look whether it is up and reachable from there (proxy, firewall, credentials). A probe tries by itself in 20 s; `forebay breaker close webhook:hooks.example.com` tries at once.", 80*time.Second)}
	return s
}

func backlogGrowing() object {
	s := healthy()
	s["_pressure"] = 1.5
	s["memory"].(object)["used_bytes"] = 1700 << 20
	s["intake"].(object)["rate"], s["intake"].(object)["refused_rate"] = 10480.0, 212.0
	s["intake"].(object)["refused"].(object)["overloaded"] = 91233
	s["store"].(object)["rate"], s["store"].(object)["latency"] = 4120.0, object{"p50": .42, "p90": .7, "p99": 1.3}
	s["log"].(object)["backlog"] = object{"critical": 12, "high": 2410, "normal": 48_201, "low": 31_770}
	s["log"].(object)["oldest_age_seconds"], s["log"].(object)["backpressure"] = 71.0, true
	s["pressure"] = object{"level": "high", "since": ago(time.Minute), "signals": []object{signal("memory", "high", .88), signal("window", "elevated", 1.65), signal("store", "elevated", .91), signal("disk", "normal", .2)}}
	s["intake"].(object)["error_rate"] = .021
	s["alerts"] = []object{
		alert("error_rate", "", "critical", "2.1 % of submissions are answered with a server error (limit 1.0 %).", "Look which code grows under “refused” (`forebay status`): overloaded and storage_full are cured by what the other alerts say; for unavailable look into the journal (`journalctl -u forebay -p warning`).", 50*time.Second),
		alert("pressure", "", "warning", "Pressure is high: submissions of priority low are refused, and so are lists of messages.", "It comes from memory, at 88 % of the limit: 1802MiB of 2048MiB (memory.limit). Lower buffer.capacity, or raise memory.limit.", time.Minute),
		alert("backlog_age", "", "warning", "The oldest message has waited for 71 s (limit 60 s). Nothing is lost.", "The database takes less than what comes in: look at the time of a batch and at the slow queries (`forebay status`), and raise buffer.batch_size or give the database more.", 20*time.Second)}
	return s
}
