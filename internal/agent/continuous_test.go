package agent

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// TestContinuousSnapshots leaves it to the agent when it takes snapshots: after checkpoints of the server, and never else. It
// looks every two seconds here, instead of every minute.
func TestContinuousSnapshots(t *testing.T) {
	s := newSite(t, "continuous")
	s.server.Exec("", "CREATE TABLE ledger AS SELECT i AS n, repeat('x', 100) AS s FROM generate_series(1, 20000) i")
	p := s.start(s.path)
	last := p.until("the first snapshot", func(st SystemStatus) bool { return st.State.Last != nil }).State.Last
	for n := range 2 {
		s.server.Exec("", fmt.Sprintf("UPDATE ledger SET s = repeat('%d', 100) WHERE n %% 10 = 0", n))
		written := utc()
		for range 2 { // the first look may have begun before
			st := p.until("the agent looks", func(st SystemStatus) bool { return st.State.Snapshot.Succeeded.After(written) })
			if st.State.Last.ID != last.ID {
				t.Fatalf("snapshot %s was taken though nothing was checkpointed since %s", st.State.Last.ID, last.ID)
			}
			written = utc()
		}
		s.server.Exec("", "CHECKPOINT")
		redo := s.server.Query("", "SELECT redo_lsn FROM pg_control_checkpoint()")
		last = p.until("a snapshot after the checkpoint", func(st SystemStatus) bool { return st.State.Last.ID != last.ID }).State.Last
		if start := s.factsOf(last.ID).StartLSN.String(); start != redo {
			t.Errorf("recovery from snapshot %s begins at %s, and the server's checkpoint at %s", last.ID, start, redo)
		}
		if last.Added > 1<<20 {
			t.Errorf("snapshot %s has added %d bytes: it read more than what changed", last.ID, last.Added)
		}
	}
	// As the agent looks, and as it does behind a gap: one that is wanted in any case waits for no checkpoint.
	w, system := s.open()
	defer w.Close()
	o := &systemOperations{ws: w, system: system, policy: w.Config.PolicyOf(system), log: slog.New(slog.DiscardHandler)}
	if got := o.do(t.Context(), job{task: taskSnapshot}, nil); got.err != nil || !got.unneeded {
		t.Errorf("without a checkpoint: %+v", got)
	}
	wanted := o.do(t.Context(), job{task: taskSnapshot, wanted: true}, nil)
	if wanted.err != nil || wanted.last == nil {
		t.Fatalf("a snapshot without which nothing can be recovered: %+v", wanted)
	}
	want := s.server.Query("", contentOfLedger)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("the agent's clean stop: %v\n%s", err, p.said())
	}
	s.server.Stop(pgtest.Immediate)
	s.restores(w, wanted.last.ID, want)
}

const contentOfLedger = "SELECT count(*) || ' ' || md5(string_agg(n || s, ',' ORDER BY n)) FROM ledger"

// open opens the site's workspace, as somebody else does.
func (s *site) open() (*workspace.Workspace, config.System) {
	s.t.Helper()
	c, err := config.Load(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	return workspace.New(c, slog.New(slog.DiscardHandler)), c.Systems[testSystem]
}

// factsOf returns what the newest snapshot, which must be this one, says of the cluster.
func (s *site) factsOf(id repo.SnapshotID) *pg.Facts {
	s.t.Helper()
	w, _ := s.open()
	defer w.Close()
	sys, err := w.System(s.t.Context(), testSystem)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := sys.Repo.LatestSnapshot(s.t.Context(), testSystem)
	if err != nil || m.ID != id {
		s.t.Fatalf("the newest snapshot is %+v, %v; want %s", m, err, id)
	}
	f, err := pg.ParseFacts(m.Engine, m.Facts)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// restores brings the newest snapshot back, with the log that the repository has for it, and holds it against what the ledger
// was. The server's user may not read the repository: the test fetches the log for it.
func (s *site) restores(w *workspace.Workspace, id repo.SnapshotID, want string) {
	s.t.Helper()
	ctx := s.t.Context()
	sys, err := w.System(ctx, testSystem)
	if err != nil {
		s.t.Fatal(err)
	}
	dir := filepath.Join(pgtest.TempDir(s.t), "data")
	r, err := w.Recover(ctx, sys.Repo, testSystem, workspace.RecoverOptions{
		Target: points.Target{Kind: points.Immediate}, To: dir, RestoreCommand: "false %f %p",
	})
	if err != nil || r.Snapshot != id {
		s.t.Fatalf("restored from %s, %v; want %s", r.Snapshot, err, id)
	}
	policy, err := walserve.ReadPolicy(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	f := s.factsOf(id)
	size := wal.SegmentSize(f.SegmentSize)
	for n := size.Segment(f.StartLSN); n <= size.Segment(f.StopLSN); n++ {
		name := wal.SegmentName(f.Timeline, n, size)
		got := walserve.Fetch(ctx, name, filepath.Join(dir, "pg_wal", name), walserve.FetchOptions{
			Open: func(context.Context) (*walserve.Source, error) { return walserve.NewSource(sys.Repo, policy), nil },
		})
		if got.ExitCode() != 0 {
			s.t.Fatalf("%s: %v", name, got.Err())
		}
	}
	back := pgtest.Open(s.t, dir, pgtest.Options{Conf: map[string]string{"recovery_target_action": "pause"}})
	back.Start()
	if got := back.Query("", contentOfLedger); got != want {
		s.t.Errorf("the restored ledger is %q, want %q", got, want)
	}
}
