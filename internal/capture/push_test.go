package capture_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// archiving starts a server whose archive_command never succeeds, so that its segments wait.
func archiving(t testing.TB, o pgtest.Options) *pgtest.Server {
	t.Helper()
	o.Conf = map[string]string{"archive_mode": "on", "archive_command": "/bin/false", "max_wal_size": "8GB"}
	return pgtest.Start(t, o)
}

// ready returns the paths of the segments that wait to be archived, in order.
func ready(t testing.TB, s *pgtest.Server) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.DataDir, "pg_wal", "archive_status", "*.ready"))
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range paths {
		paths[i] = filepath.Join(s.DataDir, "pg_wal", strings.TrimSuffix(filepath.Base(p), ".ready"))
	}
	slices.Sort(paths)
	return paths
}

func TestPushStoresSegmentsOfEverySize(t *testing.T) {
	for _, size := range []wal.SegmentSize{1 << 20, 16 << 20, 64 << 20} {
		t.Run(fmt.Sprint(size>>20), func(t *testing.T) {
			s := archiving(t, pgtest.Options{InitArgs: []string{fmt.Sprintf("--wal-segsize=%d", size>>20)}})
			load(s, "a", 4)
			s.Exec("", "SELECT pg_switch_wal()", "CREATE TABLE b ()", "SELECT pg_switch_wal()", "CREATE TABLE c ()")
			_, log := logRepository(t, storetest.NewMemory())
			paths := ready(t, s)
			if len(paths) < 2 {
				t.Fatalf("%d segments wait", len(paths))
			}
			for range 2 { // the second time everything is there already
				for _, p := range paths {
					if _, err := capture.Push(t.Context(), log, p, capture.PushOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			start, data := stored(t, log, 1)
			for _, p := range paths {
				n, err := wal.ParseName(filepath.Base(p), size)
				if err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(p)
				if err != nil {
					t.Fatal(err)
				}
				if off := n.Start - start; !bytes.Equal(b, data[off:int(off)+len(b)]) {
					t.Errorf("%s is stored with other bytes", p)
				}
			}
			m, ok, err := log.Mark(t.Context(), 1)
			if err != nil || !ok || wal.LSN(m.LSN) != start+wal.LSN(len(data)) {
				t.Errorf("the mark is %+v, %v, %v", m, ok, err)
			}
		})
	}
}

func TestPushWorksAhead(t *testing.T) {
	s := archiving(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}})
	load(s, "a", 8)
	s.Exec("", "SELECT pg_switch_wal()")
	_, log := logRepository(t, storetest.NewMemory())
	paths := ready(t, s)
	o := capture.PushOptions{AckDir: t.TempDir(), Repository: "one", Bytes: 4 << 20}
	rep, err := capture.Push(t.Context(), log, paths[0], o)
	if err != nil || len(rep.Pushed) != 4 {
		t.Fatalf("pushed %v, %v; want four segments", rep.Pushed, err)
	}
	for i, p := range paths[:6] {
		if got := capture.PushKnown(o.AckDir, "one", p); got != (i < 4) {
			t.Errorf("%s is known: %v", p, got)
		}
		if capture.PushKnown(o.AckDir, "another", p) {
			t.Errorf("%s counts for another repository", p)
		}
	}
	// A file that was made anew under the name is not the one that was pushed.
	b, err := os.ReadFile(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(paths[1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(paths[1], time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var conflict *capture.PushConflictError
	if _, err := capture.Push(t.Context(), log, paths[1], o); !errors.As(err, &conflict) {
		t.Errorf("other bytes under a stored name: %v", err)
	}
}

func TestPushRefuses(t *testing.T) {
	s := archiving(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}})
	load(s, "a", 3)
	_, log := logRepository(t, storetest.NewMemory())
	paths := ready(t, s)
	dir := t.TempDir()
	copyTo := func(from, name string, cut int) string {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, name)
		if err := os.WriteFile(to, b[:len(b)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		return to
	}
	if _, err := capture.Push(t.Context(), log, paths[0], capture.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	for what, path := range map[string]string{
		"another position": copyTo(paths[0], filepath.Base(paths[1]), 0),
		"a cut segment":    copyTo(paths[0], filepath.Base(paths[0]), 1),
		"a foreign name":   copyTo(paths[0], "notes.txt", 0),
		"nothing":          filepath.Join(dir, "000000010000000000000099"),
	} {
		if _, err := capture.Push(t.Context(), log, path, capture.PushOptions{}); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	other := archiving(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}})
	load(other, "a", 3)
	if _, err := capture.Push(t.Context(), log, ready(t, other)[0], capture.PushOptions{}); !errors.Is(err, capture.ErrForeignLog) {
		t.Errorf("another cluster's segment: %v", err)
	}
}

func TestPushAfterAPromotion(t *testing.T) {
	a := pgtest.Start(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}, Conf: map[string]string{"wal_keep_size": "1GB"}})
	b := a.Standby(pgtest.Options{InitArgs: []string{"--wal-segsize=1"}, Conf: map[string]string{"archive_mode": "on", "archive_command": "/bin/false"}})
	_, log := logRepository(t, storetest.NewMemory())
	str := startStream(t, capture.StreamConfig{Connection: a.ConnString(""), Log: log, Interval: 20 * time.Millisecond})
	load(a, "a", 2)
	str.untilStored(1, flushed(t, a))
	a.Stop(pgtest.Fast)
	if err := str.stop(); err != nil {
		t.Fatal(err)
	}
	b.Promote()
	b.Exec("", "CREATE TABLE b ()", "SELECT pg_switch_wal()")
	paths := ready(t, b)
	partial := slices.IndexFunc(paths, func(p string) bool { return strings.HasSuffix(p, ".partial") })
	history := slices.IndexFunc(paths, func(p string) bool { return strings.HasSuffix(p, ".history") })
	if partial < 0 || history < 0 {
		t.Fatalf("the promoted server archives %v", paths)
	}
	for range 2 {
		for _, p := range paths {
			if _, err := capture.Push(t.Context(), log, p, capture.PushOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	stored(t, log, 1) // whose extents agree: what was streamed, and the partial segment
	if _, data := stored(t, log, 2); len(data) == 0 {
		t.Error("nothing of timeline 2 is stored")
	}
}

// BenchmarkPush is what archive_command does when segments wait, the start of a process aside.
func BenchmarkPush(b *testing.B) {
	s := archiving(b, pgtest.Options{})
	s.Exec("", "CREATE TABLE a (i bigint, s text, r float8)", "CREATE INDEX ON a (i)")
	for len(ready(b, s)) < 32 {
		s.Exec("", `INSERT INTO a SELECT i, md5(i::text) || repeat(' word', 10) || random()::text, random() FROM generate_series(1, 200000) AS i`)
	}
	paths := ready(b, s)
	s.Stop(pgtest.Fast)
	rate := func(b *testing.B) {
		b.ReportMetric(float64(len(paths)*b.N)/b.Elapsed().Seconds(), "segments/s")
	}
	b.Run("push", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			_, log := logRepository(b, openLocal(b))
			o := capture.PushOptions{AckDir: b.TempDir(), Repository: "bench"}
			b.StartTimer()
			for _, p := range paths {
				if _, err := capture.Push(b.Context(), log, p, o); err != nil {
					b.Fatal(err)
				}
			}
		}
		rate(b)
	})
	b.Run("copy", func(b *testing.B) { // what the disk can do: the same files, one after the other, synced
		for b.Loop() {
			dir := b.TempDir()
			for _, p := range paths {
				if err := copySynced(p, filepath.Join(dir, filepath.Base(p))); err != nil {
					b.Fatal(err)
				}
			}
		}
		rate(b)
	})
}

func copySynced(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func openLocal(t testing.TB) store.Store {
	t.Helper()
	st, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return st
}
