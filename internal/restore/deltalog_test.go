package restore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// changes is what the program wires: the log of the repository.
func changes(r *repo.Repository, p *points.Plan) restore.ChangesFunc {
	f := p.Snapshot.Facts
	c := capture.ChangesConfig{SegmentSize: wal.SegmentSize(f.SegmentSize), SystemID: f.SystemID, PageSize: f.PageSize}
	return func(ctx context.Context, way *wal.Timelines, from, to wal.LSN) (*changed.Map, error) {
		return capture.ChangedBlocks(ctx, r.Log(p.System), way, c, from, to)
	}
}

var synced = map[string]string{"fsync": "on", "wal_keep_size": "1GB", "autovacuum": "off"}

// parted is a world with a restored cluster that was promoted, has gone its own way, and was stopped.
type parted struct {
	*world
	whole    string // what a fresh restore gives
	diverged string
	relation string // path of a table of which hardly anything changed
}

func newParted(t *testing.T, checksums bool, conf map[string]string) *parted {
	t.Helper()
	p := &parted{world: newWorld(t, pgtest.Options{Version: "15", Checksums: checksums, Conf: conf})}
	w := p.world
	w.s.Exec("", "CREATE TABLE t AS SELECT i, repeat('x', 50) AS s FROM generate_series(1, 100000) AS i", "CREATE INDEX ON t (i)", "VACUUM FREEZE t", "CREATE TABLE u (i int)")
	w.snapshot(w.s)
	w.s.Exec("", "INSERT INTO u VALUES (0)")
	w.archive(w.s)
	p.relation = filepath.Join("base", "5", w.s.Query("", "SELECT pg_relation_filenode('t')"))
	p.whole, p.diverged = filepath.Join(w.base, "whole"), filepath.Join(w.base, "diverged")
	for _, to := range []string{p.whole, p.diverged} {
		o := w.options(filepath.Base(to))
		if to == p.whole {
			o.Settings = unserved
		}
		if _, err := restore.Run(t.Context(), w.r, w.mustPlan("latest"), o); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Chown(t, w.dir)
	s := pgtest.Open(t, p.diverged, pgtest.Options{Version: "15", Conf: conf})
	s.Start()
	s.Until(t, "", "SELECT pg_is_in_recovery()", "f")
	s.Exec("", "UPDATE t SET s = 'other' WHERE i % 3000 = 0", "CREATE TABLE mine AS SELECT 1 AS i", "CHECKPOINT", "DELETE FROM t WHERE i = 7")
	s.Stop(pgtest.Fast)
	return p
}

// copied returns a copy of the diverged cluster.
func (p *parted) copied(name string) string {
	p.t.Helper()
	to := filepath.Join(p.base, name)
	if out, err := exec.Command("cp", "-a", p.diverged, to).CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	return to
}

// delta restores over a directory, which must then be what a fresh restore gives.
func (p *parted) delta(to string, mode restore.Mode) *restore.Result {
	p.t.Helper()
	plan := p.mustPlan("latest")
	r, err := restore.Run(p.t.Context(), p.r, plan, restore.Options{To: to, Mode: mode, Settings: unserved, Changes: changes(p.r, plan)})
	if err != nil {
		p.t.Fatal(err)
	}
	same(p.t.(*testing.T), to, p.whole)
	return r
}

// What the logs prove is not looked at, and of what they do not prove every byte is: whatever is done to a cluster, it
// becomes what a fresh restore gives, or the reason to compare is told.
func TestDeltaBelievesWhatIsProven(t *testing.T) {
	p := newParted(t, true, synced)
	edit := func(name string, f func(b []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, f(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	put := func(name, text string) func(t *testing.T, dir string) {
		return edit(name, func(b []byte) []byte { return append(b, text...) })
	}
	segments := func(dir string) []string {
		all, _ := filepath.Glob(filepath.Join(dir, "pg_wal", "00000002*0?"))
		return all
	}
	page := func(n int) func(b []byte) []byte {
		return func(b []byte) []byte { copy(b[n*8192+4000:], "a lie"); return b }
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		mode   restore.Mode
		why    string
	}{
		"nothing":            {nil, restore.Delta, ""},
		"asked for":          {nil, restore.Compare, "it was asked for"},
		"a lie, asked for":   {edit(p.relation, page(100)), restore.Compare, "it was asked for"},
		"lies everywhere":    {edit(p.relation, func(b []byte) []byte { return make([]byte, len(b)) }), restore.Delta, "of a sample, page "},
		"fsync off":          {put("postgresql.auto.conf", "fsync = off\n"), restore.Delta, "the cluster ran with fsync off"},
		"fsync off, started": {put("postmaster.opts", ` "-c" "fsync=off"`), restore.Delta, "the cluster ran with fsync off"},
		"not fsync":          {put("postgresql.auto.conf", "# fsync = off\n"), restore.Delta, ""},
		"a copy":             {put("backup_label", "x"), restore.Delta, "the cluster has a backup_label"},
		"unfinished":         {put("holdfast.restore", "{}\n"), restore.Delta, "an earlier restore"},
		"no pg_control":      {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, control.Path)) }, restore.Delta, ""},
		"no label": {
			func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "backup_label.old")) }, restore.Delta,
			"the cluster was a standby when it went its own way",
		},
		"no history": {
			func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "pg_wal", "00000002.history")) }, restore.Delta,
			"how the cluster came to timeline 2 is not known",
		},
		"no log": {func(t *testing.T, dir string) {
			for _, s := range segments(dir) {
				os.Remove(s)
			}
		}, restore.Delta, "the cluster's own log has no record at"},
		"another log": {func(t *testing.T, dir string) {
			for _, s := range segments(dir) { // its first segment begins with what it shares with the repository's
				rel, _ := filepath.Rel(dir, s)
				edit(rel, func(b []byte) []byte { b[30] ^= 1; return b })(t, dir)
			}
		}, restore.Delta, "the cluster's"},
		"a file is missing": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, p.relation)) }, restore.Delta, ""},
		"a file is short":   {edit(p.relation, func(b []byte) []byte { return b[:len(b)/2+100] }), restore.Delta, ""},
		"a file is long":    {put(p.relation, strings.Repeat("more", 5000)), restore.Delta, ""},
		"another mode":      {func(t *testing.T, dir string) { os.Chmod(filepath.Join(dir, p.relation), 0o644) }, restore.Delta, ""},
		"a new file":        {put("base/5/99999", "x"), restore.Delta, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			to := p.copied("to " + name)
			if c.change != nil {
				c.change(t, to)
			}
			r := p.delta(to, c.mode)
			d := r.Delta
			if name == "no pg_control" {
				if d == nil || d.Compared == "" {
					t.Errorf("without pg_control it was believed: %+v", d)
				}
				return
			}
			if d == nil || (c.why == "") != (d.Compared == "") || !strings.HasPrefix(d.Compared, c.why) {
				t.Fatalf("compared: %+v, want %q", d, c.why)
			}
			if c.why == "" && (d.Files < 200 || d.Rewritten < 30 || d.Sampled == 0) {
				t.Errorf("%+v, written %d", d, r.Bytes-r.Kept)
			}
			if name == "lies everywhere" && len(r.Notes) == 0 {
				t.Error("nobody was told of the lie")
			}
		})
	}
}

// Without anything that has hint bits logged, a cluster that has gone its own way is compared.
func TestDeltaWithoutLoggedHints(t *testing.T) {
	p := newParted(t, false, synced)
	if r := p.delta(p.copied("to"), restore.Delta); !strings.Contains(r.Delta.Compared, "wal_log_hints") {
		t.Errorf("compared: %+v", r.Delta)
	}
}

// Killed at any step, a delta restore by the log leaves what cannot be started, and what the next run does not believe.
func TestDeltaByTheLogAfterKill(t *testing.T) {
	p := newParted(t, true, synced)
	for step := 1; ; step += 1 + step/2 {
		to := p.copied(fmt.Sprintf("killed-%d", step))
		killed := p.child(to, step, restore.Delta)
		if !killed {
			same(t, to, p.whole)
			if step < 10 {
				t.Errorf("only %d steps", step)
			}
			break
		}
		_, unstarted := os.Stat(filepath.Join(to, control.Path))
		again := p.delta(to, restore.Delta)
		if unstarted != nil && again.Delta.Compared == "" {
			t.Fatalf("killed at step %d, it is believed", step)
		}
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
	}
}
