package points_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

var (
	yearSystems   = flag.Int("year.systems", 2, "systems of TestAYearIsOpened")
	yearSnapshots = flag.Int("year.snapshots", 1100, "hourly snapshots of each: a year has 8760")
	yearDelay     = flag.Duration("year.delay", 0, "what each request takes")
)

// TestAYearIsOpened counts, and with a delay times, what it costs to see how the systems of a repository stand that has many
// hourly snapshots of each. bench/README.md has the figures of a hundred systems and a year.
func TestAYearIsOpened(t *testing.T) {
	t.Parallel()
	st, signer := storetest.NewMemory(), must(seal.NewSigner())
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	repotest.Init(t, st, repo.Options{Signer: signer, CacheDir: t.TempDir()})
	began := time.Now()
	var eg errgroup.Group
	for i := range *yearSystems {
		r := open(t, st, repo.Options{Signer: signer, CacheDir: t.TempDir()})
		eg.Go(func() error { return year(t, st, r, system(i), clock) })
	}
	if err := eg.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d snapshots of each of %d systems were written in %s: %d objects", *yearSnapshots, *yearSystems, time.Since(began).Round(time.Second), len(st.Names()))

	var m meter.Meter
	pages := int64((*yearSnapshots + meter.Page - 1) / meter.Page)
	distant := m.Store(storetest.Far(st, *yearDelay))
	costs := func(what string, most int64, fn func()) {
		t.Helper()
		before, began := requests(&m), time.Now()
		fn()
		n := requests(&m) - before
		t.Logf("%-45s %6.2f s %6d requests", what, time.Since(began).Seconds(), n)
		if n > most {
			t.Errorf("%s: %d requests, want at most %d", what, n, most)
		}
	}
	var r *repo.Repository
	costs("open the repository", 10, func() { r = open(t, distant, repo.Options{CacheDir: t.TempDir()}) })
	// Beside the listings of names: the manifest, the history files, the timelines, the log behind the snapshot, its mark.
	costs("newest recovery point of all systems", int64(*yearSystems)*(pages+9), func() {
		var eg errgroup.Group
		for i := range *yearSystems {
			eg.Go(func() error {
				v, err := points.Recent(t.Context(), r, system(i))
				if err != nil {
					return err
				}
				plan, err := v.Plan(t.Context(), points.Target{Kind: points.Latest}, points.Timeline{}, points.RefuseLoss)
				want := clock.Add(time.Duration(*yearSnapshots) * time.Hour)
				if err == nil && (!plan.Range.ToTime.Equal(want) || v.Count != *yearSnapshots) {
					err = fmt.Errorf("%s: %d snapshots, recoverable to %s; want %d, %s", system(i), v.Count, plan.Range.ToTime, *yearSnapshots, want)
				}
				return err
			})
		}
		if err := eg.Wait(); err != nil {
			t.Error(err)
		}
	})
	months := int64(*yearSnapshots/(28*24) + 2)
	list := func(what string, most int64) {
		t.Helper()
		costs(what, most, func() {
			all := must(r.Snapshots(t.Context(), system(0)))
			for i, l := range all {
				if at, _ := l.ID.Time(); l.Err != nil || !l.Manifest.Started.Equal(at) {
					t.Fatalf("snapshot %d of %d: %s, %v", i, len(all), l.ID, l.Err)
				}
			}
			if len(all) != *yearSnapshots {
				t.Errorf("%d snapshots are listed, want %d", len(all), *yearSnapshots)
			}
		})
	}
	const sinceRolled = 56 // snapshots that may be in no roll yet: 32 are worth one, and a day adds 24
	list("list the snapshots of one system", pages+months+sinceRolled+1)
	list("list them again", pages)
	r = open(t, distant, repo.Options{CacheDir: t.TempDir()})
	costs("all recovery points of one system", 2*pages+months+sinceRolled+10, func() {
		v := must(points.Load(t.Context(), r, system(0)))
		ranges := must(v.Ranges(t.Context()))
		if len(ranges) != *yearSnapshots || !ranges[0].Complete() {
			t.Errorf("%d ranges, the first: %+v", len(ranges), ranges[0])
		}
	})
}

const yearSegment, yearExtent = 1 << 20, 64 << 10

// year writes hourly snapshots of a system, the log between them, and rolls as a daily collection does.
func year(t *testing.T, st store.Store, writer *repo.Repository, system string, clock time.Time) error {
	ctx := t.Context()
	now := clock
	r, err := writer.Beside(ctx, st, repo.Options{Signer: must(seal.NewSigner()), CacheDir: t.TempDir(), Host: "db1.example", Now: func() time.Time { return now }})
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // a cache
	log := r.Log(system)
	if err := log.Register(ctx, repo.DefaultGroup); err != nil {
		return err
	}
	encoder, content := log.Encoder(), make([]byte, yearExtent)
	for i := range *yearSnapshots {
		now = clock.Add(time.Duration(i) * time.Hour)
		at := uint64(i) * yearExtent
		if err := snapshot(t, r, system, at); err != nil {
			return err
		}
		if err := encoder.Put(ctx, 1, at, content, repo.ExtentClock{Source: now.Add(time.Hour), Writer: now.Add(time.Hour)}, repo.Fast); err != nil {
			return err
		}
		if i%24 == 23 && (i%720 == 719 || *yearSnapshots-i < 40*24) { // every day; of those long ago one in a month does as well
			if _, err := r.Roll(ctx, system); err != nil {
				return err
			}
		}
	}
	end := now.Add(time.Hour)
	return log.PutMark(ctx, repo.Mark{Stream: 1, LSN: uint64(*yearSnapshots) * yearExtent, Source: end, Writer: end})
}

// snapshot writes a snapshot of one empty file.
func snapshot(t *testing.T, r *repo.Repository, system string, at uint64) error {
	ctx := t.Context()
	w, err := r.Begin(ctx, system, repo.DefaultGroup)
	if err != nil {
		return err
	}
	tree := w.NewTree(ctx)
	if err := tree.Add("PG_VERSION", &repo.Entry{Type: repo.TypeFile}); err != nil {
		return err
	}
	m := &repo.Manifest{Engine: pg.Engine, Log: repo.LogRange{Stream: 1, Start: at, End: at + 0x138}}
	if err := tree.Finish(m); err != nil {
		return err
	}
	m.Facts, err = json.Marshal(pg.Facts{
		Version: 150018, SystemID: 7345678901234567890, Timeline: 1, StopTimeline: 1, StartLSN: wal.LSN(at), StopLSN: wal.LSN(at + 0x138), SegmentSize: yearSegment,
		PageSize: 8192, Checksums: true, DataDir: "/var/lib/postgresql/15/main", Audit: &pg.Audit{},
		BackupLabel: fmt.Sprintf("START WAL LOCATION: %s (file 000000010000000000000000)\nCHECKPOINT LOCATION: %s\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: %s\nLABEL: holdfast\nSTART TIMELINE: 1\n",
			wal.LSN(at), wal.LSN(at+0x38), w.Started()),
		Settings: map[string]string{"max_connections": "100", "max_worker_processes": "8", "max_wal_senders": "10", "max_prepared_transactions": "0", "max_locks_per_transaction": "64"},
	})
	if err != nil {
		return err
	}
	return w.Commit(ctx, m)
}

func system(i int) string { return fmt.Sprintf("system-%03d", i) }

func open(t *testing.T, st store.Store, o repo.Options) *repo.Repository {
	t.Helper()
	r := must(repo.Open(t.Context(), st, seal.Credentials{Passphrase: repotest.Passphrase}, o))
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func requests(m *meter.Meter) (n int64) {
	for _, r := range m.Read().Requests {
		n += r.Count
	}
	return n
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
