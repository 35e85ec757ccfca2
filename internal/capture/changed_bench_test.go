package capture_test

import (
	"testing"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// BenchmarkSnapshot takes snapshots of a cluster of a gigabyte of which one page in a hundred changed, at random: beside
// it, from afar over SQL, and from afar over BASE_BACKUP.
func BenchmarkSnapshot(b *testing.B) {
	s := pgtest.Start(b, pgtest.Options{Conf: quietConf(map[string]string{"shared_buffers": "256MB"})})
	s.Exec("", "CREATE TABLE t (i int, s text) WITH (fillfactor = 90)",
		"INSERT INTO t SELECT i, md5(i::text) || repeat('holdfast ', 80) FROM generate_series(1, 1200000) i",
		"CREATE INDEX ON t (i)", "VACUUM t", "CHECKPOINT")
	for _, c := range []struct {
		name  string
		local bool
		scan  capture.Scan
	}{
		{"beside", true, capture.ScanChanged}, {"sql", false, capture.ScanChanged}, {"base-backup", false, capture.ScanFull},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRepository(b)
			log := r.Log(logSystem)
			if err := log.Register(b.Context(), repo.DefaultGroup); err != nil {
				b.Fatal(err)
			}
			cfg := snapshotConfig(s, c.local)
			stream := startStream(b, capture.StreamConfig{Connection: s.ConnString(""), Log: log})
			cfg.WaitLog = waitStream(stream)
			if _, err := capture.Snapshot(b.Context(), r, cfg); err != nil {
				b.Fatal(err)
			}
			cfg.Scan = c.scan
			for b.Loop() {
				b.StopTimer()
				s.Exec("", "UPDATE t SET i = -i WHERE i IN (SELECT (random() * 1200000)::int FROM generate_series(1, 1300))", "CHECKPOINT")
				b.StartTimer()
				report, err := capture.Snapshot(b.Context(), r, cfg)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(report.Pages), "pages")
				b.ReportMetric(report.Copy.Seconds(), "s-copy")
				if c.scan == capture.ScanChanged && report.FullScan != "" {
					b.Fatal(report.FullScan)
				}
			}
			if err := stream.stop(); err != nil {
				b.Log(err)
			}
			s.Until(b, "", "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
			s.Exec("", "SELECT pg_drop_replication_slot('holdfast')")
		})
	}
}
