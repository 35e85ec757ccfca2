package capture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

const logSystem = "orders-db"

// logRepository makes a repository in st and returns the log of a registered system.
func logRepository(t testing.TB, st store.Store) (*repo.Repository, *repo.Log) {
	t.Helper()
	r := repotest.Init(t, st, repo.Options{})
	log := r.Log(logSystem)
	if err := log.Register(t.Context(), repo.DefaultGroup); err != nil {
		t.Fatal(err)
	}
	return r, log
}

func openSpool(t testing.TB, r *repo.Repository, dir string, limit dr.Bytes) *capture.Spool {
	t.Helper()
	s, err := capture.OpenSpool(dir, r.Keys(), logSystem, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// stored returns what the repository holds of a timeline from its first byte on, which has no hole.
func stored(t testing.TB, log *repo.Log, tl wal.TimelineID) (start wal.LSN, data []byte) {
	t.Helper()
	extents, err := log.Extents(context.Background(), repo.StreamID(tl), 0)
	if err != nil {
		t.Fatal(err)
	}
	ranges := repo.Merge(extents)
	if len(ranges) == 0 {
		return 0, nil
	}
	if len(ranges) > 1 {
		t.Fatalf("the log of timeline %d has holes: %x", tl, ranges)
	}
	data = make([]byte, ranges[0].End-ranges[0].Start)
	reader := log.Reader()
	// Every extent is read, superseded or not: all must agree.
	seen := make([]bool, len(data))
	for _, e := range extents {
		b, _, err := reader.Read(context.Background(), e)
		if errors.Is(err, store.ErrNotExist) { // a stream that runs has replaced it meanwhile
			return stored(t, log, tl)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range b {
			at := e.Start - ranges[0].Start + uint64(i)
			if seen[at] && data[at] != c {
				t.Fatalf("two extents differ at %s", wal.LSN(e.Start+uint64(i)))
			}
			data[at], seen[at] = c, true
		}
	}
	return wal.LSN(ranges[0].Start), data
}

// equalsServer compares the stored log up to end with the server's files.
func equalsServer(t *testing.T, s *pgtest.Server, log *repo.Log, tl wal.TimelineID, size wal.SegmentSize, end wal.LSN) {
	t.Helper()
	start, data := stored(t, log, tl)
	if got := start + wal.LSN(len(data)); got < end {
		t.Fatalf("the repository has timeline %d up to %s, want %s", tl, got, end)
	}
	compared := 0
	for at := start; at < end; {
		name := wal.SegmentName(tl, size.Segment(at), size)
		b, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", name))
		off := at - size.Floor(at)
		n := min(wal.LSN(size)-off, end-at)
		if err == nil {
			if !bytes.Equal(b[off:off+n], data[at-start:at-start+n]) {
				t.Fatalf("%s differs from what is stored", name)
			}
			compared += int(n)
		}
		at += n
	}
	if compared == 0 {
		t.Fatal("no segment was compared")
	}
}

// running is a stream under test.
type running struct {
	*capture.LogStream
	t      testing.TB
	cancel context.CancelFunc
	done   chan error
	err    error
	ended  sync.Once
}

func startStream(t testing.TB, cfg capture.StreamConfig) *running {
	t.Helper()
	if cfg.Slot == "" {
		cfg.Slot = "holdfast"
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{LogStream: capture.NewLogStream(cfg), t: t, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(func() { _ = r.stop() })
	return r
}

// stop ends the stream cleanly and returns Run's error.
func (r *running) stop() error {
	r.ended.Do(func() {
		r.cancel()
		r.err = <-r.done
	})
	return r.err
}

// until waits until the stream's status satisfies ok.
func (r *running) until(what string, ok func(capture.StreamStatus) bool) {
	r.t.Helper()
	patience := time.After(time.Minute)
	again := time.NewTicker(20 * time.Millisecond) // the server is another process: ask
	defer again.Stop()
	for {
		st := r.Status()
		if ok(st) {
			return
		}
		select {
		case <-again.C:
		case <-patience:
			r.t.Fatalf("not within a minute: %s; %+v", what, st)
		}
	}
}

func (r *running) untilStored(tl wal.TimelineID, lsn wal.LSN) {
	r.t.Helper()
	r.until(fmt.Sprintf("timeline %d stored up to %s", tl, lsn), func(s capture.StreamStatus) bool {
		return s.StoredOn == tl && s.Stored >= lsn
	})
}

func flushed(t *testing.T, s *pgtest.Server) wal.LSN {
	t.Helper()
	lsn, err := wal.ParseLSN(s.Query("", "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

const smallSegments = wal.SegmentSize(1 << 20)

func streamServer(t *testing.T, version string) *pgtest.Server {
	t.Helper()
	return pgtest.Start(t, pgtest.Options{
		Version: version, InitArgs: []string{"--wal-segsize=1"},
		Conf: map[string]string{"wal_keep_size": "2GB", "max_wal_size": "200MB"},
	})
}

// load writes about megabytes MiB of log.
func load(s *pgtest.Server, table string, megabytes int) {
	s.Exec("", "CREATE TABLE IF NOT EXISTS "+table+" (i int, s text)",
		fmt.Sprintf("INSERT INTO %s SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, %d) AS i", table, megabytes*1000))
}

func TestStreamStoresWhatTheServerWrote(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s := streamServer(t, v)
			r, log := logRepository(t, storetest.NewMemory())
			str := startStream(t, capture.StreamConfig{Connection: s.ConnString(""), Log: log, Interval: 100 * time.Millisecond, Spool: openSpool(t, r, t.TempDir(), 0)})
			load(s, "a", 25)
			str.untilStored(1, flushed(t, s))
			if err := str.stop(); err != nil {
				t.Fatal(err)
			}
			load(s, "b", 20) // while nobody receives; the slot keeps it
			end := flushed(t, s)
			str = startStream(t, capture.StreamConfig{Connection: s.ConnString(""), Log: log, Interval: 100 * time.Millisecond})
			str.untilStored(1, end)
			equalsServer(t, s, log, 1, smallSegments, end)

			// A clean stop waits for us, so its last record is stored when the server has gone.
			load(s, "c", 1)
			s.Stop(pgtest.Fast)
			str.until("the server's end", func(st capture.StreamStatus) bool { return !st.Connected })
			if err := str.stop(); err != nil {
				t.Fatal(err)
			}
			start, data := stored(t, log, 1)
			equalsServer(t, s, log, 1, smallSegments, start+wal.LSN(len(data)))
			m, ok, err := log.Mark(t.Context(), 1)
			if err != nil || !ok || wal.LSN(m.LSN) != start+wal.LSN(len(data)) || m.Source.IsZero() {
				t.Fatalf("the mark is %+v, %v, %v; want %s", m, ok, err, start+wal.LSN(len(data)))
			}
			extents, err := log.Extents(t.Context(), 1, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range extents {
				if end := e.Start&^(repo.MaxExtent-1) + repo.MaxExtent; end < m.LSN && e.End != end {
					t.Errorf("a piece is left of a finished block: %x-%x", e.Start, e.End)
				}
			}
		})
	}
}

func TestStreamFollowsAPromotion(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			a := streamServer(t, v)
			b := a.Standby(pgtest.Options{InitArgs: []string{"--wal-segsize=1"}, Conf: map[string]string{"wal_keep_size": "2GB"}})
			_, log := logRepository(t, storetest.NewMemory())
			both := fmt.Sprintf("host=%s,%s port=%d,%d user=postgres dbname=postgres sslmode=disable target_session_attrs=read-write", a.Socket, b.Socket, a.Port, b.Port)
			str := startStream(t, capture.StreamConfig{Connection: both, Log: log, Interval: 50 * time.Millisecond})
			load(a, "a", 5)
			str.untilStored(1, flushed(t, a))
			a.Stop(pgtest.Fast)
			b.Promote()
			load(b, "b", 5)
			end := flushed(t, b)
			str.untilStored(2, end)
			equalsServer(t, b, log, 2, smallSegments, end)
			if err := str.stop(); err != nil {
				t.Fatal(err)
			}
			if gaps, err := capture.ReadLogGaps(t.Context(), log); err != nil || len(gaps) != 0 {
				t.Errorf("gaps: %v, %v", gaps, err)
			}
			history, err := log.File(t.Context(), "00000002.history")
			if err != nil {
				t.Fatal(err)
			}
			way, err := wal.ParseHistory(2, history)
			if err != nil {
				t.Fatal(err)
			}
			left, _ := way.SwitchPoint(1)
			start, data := stored(t, log, 1)
			if start+wal.LSN(len(data)) < left {
				t.Errorf("timeline 1 is stored up to %s, and was left at %s", start+wal.LSN(len(data)), left)
			}
			if start, _ := stored(t, log, 2); start != smallSegments.Floor(left) {
				t.Errorf("timeline 2 begins at %s, want the segment of %s", start, left)
			}
		})
	}
}

func TestStreamSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{
		InitArgs: []string{"--wal-segsize=1"}, Conf: map[string]string{"wal_keep_size": "0", "max_wal_size": "2MB", "min_wal_size": "2MB"},
	})
	_, log := logRepository(t, storetest.NewMemory())
	cfg := capture.StreamConfig{Connection: s.ConnString(""), Log: log, Interval: 50 * time.Millisecond}
	str := startStream(t, cfg)
	load(s, "a", 3)
	str.untilStored(1, flushed(t, s))
	if err := str.stop(); err != nil {
		t.Fatal(err)
	}
	before := str.Status().Stored
	s.Until(t, "", "SELECT active FROM pg_replication_slots", "f")
	s.Exec("", "SELECT pg_drop_replication_slot('holdfast')")
	for i := range 3 {
		load(s, fmt.Sprintf("b%d", i), 5)
		s.Exec("", "CHECKPOINT")
	}
	str = startStream(t, cfg)
	str.untilStored(1, flushed(t, s))
	if err := str.stop(); err != nil {
		t.Fatal(err)
	}
	gaps, err := capture.ReadLogGaps(t.Context(), log)
	if err != nil || len(gaps) != 1 || gaps[0].From != before || gaps[0].To <= before || gaps[0].To != smallSegments.Floor(gaps[0].To) {
		t.Fatalf("gaps: %+v, %v; want one from %s", gaps, err, before)
	}
	if st := str.Status(); len(st.Gaps) != 1 {
		t.Errorf("the status tells of %d gaps", len(st.Gaps))
	}
	// Once more: the place behind the gap is found again, and no second gap is invented.
	load(s, "c", 2)
	str = startStream(t, cfg)
	str.untilStored(1, flushed(t, s))
	if err := str.stop(); err != nil {
		t.Fatal(err)
	}
	if gaps, err = capture.ReadLogGaps(t.Context(), log); err != nil || len(gaps) != 1 {
		t.Errorf("after another run: %+v, %v", gaps, err)
	}
}

func TestStreamRefusesAnotherCluster(t *testing.T) {
	t.Parallel()
	_, log := logRepository(t, storetest.NewMemory())
	for i := range 2 {
		s := streamServer(t, "")
		str := startStream(t, capture.StreamConfig{Connection: s.ConnString(""), Log: log, Interval: 50 * time.Millisecond})
		if i == 0 {
			str.untilStored(1, flushed(t, s))
			continue
		}
		if err := <-str.done; !errors.Is(err, capture.ErrForeignLog) {
			t.Fatalf("another cluster's log: %v", err)
		}
		str.done <- nil
	}
}

// As a synchronous standby we acknowledge each commit as soon as it is durable, and nothing is lost that was
// acknowledged to a client.
func TestStreamAsSynchronousStandby(t *testing.T) {
	t.Parallel()
	s := streamServer(t, "")
	_, log := logRepository(t, storetest.NewMemory())
	str := startStream(t, capture.StreamConfig{Connection: s.ConnString(""), Log: log, Interval: 30 * time.Second})
	str.until("the stream is connected", func(st capture.StreamStatus) bool { return st.Connected })
	s.Exec("", "CREATE TABLE a (i int)", "ALTER SYSTEM SET synchronous_standby_names = 'holdfast'", "SELECT pg_reload_conf()")
	str.until("somebody waits for us", func(st capture.StreamStatus) bool { return st.Sync })
	began := time.Now()
	conn := s.Connect("")
	for i := range 50 {
		if _, err := conn.Exec(t.Context(), "INSERT INTO a VALUES ($1)", i); err != nil {
			t.Fatal(err)
		}
		lsn := flushed(t, s)
		if got := str.Status().Stored; i > 0 && got < lsn-4096 {
			t.Fatalf("commit %d came back with %s stored and %s written", i, got, lsn)
		}
	}
	if d := time.Since(began); d > 25*time.Second {
		t.Errorf("50 commits took %s: they waited for the interval", d)
	}
	s.Exec("", "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
}

// A server that a benchmark saturates: the log keeps up, and what is stored is what the server wrote.
func TestStreamKeepsUpWithPgbench(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("pgbench runs for seconds")
	}
	s := pgtest.Start(t, pgtest.Options{Conf: map[string]string{"wal_keep_size": "4GB", "max_wal_size": "4GB"}})
	r, log := logRepository(t, openLocal(t))
	str := startStream(t, capture.StreamConfig{Connection: s.ConnString(""), Log: log, Spool: openSpool(t, r, t.TempDir(), 0)})
	run := func(args ...string) {
		t.Helper()
		args = append([]string{"-h", s.Socket, "-p", fmt.Sprint(s.Port), "-U", "postgres"}, args...)
		if out, err := exec.Command(s.Bin("pgbench"), append(args, "postgres")...).CombinedOutput(); err != nil { //nolint:gosec // a test's server
			t.Fatalf("pgbench: %v\n%s", err, out)
		}
	}
	run("-i", "-s", "5", "-q")
	run("-c", "4", "-T", "5", "-n")
	end, began := flushed(t, s), time.Now()
	str.untilStored(1, end)
	st := str.Status()
	t.Logf("caught up after %s: %s in %d extents and %d pieces", time.Since(began).Round(time.Millisecond), st.Received, st.Extents, st.Pieces)
	if err := str.stop(); err != nil {
		t.Fatal(err)
	}
	equalsServer(t, s, log, 1, wal.DefaultSegmentSize, end)
}
