package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

const segment = wal.SegmentSize(1 << 20)

// options are those of a server with small segments that keeps them all.
func options(version string) pgtest.Options {
	return pgtest.Options{
		Version: version, InitArgs: []string{"--wal-segsize=1"},
		Conf: map[string]string{"wal_keep_size": "1GB", "max_wal_size": "200MB"},
	}
}

// keeper is a Sink that keeps everything, checks the order, and acknowledges at once unless told otherwise.
type keeper struct {
	t    *testing.T
	ack  func(wal.LSN)
	hold func(ctx context.Context, p stream.Piece) error // called for each piece, where not nil

	mu        sync.Mutex // guards what follows
	grew      chan struct{}
	logs      map[wal.TimelineID]*log
	order     []wal.TimelineID
	histories map[wal.TimelineID]string
}

type log struct {
	start wal.LSN
	data  []byte
}

func (l *log) end() wal.LSN { return l.start + wal.LSN(len(l.data)) }

func newKeeper(t *testing.T) *keeper {
	return &keeper{t: t, grew: make(chan struct{}), logs: map[wal.TimelineID]*log{}, histories: map[wal.TimelineID]string{}}
}

func (k *keeper) WAL(ctx context.Context, p stream.Piece) error {
	if k.hold != nil {
		if err := k.hold(ctx, p); err != nil {
			return err
		}
	}
	k.mu.Lock()
	l := k.logs[p.Timeline]
	if l == nil {
		l = &log{start: p.Start}
		k.logs[p.Timeline] = l
		k.order = append(k.order, p.Timeline)
		if p.Timeline > 1 && k.histories[p.Timeline] == "" {
			k.t.Errorf("timeline %d began without its history", p.Timeline)
		}
	}
	if p.Start != l.end() {
		k.t.Errorf("a piece begins at %s, want %s", p.Start, l.end())
	}
	if p.ServerEnd < p.Start+wal.LSN(len(p.Data)) || time.Since(p.Sent).Abs() > time.Hour {
		k.t.Errorf("piece up to %s: server's end %s, sent at %v", l.end(), p.ServerEnd, p.Sent)
	}
	l.data = append(l.data, p.Data...)
	end := l.end()
	close(k.grew)
	k.grew = make(chan struct{})
	k.mu.Unlock()
	if k.ack != nil {
		k.ack(end)
	}
	return nil
}

func (k *keeper) History(_ context.Context, tl wal.TimelineID, content []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.histories[tl] = string(content)
	return nil
}

func (k *keeper) Idle(context.Context, wal.LSN, time.Time) error { return nil }

// until waits until the log of a timeline reaches lsn.
func (k *keeper) until(tl wal.TimelineID, lsn wal.LSN) {
	k.t.Helper()
	patience := time.After(time.Minute)
	for {
		k.mu.Lock()
		l, grew := k.logs[tl], k.grew
		reached := l != nil && l.end() >= lsn
		k.mu.Unlock()
		if reached {
			return
		}
		select {
		case <-grew:
		case <-patience:
			k.t.Fatalf("the log of timeline %d does not reach %s", tl, lsn)
		}
	}
}

// run runs a receiver; the result is delivered to done.
func run(t *testing.T, ctx context.Context, s *pgtest.Server, o stream.Options, tl wal.TimelineID, from wal.LSN, k *keeper) (*stream.Receiver, chan error) {
	t.Helper()
	conn, err := cluster.ConnectReplication(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	r := stream.NewReceiver(conn, o)
	if k.ack == nil {
		k.ack = r.Ack
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, tl, from, k) }()
	return r, done
}

func wait(t *testing.T, done chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("Run does not return")
		return nil
	}
}

// slot makes the slot "hf" and returns where the log that it keeps begins.
func slot(t *testing.T, s *pgtest.Server) wal.LSN {
	t.Helper()
	conn, err := cluster.ConnectReplication(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // all is done
	for i, want := range []bool{true, false} {
		if created, err := stream.EnsureSlot(t.Context(), conn, "hf", stream.Permanent); err != nil || created != want {
			t.Fatalf("EnsureSlot, call %d: %v, %v", i+1, created, err)
		}
	}
	return segment.Floor(readSlot(t, s).Restart)
}

func readSlot(t *testing.T, s *pgtest.Server) stream.Slot {
	t.Helper()
	sl, ok, err := stream.ReadSlot(t.Context(), s.Connect(""), "hf")
	if err != nil || !ok || !sl.Physical || sl.Temporary {
		t.Fatalf("slot: %+v, %v, %v", sl, ok, err)
	}
	return sl
}

func currentLSN(t *testing.T, s *pgtest.Server) wal.LSN {
	t.Helper()
	l, err := wal.ParseLSN(s.Query("", "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// load runs clients that write until stop is closed, as pgbench does.
func load(t *testing.T, s *pgtest.Server, transactions int) {
	t.Helper()
	s.Exec("", "CREATE TABLE IF NOT EXISTS accounts AS SELECT i, 0 AS balance, repeat('x', 80) AS filler FROM generate_series(1, 1000) i",
		"CREATE TABLE IF NOT EXISTS history (at timestamptz, i int, delta int, note text)")
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			conn, err := pgx.Connect(context.Background(), s.ConnString(""))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.Background()) //nolint:errcheck // all is done
			for i := range transactions {
				_, err := conn.Exec(context.Background(), fmt.Sprintf(`BEGIN; UPDATE accounts SET balance = balance + %d WHERE i = %d;
					INSERT INTO history SELECT now(), g, %d, md5(g::text) FROM generate_series(1, 20) g; COMMIT`, i, client*200+i%200+1, i))
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// compare checks the received log of a timeline with the server's own files.
func (k *keeper) compare(s *pgtest.Server, tl wal.TimelineID) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.logs[tl]
	if l == nil || l.start != segment.Floor(l.start) {
		k.t.Fatalf("nothing of timeline %d was received, or not from the start of a segment", tl)
	}
	segments := 0
	for at := l.start; at < l.end(); at += wal.LSN(segment) {
		name := wal.SegmentName(tl, segment.Segment(at), segment)
		want, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", name))
		if os.IsNotExist(err) { // the last one of a timeline that was left
			want, err = os.ReadFile(filepath.Join(s.DataDir, "pg_wal", name+".partial"))
		}
		if err != nil {
			k.t.Fatal(err)
		}
		got := l.data[at-l.start:]
		got = got[:min(len(got), int(segment))]
		if !bytes.Equal(got, want[:len(got)]) {
			k.t.Errorf("%s differs from what was received", name)
		}
		if _, err := wal.CheckSegment(got, wal.Name{Kind: wal.Segment, Timeline: tl, Segment: segment.Segment(at)}, segment, 0); err != nil {
			k.t.Error(err)
		}
		segments++
	}
	k.t.Logf("timeline %d: %d segments from %s to %s are equal", tl, segments, l.start, l.end())
}

func TestLoadAndCleanStop(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s := pgtest.Start(t, options(v))
			k := newKeeper(t)
			_, done := run(t, t.Context(), s, stream.Options{Slot: "hf"}, 1, slot(t, s), k)
			load(t, s, 100)
			end := currentLSN(t, s)
			k.until(1, end)
			s.Until(t, "", fmt.Sprintf("SELECT restart_lsn >= '%s' FROM pg_replication_slots", end), "t")
			if sl := readSlot(t, s); !sl.Active || sl.Status != "reserved" {
				t.Errorf("the slot in use: %+v", sl)
			}
			s.Stop(pgtest.Fast)
			if err := wait(t, done); !errors.Is(err, stream.ErrStopped) {
				t.Fatalf("after a clean stop Run returns %v", err)
			}
			c, _, err := control.Read(t.Context(), s.DataDir)
			if err != nil || c.State != control.ShutDown {
				t.Fatalf("%v, %v", c.State, err)
			}
			if got := k.logs[1].end(); got <= c.Checkpoint {
				t.Errorf("received up to %s, the shutdown checkpoint is at %s", got, c.Checkpoint)
			}
			k.compare(s, 1)
		})
	}
}

func TestPromotionIsFollowed(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			a := pgtest.Start(t, options(v))
			b := a.Standby(options(v))
			from := slot(t, b)
			k := newKeeper(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			_, done := run(t, ctx, b, stream.Options{Slot: "hf"}, 1, from, k)
			load(t, a, 20)
			a.Stop(pgtest.Fast)
			b.Promote()
			load(t, b, 20)
			k.until(2, currentLSN(t, b))
			mine := errors.New("enough")
			cancel(mine)
			if err := wait(t, done); !errors.Is(err, mine) {
				t.Errorf("Run returns %v", err)
			}
			h, err := wal.ParseHistory(2, []byte(k.histories[2]))
			if err != nil {
				t.Fatal(err)
			}
			left, _ := h.SwitchPoint(1)
			if l1, l2 := k.logs[1], k.logs[2]; l1.end() != left || l2.start != segment.Floor(left) {
				t.Errorf("timeline 1 ends at %s, 2 begins at %s, the switch was at %s", l1.end(), l2.start, left)
			}
			k.compare(b, 1)
			k.compare(b, 2)
			again(t, b, from, left)
		})
	}
}

// again connects to a server on timeline 2 with positions on timeline 1.
func again(t *testing.T, s *pgtest.Server, from, left wal.LSN) {
	t.Helper()
	for _, start := range []wal.LSN{from, left} { // at the switch itself there is nothing to copy
		k := newKeeper(t)
		ctx, cancel := context.WithCancel(t.Context())
		_, done := run(t, ctx, s, stream.Options{}, 1, start, k)
		k.until(2, currentLSN(t, s))
		cancel()
		if err := wait(t, done); !errors.Is(err, context.Canceled) {
			t.Errorf("Run returns %v", err)
		}
		k.compare(s, 2)
	}
	var diverged *stream.DivergedError
	_, done := run(t, t.Context(), s, stream.Options{}, 1, left+8, newKeeper(t))
	if err := wait(t, done); !errors.As(err, &diverged) || diverged.Left != left {
		t.Errorf("a position beyond the switch: %v", err)
	}
	_, done = run(t, t.Context(), s, stream.Options{}, 7, left, newKeeper(t))
	if err := wait(t, done); !errors.As(err, &diverged) || diverged.Left != 0 {
		t.Errorf("a timeline that the server does not know: %v", err)
	}
}

func TestWhatTheServerRefuses(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			o := options(v)
			o.Conf["wal_keep_size"] = "0"
			s := pgtest.Start(t, o)
			first := segment.Floor(currentLSN(t, s))
			for range 5 {
				s.Exec("", "CREATE TABLE x AS SELECT 1", "DROP TABLE x", "SELECT pg_switch_wal()", "CHECKPOINT")
			}
			var removed *stream.RemovedError
			_, done := run(t, t.Context(), s, stream.Options{}, 1, first, newKeeper(t))
			if err := wait(t, done); !errors.As(err, &removed) || removed.At != first {
				t.Errorf("log that was removed: %v", err)
			}
			var ahead *stream.AheadError
			_, done = run(t, t.Context(), s, stream.Options{}, 1, currentLSN(t, s)+1<<30, newKeeper(t))
			if err := wait(t, done); !errors.As(err, &ahead) {
				t.Errorf("a position beyond the end: %v", err)
			}
			var wrong *stream.WrongSystemError
			_, done = run(t, t.Context(), s, stream.Options{SystemID: 42}, 1, first, newKeeper(t))
			if err := wait(t, done); !errors.As(err, &wrong) || wrong.Want != 42 {
				t.Errorf("another cluster: %v", err)
			}
			_, done = run(t, t.Context(), s, stream.Options{Slot: "missing"}, 1, currentLSN(t, s), newKeeper(t))
			if err := wait(t, done); err == nil || !strings.Contains(err.Error(), `"missing" does not exist`) {
				t.Errorf("a slot that does not exist: %v", err)
			}
			mine := errors.New("disk full")
			k := newKeeper(t)
			k.hold = func(context.Context, stream.Piece) error { return mine }
			_, done = run(t, t.Context(), s, stream.Options{}, 1, segment.Floor(currentLSN(t, s)), k)
			if err := wait(t, done); err != mine { //nolint:errorlint // "returned as it is"
				t.Errorf("the sink's error: %v", err)
			}
		})
	}
}

func TestCommitWaitsForAck(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, options(""))
	s.Exec("", "CREATE TABLE t (i int)")
	k := newKeeper(t)
	k.ack = func(wal.LSN) {} // nothing is durable yet
	from := slot(t, s)
	r, done := run(t, t.Context(), s, stream.Options{Slot: "hf"}, 1, from, k)
	r.Ack(from) // a standby that has acknowledged nothing is no synchronous one
	s.Until(t, "", "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'holdfast' AND state = 'streaming'", "1")
	s.Exec("", "ALTER SYSTEM SET synchronous_standby_names = 'holdfast'", "ALTER SYSTEM SET synchronous_commit = 'remote_apply'", "SELECT pg_reload_conf()")
	s.Until(t, "", "SELECT sync_state FROM pg_stat_replication", "sync")
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		s.Exec("", "INSERT INTO t VALUES (1)")
	}()
	s.Until(t, "", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1")
	k.until(1, currentLSN(t, s))
	select {
	case <-committed:
		t.Fatal("the commit returned before it was acknowledged")
	default:
	}
	r.Ack(currentLSN(t, s))
	<-committed
	r.Ack(wal.MaxLSN) // for the stop
	s.Kill9()
	if err := wait(t, done); err == nil || errors.Is(err, stream.ErrStopped) {
		t.Errorf("after a crash Run returns %v", err)
	}
}

func TestCancelSendsTheLastAck(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, options(""))
	k := newKeeper(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, done := run(t, ctx, s, stream.Options{Slot: "hf"}, 1, slot(t, s), k)
	load(t, s, 5)
	end := currentLSN(t, s)
	k.until(1, end)
	cancel()
	if err := wait(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returns %v", err)
	}
	s.Until(t, "", "SELECT active FROM pg_replication_slots", "f")
	if sl := readSlot(t, s); sl.Restart < end {
		t.Errorf("the slot keeps the log from %s, acknowledged was %s", sl.Restart, end)
	}
	conn, err := cluster.ConnectReplication(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.DropSlot(t.Context(), conn, "hf"); err != nil {
			t.Error(err)
		}
	}
	if _, ok, err := stream.ReadSlot(t.Context(), s.Connect(""), "hf"); ok || err != nil {
		t.Errorf("the slot is still there: %v, %v", ok, err)
	}
}

func TestSlowSinkStaysConnected(t *testing.T) {
	t.Parallel()
	o := options("")
	o.Conf["wal_sender_timeout"] = "900ms"
	s := pgtest.Start(t, o)
	k := newKeeper(t)
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	k.hold = func(context.Context, stream.Piece) error {
		once.Do(func() { close(entered) })
		<-release
		return nil
	}
	_, done := run(t, t.Context(), s, stream.Options{}, 1, slot(t, s), k)
	load(t, s, 20)
	<-entered
	// The sink holds still for three times the server's patience, by the server's own clock.
	s.Until(t, "", "SELECT reply_time - backend_start > '2.7s' FROM pg_stat_replication", "t")
	close(release)
	k.until(1, currentLSN(t, s))
	s.Stop(pgtest.Fast)
	if err := wait(t, done); !errors.Is(err, stream.ErrStopped) {
		t.Errorf("Run returns %v", err)
	}
}

func TestSilentServer(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, options(""))
	k := newKeeper(t)
	_, done := run(t, t.Context(), s, stream.Options{IdleLimit: 400 * time.Millisecond}, 1, slot(t, s), k)
	k.until(1, currentLSN(t, s))
	var pid int
	if _, err := fmt.Sscan(s.Query("", "SELECT pid FROM pg_stat_replication"), &pid); err != nil {
		t.Fatal(err)
	}
	// Idle for some limits, it stays connected: it answers when it is asked.
	s.Until(t, "", "SELECT reply_time - backend_start > '1.2s' FROM pg_stat_replication", "t")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	var silent *stream.SilentError
	if err := wait(t, done); !errors.As(err, &silent) {
		t.Errorf("Run returns %v", err)
	}
}
