package wal

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forebay/wal/message"
)

// metrics are the log's Prometheus metrics.
type metrics struct {
	registerer prometheus.Registerer
	collectors []prometheus.Collector

	append  prometheus.Histogram
	batch   prometheus.Histogram
	scrubs  prometheus.Counter
	reclaim prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, l *Log) *metrics {
	m := &metrics{
		registerer: reg,
		append: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "forebay_wal_append_duration_seconds",
			Help:                        "Time of one group commit, from gathering to synced.",
			Buckets:                     prometheus.ExponentialBuckets(0.0002, 2, 14),
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "forebay_wal_batch_messages",
			Help:    "Messages accepted in one group commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 14),
		}),
		scrubs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "forebay_wal_scrubs_total", Help: "Counts of the live records against the writer's own count.",
		}),
		reclaim: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "forebay_wal_reclaims_total", Help: "Compactions of the whole log to give disk space back.",
		}),
	}
	m.collectors = []prometheus.Collector{m.append, m.batch, m.scrubs, m.reclaim, newStatsCollector(l)}
	if reg != nil {
		reg.MustRegister(m.collectors...)
	}
	return m
}

// AppendDuration is the histogram of the time of one group commit, in seconds.
func (l *Log) AppendDuration() prometheus.Metric { return l.metrics.append }

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.collectors {
		m.registerer.Unregister(c)
	}
}

// committed counts one commit of the writer.
func (m *metrics) committed(took time.Duration, b *batch) {
	if b.change.appended > 0 {
		m.append.Observe(took.Seconds())
		m.batch.Observe(float64(b.change.appended))
	}
}

// Stats is what the log holds at one moment.
type Stats struct {
	Backlog   [message.Lanes]int // by lane: not complete, without those that are parked
	Waiting   int                // of these, not handed out
	InMemory  int                // of these, in memory
	Taken     int                // handed out and not complete
	Parked    int
	Oldest    time.Duration // age of the oldest message that waits or is taken; 0: none
	LiveBytes int64
	DiskBytes int64 // allocated
	FreeBytes int64 // of the file system
	Full      bool  // nothing is accepted: disk

	Backpressure bool // the backlog is over its threshold

	Appended  uint64 // since Open
	Completed uint64 // since Open
	LastSeq   uint64 // highest durable sequence number
	Commits   uint64 // since Open: each is one sync
}

// Stats measures the log. It costs time in proportion to what is handed out and
// not complete, so ask about once a second.
func (l *Log) Stats() Stats {
	t := l.writer.tally()
	s := Stats{
		Parked: int(t.parked), LiveBytes: t.liveBytes, Appended: t.appended, Completed: t.completed, Commits: t.commits,
		DiskBytes: l.disk.Load(), FreeBytes: l.free.Load(), Full: l.full.Load(), LastSeq: l.writer.tide().Seq,
	}
	oldest := l.window.survey(&s)
	if now := l.clock.now(); oldest != 0 && now > oldest {
		s.Oldest = time.Duration(now-oldest) * time.Millisecond
	}
	return s
}

// survey fills in what the window knows and returns when the oldest message
// was accepted.
func (w *window) survey(s *Stats) (oldest uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	note := func(ms uint64) {
		if ms != 0 && (oldest == 0 || ms < oldest) {
			oldest = ms
		}
	}
	for i := range w.lanes {
		l := &w.lanes[i]
		s.Backlog[i] = l.waiting()
		s.Waiting += l.waiting()
		note(l.oldest())
	}
	for id := range w.taken {
		s.Backlog[id.Lane()]++
		note(id.Millis())
	}
	s.InMemory, s.Taken, s.Backpressure = w.count, len(w.taken), w.tight
	return oldest
}

// lowest returns for each lane an ID below which nothing lives, given the last
// one issued.
func (w *window) lowest(last message.ID) (low [message.Lanes]message.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.lanes {
		l := &w.lanes[i]
		switch {
		case l.returned.len() > 0 || len(l.early) > 0:
			low[i] = message.ID{} // rare, and as old as they like
			continue
		case l.ready.len() > 0:
			low[i] = l.ready.first().ID
		case l.onDisk > 0:
			low[i] = l.loaded
		default:
			low[i] = last
		}
	}
	for id := range w.taken {
		if p := id.Lane(); id.Compare(low[p]) < 0 {
			low[p] = id
		}
	}
	return low
}

// statsCollector makes gauges of Stats.
type statsCollector struct {
	log                         *Log
	backlog, oldest, disk, free *prometheus.Desc
	parked, backpressure        *prometheus.Desc
}

func newStatsCollector(l *Log) *statsCollector {
	return &statsCollector{
		log:          l,
		backlog:      prometheus.NewDesc("forebay_wal_backlog_messages", "Messages accepted and not complete, without those that are parked.", []string{"lane"}, nil),
		parked:       prometheus.NewDesc("forebay_wal_parked_messages", "Messages that wait on disk for their time.", nil, nil),
		oldest:       prometheus.NewDesc("forebay_wal_oldest_age_seconds", "Age of the oldest message that waits or is being stored.", nil, nil),
		backpressure: prometheus.NewDesc("forebay_wal_backpressure", "1 while the backlog is over its threshold and new messages stay on disk only.", nil, nil),
		disk:         prometheus.NewDesc("forebay_wal_disk_bytes", "Allocated size of the log on disk.", nil, nil),
		free:         prometheus.NewDesc("forebay_wal_disk_free_bytes", "Free space of the log's file system.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *statsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.backlog, c.parked, c.backpressure, c.oldest, c.disk, c.free} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *statsCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.log.Stats()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for lane, n := range s.Backlog {
		gauge(c.backlog, float64(n), message.Priority(lane).String())
	}
	gauge(c.parked, float64(s.Parked))
	tight := 0.0
	if s.Backpressure {
		tight = 1
	}
	gauge(c.backpressure, tight)
	gauge(c.oldest, s.Oldest.Seconds())
	gauge(c.disk, float64(s.DiskBytes))
	gauge(c.free, float64(s.FreeBytes))
}
