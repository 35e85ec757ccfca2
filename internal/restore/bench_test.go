package restore_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/restore"
)

// BenchmarkRestore restores a cluster of pgbench-like tables from a warm local repository: fresh, and as a delta
// over a directory in which nothing has changed.
func BenchmarkRestore(b *testing.B) {
	w := newWorld(b, pgtest.Options{Version: "15", Checksums: true, Conf: map[string]string{"max_wal_size": "8GB"}})
	w.s.Exec("", `CREATE UNLOGGED TABLE a AS SELECT i AS aid, 1 AS bid, (random() * 100000)::int AS abalance,
		repeat(' ', 84)::char(84) AS filler FROM generate_series(1, 6000000) AS i`, "ALTER TABLE a SET LOGGED", "ALTER TABLE a ADD PRIMARY KEY (aid)", "VACUUM a")
	w.snapshot(w.s)
	w.archive(w.s)
	p := w.mustPlan("immediate")
	o := w.options("to")
	run := func(b *testing.B) {
		before := cpu(b, unix.RUSAGE_SELF)
		result, err := restore.Run(b.Context(), w.r, p, o)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric((cpu(b, unix.RUSAGE_SELF)-before).Seconds()*1e9/float64(result.Bytes), "cpu-s/GB")
		b.SetBytes(result.Bytes)
		b.ReportMetric(float64(result.Bytes)/result.Took.Seconds()/1e9, "GB/s")
	}
	b.Run("fresh", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if err := os.RemoveAll(o.To); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			run(b)
		}
	})
	o.Mode = restore.Delta
	b.Run("delta", func(b *testing.B) {
		for b.Loop() {
			run(b)
		}
	})
}
