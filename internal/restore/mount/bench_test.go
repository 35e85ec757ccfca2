package mount_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// How long it takes until the first query is answered: of a small database and one four times as large, from a store that is near and one
// that is 20 ms away.
func BenchmarkFirstQuery(b *testing.B) {
	for _, size := range []int{1, 4} {
		w := newWorld(b, fmt.Sprintf("CREATE TABLE t AS SELECT i, md5(i::text) || md5((i+1)::text) AS s FROM generate_series(1, %d) AS i", size*1_000_000), "ALTER TABLE t ADD PRIMARY KEY (i)")
		w.archive()
		for _, delay := range []time.Duration{0, 20 * time.Millisecond} {
			b.Run(fmt.Sprintf("size=%d/delay=%s", size, delay), func(b *testing.B) {
				for n := range b.N {
					w.firstQuery(b, delay, w.path(fmt.Sprintf("m-%d-%s-%d-%d", size, delay, b.N, n)))
				}
			})
		}
	}
}

func (w *world) firstQuery(b *testing.B, delay time.Duration, dir string) {
	st, err := local.Open(w.dir, local.Options{})
	if err != nil {
		b.Fatal(err)
	}
	watched := w.watched()
	began := time.Now()
	r, err := openRepository(b.Context(), storetest.Far(st, delay))
	if err != nil {
		b.Fatal(err)
	}
	p, err := plan(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	planned := time.Now()
	m, err := mount.Begin(b.Context(), r, p, dir, mount.Options{Owner: w.owner, Settings: watched})
	if err != nil {
		b.Fatal(err)
	}
	mounted := time.Now()
	hydrated := make(chan error, 1)
	go func() { hydrated <- m.Hydrate(b.Context()) }()
	s, _, err := boot.Start(b.Context(), dir, p, boot.Options{BinDir: w.s.BinDir, Owner: w.owner, Ending: restore.Follow, Log: r})
	if err != nil {
		b.Fatal(err)
	}
	first := time.Now()
	b.ReportMetric(first.Sub(began).Seconds(), "s/first-query")
	b.ReportMetric(planned.Sub(began).Seconds(), "s/plan")
	b.ReportMetric(mounted.Sub(planned).Seconds(), "s/mount")
	b.ReportMetric(first.Sub(mounted).Seconds(), "s/recovery")
	b.ReportMetric(float64(m.Fetched())/(1<<20), "MiB-then")
	b.ReportMetric(float64(m.State().Bytes)/(1<<20), "MiB")
	if err := <-hydrated; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(mounted).Seconds(), "s/whole")
	b.StopTimer()
	if err := s.Stop(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := m.Close(); err != nil {
		b.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		b.Fatal(err)
	}
	r.Close() //nolint:errcheck // only read
	b.StartTimer()
}
