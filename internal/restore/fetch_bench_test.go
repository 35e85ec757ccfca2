package restore_test

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
)

// cpu returns the processor time that was used so far: on a busy machine it says more than the clock.
func cpu(b *testing.B, who int) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFetch runs a restore_command for each segment, as PostgreSQL does: a process each.
func BenchmarkFetch(b *testing.B) {
	w := newWorld(b, pgtest.Options{Version: "15"})
	w.s.Exec("", "CREATE TABLE t AS SELECT i, random() FROM generate_series(1, 300000) AS i", "SELECT pg_switch_wal()")
	_, end := w.archive(w.s)
	size := wal.DefaultSegmentSize
	first := size.Segment(end) - 1
	segment, err := os.ReadFile(filepath.Join(w.s.DataDir, "pg_wal", wal.SegmentName(1, first, size)))
	if err != nil {
		b.Fatal(err)
	}
	const segments = 100
	w.s.Stop(pgtest.Fast)
	log := w.r.Log(system)
	for i := range wal.SegmentNumber(segments) {
		at := size.Start(first + i)
		binary.LittleEndian.PutUint64(segment[8:], uint64(at)) // it says where it belongs
		if err := log.Encoder().Put(b.Context(), 1, uint64(at), segment, repo.ExtentClock{Writer: time.Now()}, repo.Fast); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("served", func(b *testing.B) {
		p := walserve.Policy{System: system, SegmentSize: uint32(size), Bounded: true}
		ctx, stop := context.WithCancel(b.Context())
		ended := make(chan error)
		dir := b.TempDir()
		source := walserve.NewSource(w.r, p)
		source.DataDir = filepath.Dir(dir)
		go func() { ended <- (&walserve.Prefetcher{Source: source}).Run(ctx, dir) }()
		before := cpu(b, unix.RUSAGE_SELF)
		n := 0
		for b.Loop() {
			for i := range wal.SegmentNumber(segments) {
				r := walserve.Fetch(ctx, wal.SegmentName(1, first+i, size), filepath.Join(dir, "RECOVERYXLOG"), walserve.FetchOptions{
					Open: func(context.Context) (*walserve.Source, error) { return walserve.NewSource(w.r, p), nil },
				})
				if r.Outcome != walserve.Served {
					b.Fatal(r.Err())
				}
				n++
			}
		}
		b.ReportMetric((cpu(b, unix.RUSAGE_SELF)-before).Seconds()*1000/float64(n), "server-cpu-ms/segment")
		stop()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
	})
	b.Run("processes", func(b *testing.B) { w.fetchByProcesses(b, first, segments) })
}

func (w *world) fetchByProcesses(b *testing.B, first wal.SegmentNumber, segments float64) {
	size := wal.DefaultSegmentSize
	for b.Loop() {
		dir := filepath.Join(b.TempDir(), "data")
		if err := os.MkdirAll(filepath.Join(dir, "pg_wal"), 0o700); err != nil {
			b.Fatal(err)
		}
		p, err := walserve.Policy{System: system, SegmentSize: uint32(size), Bounded: true}.Encode()
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, walserve.PolicyName), p, 0o600); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		before := cpu(b, unix.RUSAGE_CHILDREN)
		for i := range wal.SegmentNumber(segments) {
			cmd := exec.Command(w.bin, wal.SegmentName(1, first+i, size), "pg_wal/RECOVERYXLOG")
			cmd.Dir, cmd.Env = dir, append(os.Environ(), roleEnv+"=fetch", repoEnv+"="+w.dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("segment %d: %v\n%s", i, err, out)
			}
		}
		b.ReportMetric((cpu(b, unix.RUSAGE_CHILDREN)-before).Seconds()*1000/segments, "client-cpu-ms/segment")
		b.ReportMetric(segments/time.Since(began).Seconds(), "segments/s")
		walserve.Stop(b.Context(), dir)
	}
}
