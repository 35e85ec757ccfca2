package changed

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest/workload"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// BenchmarkDecode reads real logs from memory: small records as between checkpoints, and page images as after one.
func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct{ name, pageWrites, statement string }{
		{"small", "off", "UPDATE t SET n = n + 1 WHERE i % 3 = 0"},
		{"images", "on", "UPDATE t SET n = n + 1 WHERE i % 60 = 0"},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := pgtest.Start(b, pgtest.Options{Version: "15", Conf: workload.Conf(map[string]string{"full_page_writes": c.pageWrites, "autovacuum": "off"})})
			s.Exec("", "CREATE TABLE t AS SELECT i, 0 AS n, repeat('x', 60) AS v FROM generate_series(1, 200000) i", "CREATE INDEX ON t (i)", "CREATE INDEX ON t (n)", "VACUUM t")
			s.Stop(pgtest.Fast)
			from := takeImage(b, s).control
			s.Start()
			for range 4 {
				s.Exec("", "CHECKPOINT", c.statement)
			}
			s.Stop(pgtest.Fast)
			to := takeImage(b, s).control
			log := logBetween(b, s.DataDir, from.WALSegmentSize, from.Redo-from.Redo%wal.PageSize, to.Redo)
			b.SetBytes(int64(len(log)))
			before, n := processorTime(b), 0
			for b.Loop() {
				n++
				d := newTestDecoder(b, from, from.Redo)
				if _, err := d.Write(log); err != nil {
					b.Fatal(err)
				}
				if m := d.Cut(); m.End != normal(to.Redo, from.WALSegmentSize) || len(m.Encode()) < 20 {
					b.Fatal("the map is not that of the whole log")
				}
			}
			b.ReportMetric(float64(n*len(log))/1e9/(processorTime(b)-before).Seconds(), "GB/cpu-s")
		})
	}
}

// processorTime is what this process has used: on a shared machine the clock says little.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func logBetween(t testing.TB, dataDir string, size wal.SegmentSize, from, to wal.LSN) []byte {
	t.Helper()
	var log []byte
	for at := size.Floor(from); at < to; at += wal.LSN(size) {
		b, err := os.ReadFile(filepath.Join(dataDir, "pg_wal", wal.SegmentName(1, size.Segment(at), size)))
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, b...)
	}
	return log[from-size.Floor(from) : to-size.Floor(from)]
}
