package capture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
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
	t.Parallel()
	for _, size := range []wal.SegmentSize{1 << 20, 16 << 20, 64 << 20} {
		t.Run(fmt.Sprint(size>>20), func(t *testing.T) {
			t.Parallel()
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
					if _, err := capture.Push(t.Context(), log, p); err != nil {
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

// archiver is an Archiver that serves in this process.
type archiver struct {
	t    testing.TB
	dir  string
	stop func()
}

func startArchiver(t testing.TB, a *capture.Archiver) *archiver {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	dir := filepath.Join(t.TempDir(), "archiver")
	died := make(chan struct{})
	var err error
	go func() {
		defer close(died)
		err = a.Serve(ctx, sidecar.Place{Dir: dir})
	}()
	stop := func() {
		cancel()
		<-died
		if err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return &archiver{t, dir, stop}
}

// push asks as archive_command does.
func (a *archiver) push(path string) error {
	a.t.Helper()
	answer, err := sidecar.AskNew[capture.PushRequest, capture.PushAnswer](a.t.Context(), a.dir, capture.PushRequest{Path: path}, nil)
	return errors.Join(err, answer.Err())
}

func TestArchiverWorksAhead(t *testing.T) {
	t.Parallel()
	s := archiving(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}})
	load(s, "a", 8)
	s.Exec("", "SELECT pg_switch_wal()")
	mem := storetest.NewMemory()
	_, log := logRepository(t, mem)
	paths := ready(t, s)
	a := startArchiver(t, &capture.Archiver{Log: log, Ahead: 4 << 20})
	if err := a.push(paths[0]); err != nil {
		t.Fatal(err)
	}
	// Three more come by themselves, and no fourth.
	deadline := time.Now().Add(20 * time.Second)
	for {
		extents, err := log.Extents(t.Context(), 1, 0)
		if err != nil || len(extents) > 4 || time.Now().After(deadline) {
			t.Fatalf("%d segments are stored, %v", len(extents), err)
		}
		if len(extents) == 4 {
			break
		}
	}
	for _, p := range paths {
		if err := a.push(p); err != nil {
			t.Fatal(err)
		}
		n, err := wal.ParseName(filepath.Base(p), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		// What was acknowledged is marked.
		if m, ok, err := log.Mark(t.Context(), 1); err != nil || !ok || wal.LSN(m.LSN) < n.Start+1<<20 {
			t.Errorf("%s was acknowledged and the mark is %+v, %v", p, m, err)
		}
	}
	// A file that was made anew under the name is not the one that was pushed.
	last := paths[len(paths)-1]
	b, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(last, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(last, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	a.stop()
	if _, err := os.Stat(a.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the archiver has left something: %v", err)
	}
	a = startArchiver(t, &capture.Archiver{Log: log})
	if err := a.push(last); err == nil || !strings.Contains(err.Error(), "other bytes") || dr.Advice(err) == "" {
		t.Errorf("other bytes under a stored name: %v", err)
	}
}

// TestArchiverBesideAnotherServer pushes log that a second server has written differently just before: what was
// acknowledged to one of them stays, and the other one is refused, however lately the archiver has listed the log.
func TestArchiverBesideAnotherServer(t *testing.T) {
	t.Parallel()
	s := archiving(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}})
	load(s, "a", 3)
	s.Exec("", "SELECT pg_switch_wal()")
	paths := ready(t, s)
	s.Stop(pgtest.Fast)
	_, log := logRepository(t, storetest.NewMemory())
	other := t.TempDir()
	theirs := func(path string, flip byte) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-1] ^= flip
		to := filepath.Join(other, filepath.Base(path))
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return to
	}
	a := startArchiver(t, &capture.Archiver{Log: log})
	if err := a.push(theirs(paths[0], 0)); err != nil {
		t.Fatal(err)
	}
	for _, p := range paths[1:3] {
		if _, err := capture.Push(t.Context(), log, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.push(theirs(paths[1], 0)); err != nil {
		t.Errorf("the same bytes: %v", err)
	}
	if err := a.push(theirs(paths[2], 1)); err == nil || !strings.Contains(err.Error(), "other bytes") {
		t.Errorf("other bytes: %v", err)
	}
	if _, err := capture.Push(t.Context(), log, paths[2]); err != nil {
		t.Errorf("what was acknowledged first: %v", err)
	}
}

// Every call of the store fails once: what the archiver acknowledges is in the repository all the same and marked, and
// what it refuses is pushed by the next attempt, which PostgreSQL makes.
func TestArchiverMeetsEveryFault(t *testing.T) {
	t.Parallel()
	s := archiving(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}})
	load(s, "a", 3)
	s.Exec("", "SELECT pg_switch_wal()")
	paths := ready(t, s)[:2]
	s.Stop(pgtest.Fast)
	var calm *repo.Log // the store of the run, undisturbed
	storetest.EachFault(t, storetest.Sweep{
		Kind:    store.Denied,
		Prepare: func(t *testing.T, st store.Store) { _, calm = logRepository(t, st) },
		Run: func(t *testing.T, st store.Store) error {
			signer, err := seal.NewSigner()
			if err != nil {
				return err
			}
			r, err := repo.Open(t.Context(), st, seal.Credentials{Passphrase: "correct horse battery staple"}, repo.Options{Signer: signer, CacheDir: t.TempDir()})
			if err != nil {
				return errNoRepository
			}
			defer r.Close()
			log := r.Log(logSystem)
			if log.Register(t.Context(), repo.DefaultGroup) != nil {
				return errNoRepository
			}
			a := startArchiver(t, &capture.Archiver{Log: log})
			defer func() { a.stop() }()
			for _, p := range paths {
				if a.push(p) != nil { // which ends this archiver, too
					a.stop()
					a = startArchiver(t, &capture.Archiver{Log: log})
					if err := a.push(p); err != nil {
						t.Errorf("pushed again: %v", err)
					}
				}
				n, err := wal.ParseName(filepath.Base(p), 1<<20)
				if err != nil {
					return err
				}
				have, err := calm.Extents(t.Context(), 1, uint64(n.Start))
				if err != nil || len(have) == 0 || have[0].Start != uint64(n.Start) {
					t.Errorf("%s was acknowledged and is not there: %v, %v", p, have, err)
				}
				if m, ok, err := calm.Mark(t.Context(), 1); err != nil || !ok || wal.LSN(m.LSN) < n.Start+1<<20 {
					t.Errorf("%s was acknowledged and the mark is %+v, %v", p, m, err)
				}
			}
			return nil
		},
	})
}

var errNoRepository = errors.New("the repository was not opened")

func TestPushRefuses(t *testing.T) {
	t.Parallel()
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
	if _, err := capture.Push(t.Context(), log, paths[0]); err != nil {
		t.Fatal(err)
	}
	for what, path := range map[string]string{
		"another position": copyTo(paths[0], filepath.Base(paths[1]), 0),
		"a cut segment":    copyTo(paths[0], filepath.Base(paths[0]), 1),
		"a foreign name":   copyTo(paths[0], "notes.txt", 0),
		"nothing":          filepath.Join(dir, "000000010000000000000099"),
	} {
		if _, err := capture.Push(t.Context(), log, path); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	other := archiving(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}})
	load(other, "a", 3)
	if _, err := capture.Push(t.Context(), log, ready(t, other)[0]); !errors.Is(err, capture.ErrForeignLog) {
		t.Errorf("another cluster's segment: %v", err)
	}
}

func TestPushAfterAPromotion(t *testing.T) {
	t.Parallel()
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
			if _, err := capture.Push(t.Context(), log, p); err != nil {
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
			a := startArchiver(b, &capture.Archiver{Log: log})
			b.StartTimer()
			for _, p := range paths {
				if err := a.push(p); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			a.stop()
			b.StartTimer()
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
