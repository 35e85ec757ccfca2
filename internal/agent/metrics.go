package agent

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/holdfast-dr/holdfast/internal/standby"
	"github.com/holdfast-dr/holdfast/internal/verify"
)

// metric is one of ours. docs/metrics.md describes each, and a test compares.
type metric struct {
	name   string
	help   string
	kind   prometheus.ValueType
	labels []string // beside "system"
	read   func(s SystemStatus, emit func(value float64, labels ...string))
}

// metrics are told for each system. What is not known is left out, rather than told as 0. Times are told as the
// moments when things happened, never as ages: an agent that is stuck must look old, not young.
var metrics = []metric{
	{
		"holdfast_recovery_point_timestamp_seconds", "Newest moment that can be recovered.", prometheus.GaugeValue,
		[]string{"repository", "site"},
		func(s SystemStatus, emit func(float64, ...string)) {
			if !s.RecoveryPoint.IsZero() {
				emit(seconds(s.RecoveryPoint.UnixNano()), s.Repository, s.Site)
			}
			for _, r := range s.Replicas {
				if !r.RecoveryPoint.IsZero() {
					emit(seconds(r.RecoveryPoint.UnixNano()), s.Repository, r.Site)
				}
			}
		},
	},
	replica("holdfast_replica_reachable", "1 while a system can be copied to another site, otherwise 0.", prometheus.GaugeValue,
		func(r ReplicaStatus) float64 { return truth(r.Error == "") }),
	replica("holdfast_replica_failures_total", "Tries to copy to another site that failed since the agent was started.", prometheus.CounterValue,
		func(r ReplicaStatus) float64 { return float64(r.Failures) }),
	stream("holdfast_log_stream_connected", "1 while the log is received, otherwise 0.", prometheus.GaugeValue,
		func(s *StreamStatus) float64 { return truth(s.Connected) }),
	stream("holdfast_log_received_lsn_bytes", "Position up to which the log was received.", prometheus.GaugeValue,
		func(s *StreamStatus) float64 { return float64(s.Received) }),
	stream("holdfast_log_durable_lsn_bytes", "Position up to which the repository holds the log.", prometheus.GaugeValue,
		func(s *StreamStatus) float64 { return float64(s.Durable) }),
	stream("holdfast_log_lag_bytes", "Log that the source has and the repository does not, as the source told last.", prometheus.GaugeValue,
		func(s *StreamStatus) float64 { return float64(s.Lag) }),
	stream("holdfast_log_spool_bytes", "Size of the spool on this host's disk.", prometheus.GaugeValue,
		func(s *StreamStatus) float64 { return float64(s.Spooled) }),
	stream("holdfast_log_gaps", "Gaps of the log that were noticed since the stream began.", prometheus.GaugeValue,
		func(s *StreamStatus) float64 { return float64(len(s.Gaps)) }),
	stream("holdfast_log_store_requests_total", "Requests to the store made by the log stream.", prometheus.CounterValue,
		func(s *StreamStatus) float64 { return float64(s.Requests) }),
	{
		"holdfast_log_site_member", "1 while what comes of the log is written at that site, otherwise 0.", prometheus.GaugeValue,
		[]string{"repository", "site"},
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Stream != nil && s.Stream.Copies != nil {
				for _, c := range s.Stream.Copies.Sites {
					emit(truth(c.Member), s.Repository, c.Site)
				}
			}
		},
	},
	{
		"holdfast_log_sites_short", "1 while the log is acknowledged with fewer sites than the policy says, otherwise 0.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Stream != nil && s.Stream.Copies != nil {
				emit(truth(s.Stream.Copies.GaveUp))
			}
		},
	},
	scrubbing("holdfast_scrub_bytes", "Bytes of a replica by how they were read: verified within the window, young, overdue, damaged.", prometheus.GaugeValue, "state",
		func(s ScrubStatus, emit func(float64, string)) {
			if !s.Listed.IsZero() {
				emit(float64(s.Verified), "verified")
				emit(float64(s.Young), "young")
				emit(float64(s.Overdue), "overdue")
				emit(float64(s.Damaged), "damaged")
			}
		}),
	scrubbing("holdfast_scrub_unseen_ratio", "Chance that damage is not seen yet, by its age in windows.", prometheus.GaugeValue, "age",
		func(s ScrubStatus, emit func(float64, string)) {
			for _, u := range s.Unseen {
				emit(u.Share, strconv.FormatFloat(float64(u.Age)/float64(s.Window), 'g', 3, 64))
			}
		}),
	scrubbed("holdfast_scrub_oldest_timestamp_seconds", "When the byte was read for which that is longest ago, or written if never.", prometheus.GaugeValue,
		func(s ScrubStatus) (float64, bool) { return seconds(s.Oldest.UnixNano()), !s.Oldest.IsZero() }),
	scrubbed("holdfast_scrub_left", "Objects that are damaged or missing, and could not be put back.", prometheus.GaugeValue,
		func(s ScrubStatus) (float64, bool) { return float64(len(s.Left)), true }),
	scrubbed("holdfast_scrub_read_bytes_total", "Bytes that were read again since the agent was started.", prometheus.CounterValue,
		func(s ScrubStatus) (float64, bool) { return float64(s.Read), true }),
	scrubbed("holdfast_scrub_found_total", "Objects found damaged or missing since the agent was started.", prometheus.CounterValue,
		func(s ScrubStatus) (float64, bool) { return float64(s.Found), true }),
	scrubbed("holdfast_scrub_healed_total", "Objects put back since the agent was started.", prometheus.CounterValue,
		func(s ScrubStatus) (float64, bool) { return float64(s.Healed), true }),
	warm("holdfast_standby_following", "1 while the standby on this host follows the repository's log, otherwise 0.",
		func(s *standby.Status) (float64, bool) {
			return truth(s.Phase == standby.PhaseFollowing && s.Problem == ""), s.Phase != standby.PhasePromoted
		}),
	warm("holdfast_standby_lag_bytes", "Log that the repository holds and the standby on this host has not replayed.",
		func(s *standby.Status) (float64, bool) { return float64(s.LagBytes), s.Phase == standby.PhaseFollowing }),
	warm("holdfast_standby_lag_seconds", "From the last commit that the standby on this host has replayed to the newest one in the repository.",
		func(s *standby.Status) (float64, bool) { return s.Lag.Seconds(), s.Phase == standby.PhaseFollowing }),
	warm("holdfast_standby_last_commit_timestamp_seconds", "Last commit that the standby on this host has replayed, by the source's clock.",
		func(s *standby.Status) (float64, bool) {
			return seconds(s.LastCommit.UnixNano()), s.Phase == standby.PhaseFollowing && !s.LastCommit.IsZero()
		}),
	warm("holdfast_standby_streaming", "1 while the log comes to the standby on this host from its primary, 0 while it comes from the repository.",
		func(s *standby.Status) (float64, bool) {
			return truth(s.LogFrom == standby.FromPrimary), s.Phase == standby.PhaseFollowing && (s.LogFrom == standby.FromPrimary || s.Severed != "")
		}),
	stream("holdfast_slot_retained_bytes", "Log that the source keeps back for us in its slot.", prometheus.GaugeValue,
		func(s *StreamStatus) float64 { return float64(s.SlotRetained) }),
	{
		"holdfast_slot_limit_bytes", "Log that the source may keep back before the slot is lost.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Stream != nil && s.Stream.SlotLimit > 0 {
				emit(float64(s.Stream.SlotLimit))
			}
		},
	},
	snapshot("holdfast_snapshot_last_timestamp_seconds", "When the newest snapshot was finished.",
		func(l *LastSnapshot) float64 { return seconds(l.Finished.UnixNano()) }),
	snapshot("holdfast_snapshot_last_duration_seconds", "How long the newest snapshot took.",
		func(l *LastSnapshot) float64 { return l.Finished.Sub(l.Started).Seconds() }),
	snapshot("holdfast_snapshot_last_bytes", "Size of the newest snapshot.",
		func(l *LastSnapshot) float64 { return float64(l.Bytes) }),
	snapshot("holdfast_snapshot_last_added_bytes", "Bytes that the newest snapshot added to the store.",
		func(l *LastSnapshot) float64 { return float64(l.Added) }),
	{
		"holdfast_snapshot_missed_pages", "Pages that changed without a word in the log, while snapshots are kept that may lack such changes.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			n := int64(len(s.State.Found))
			if s.State.Alarm != nil {
				n += s.State.Alarm.Missed
			}
			if s.State.Last != nil || n > 0 {
				emit(float64(n))
			}
		},
	},
	{
		"holdfast_snapshot_fragmentation_ratio", "Pages decoded to read the newest snapshot, for each page that it has.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.State.Fragmentation > 0 {
				emit(s.State.Fragmentation)
			}
		},
	},
	{
		"holdfast_optimize_budget_bytes", "Bytes that may be stored again to bound the fragmentation, before compression.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.State.Fragmentation > 0 {
				emit(float64(s.State.Budget))
			}
		},
	},
	{
		"holdfast_snapshot_last_success", "1 where the last try to take a snapshot succeeded, otherwise 0.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if !s.State.Snapshot.Finished.IsZero() {
				emit(truth(s.State.Snapshot.Failures == 0))
			}
		},
	},
	{
		"holdfast_snapshot_next_timestamp_seconds", "When the next snapshot is due, or was.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if !s.State.Next.IsZero() {
				emit(seconds(s.State.Next.UnixNano()))
			}
		},
	},
	{
		"holdfast_task_last_success_timestamp_seconds", "When the last run of a task that succeeded was begun.", prometheus.GaugeValue,
		[]string{"task"},
		func(s SystemStatus, emit func(float64, ...string)) {
			for _, t := range tasks {
				if at := s.State.run(t).Succeeded; !at.IsZero() {
					emit(seconds(at.UnixNano()), string(t))
				}
			}
		},
	},
	{
		"holdfast_restore_test_last_timestamp_seconds", "When the last restore test that could be run was finished.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Tests != nil && s.Tests.Last != nil {
				emit(seconds(s.Tests.Last.Finished.UnixNano()))
			}
		},
	},
	{
		"holdfast_restore_test_last_success", "1 where it passed, otherwise 0.", prometheus.GaugeValue,
		[]string{"depth"},
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Tests != nil && s.Tests.Last != nil {
				emit(truth(s.Tests.Last.Outcome == verify.Passed), string(s.Tests.Last.Depth))
			}
		},
	},
	{
		"holdfast_restore_test_proven_timestamp_seconds", "When the newest restore test was finished that passed a depth, or a deeper one.", prometheus.GaugeValue,
		[]string{"depth"},
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Tests == nil {
				return
			}
			for i, p := range s.Tests.Proven { // in the order of the depths, of which none is missing before one that is there
				emit(seconds(p.Finished.UnixNano()), string(verify.Depths[i]))
			}
		},
	},
	{
		"holdfast_restore_test_rto_seconds", "Recovery time that the newest restore test with a server measured.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Tests != nil && s.Tests.Booted != nil {
				emit(s.Tests.Booted.RTO.Seconds())
			}
		},
	},
	{
		"holdfast_restore_test_phase_seconds", "Its phases, those that are no part of a recovery among them.", prometheus.GaugeValue,
		[]string{"phase"},
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Tests == nil || s.Tests.Booted == nil {
				return
			}
			sum := map[string]time.Duration{} // a server may have been started twice
			for _, p := range s.Tests.Booted.Phases {
				sum[p.Name] += p.Took
			}
			for name, took := range sum {
				emit(took.Seconds(), name)
			}
		},
	},
	{
		"holdfast_failures_total", "Failures since the agent was started.", prometheus.CounterValue,
		[]string{"kind"},
		func(s SystemStatus, emit func(float64, ...string)) {
			for kind, n := range s.Failures {
				emit(float64(n), kind)
			}
		},
	},
	{
		"holdfast_store_requests_total", "Requests to the store since the agent was started.", prometheus.CounterValue,
		[]string{"repository", "operation", "result"},
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Store == nil {
				return
			}
			for _, r := range s.Store.Requests {
				emit(float64(r.Count), s.Repository, r.Operation, r.Result)
			}
		},
	},
	{
		"holdfast_store_bytes_total", "Bytes that went to the store and came from it since the agent was started.", prometheus.CounterValue,
		[]string{"repository", "direction"},
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.Store != nil {
				emit(float64(s.Store.Sent), s.Repository, "sent")
				emit(float64(s.Store.Received), s.Repository, "received")
			}
		},
	},
	{
		"holdfast_healthy", "1 where the system is protected as its policy says, otherwise 0.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) { emit(truth(s.Healthy)) },
	},
	{
		"holdfast_objective_rpo_seconds", "Recovery point objective of the policy.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.RPO > 0 {
				emit(s.RPO)
			}
		},
	},
	{
		"holdfast_objective_rto_seconds", "Recovery time objective of the policy.", prometheus.GaugeValue, nil,
		func(s SystemStatus, emit func(float64, ...string)) {
			if s.RTO > 0 {
				emit(s.RTO)
			}
		},
	},
}

func stream(name, help string, kind prometheus.ValueType, read func(*StreamStatus) float64) metric {
	return metric{name, help, kind, nil, func(s SystemStatus, emit func(float64, ...string)) {
		if s.Stream != nil {
			emit(read(s.Stream))
		}
	}}
}

func replica(name, help string, kind prometheus.ValueType, read func(ReplicaStatus) float64) metric {
	return metric{name, help, kind, []string{"repository", "site"}, func(s SystemStatus, emit func(float64, ...string)) {
		for _, r := range s.Replicas {
			emit(read(r), s.Repository, r.Site)
		}
	}}
}

// scrubbing is one of a replica that is read over and over, by another label.
func scrubbing(name, help string, kind prometheus.ValueType, by string, read func(ScrubStatus, func(float64, string))) metric {
	return metric{name, help, kind, []string{"repository", "site", by}, func(s SystemStatus, emit func(float64, ...string)) {
		for _, x := range s.Scrubs {
			read(x, func(v float64, of string) { emit(v, s.Repository, x.Site, of) })
		}
	}}
}

// scrubbed is one of a replica that is read over and over; read says whether the value is known.
func scrubbed(name, help string, kind prometheus.ValueType, read func(ScrubStatus) (float64, bool)) metric {
	return metric{name, help, kind, []string{"repository", "site"}, func(s SystemStatus, emit func(float64, ...string)) {
		for _, x := range s.Scrubs {
			if v, known := read(x); known {
				emit(v, s.Repository, x.Site)
			}
		}
	}}
}

// warm is one of a standby; read says whether the value is known.
func warm(name, help string, read func(*standby.Status) (value float64, known bool)) metric {
	return metric{name, help, prometheus.GaugeValue, nil, func(s SystemStatus, emit func(float64, ...string)) {
		if s.Standby == nil {
			return
		}
		if v, known := read(s.Standby); known {
			emit(v)
		}
	}}
}

func snapshot(name, help string, read func(*LastSnapshot) float64) metric {
	return metric{name, help, prometheus.GaugeValue, nil, func(s SystemStatus, emit func(float64, ...string)) {
		if s.State.Last != nil {
			emit(read(s.State.Last))
		}
	}}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(nanoseconds int64) float64 { return float64(nanoseconds) / 1e9 }

// collector tells Prometheus what status says at the moment of the scrape.
type collector struct {
	status func() Status
	descs  []*prometheus.Desc // of metrics, in their order
}

// newRegistry returns a registry of our own: what other packages put into the global one is not ours to tell.
func newRegistry(version string, status func() Status) *prometheus.Registry {
	c := &collector{status: status}
	for _, m := range metrics {
		c.descs = append(c.descs, prometheus.NewDesc(m.name, m.help, append([]string{"system"}, m.labels...), nil))
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "holdfast_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	build.Set(1)
	r := prometheus.NewRegistry()
	r.MustRegister(c, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

var _ prometheus.Collector = (*collector)(nil)

// Describe sends the descriptions.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect sends the values.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.status().Systems {
		for i, m := range metrics {
			m.read(s, func(value float64, labels ...string) {
				ch <- prometheus.MustNewConstMetric(c.descs[i], m.kind, value, append([]string{string(s.System)}, labels...)...)
			})
		}
	}
}
