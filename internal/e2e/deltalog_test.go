package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// synced is the configuration of a server whose files a delta restore believes.
var synced = map[string]string{
	"fsync": "on", "synchronous_commit": "off", "wal_keep_size": "2GB", "max_prepared_transactions": "300", "checkpoint_timeout": "30s", "max_wal_size": "128MB",
}

// TestDeltaByTheLog brings clusters that have gone their own way back to a recovery point, by what the logs say of them:
// a restored copy on which everything moved and that crashed, and a copy of the source from earlier. Every page must then
// be what a fresh restore has, but for what is never logged.
func TestDeltaByTheLog(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) { deltaByTheLog(t, v) })
	}
}

func deltaByTheLog(t *testing.T, version string) {
	w := newWorld(t, pgtest.Options{Version: version, Conf: synced})
	w.run("repo", "init")
	var spaces []string
	for i := range 3 {
		spaces = append(spaces, w.mkdir(fmt.Sprintf("space%d", i)))
	}
	agent := w.agent()
	m := startMover(t, w.server, w.dir)
	pause(2 * time.Second)
	w.run("snapshot", "create", system)
	m.stop()
	early := w.server.Query("", "SELECT pg_current_wal_flush_lsn()")
	w.server.Stop(pgtest.Fast)
	older := filepath.Join(w.dir, "older")
	if out, err := exec.Command("cp", "-a", w.server.DataDir, older).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.server.Start()
	w.until("the agent is connected again", func() bool {
		return w.server.Query("", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
	})
	m = moveOn(t, w.server, w.dir, 0)
	pause(2 * time.Second)
	w.run("snapshot", "create", system)
	pause(time.Second)
	m.stop()
	source := digest(t, w.server.ConnString, true)
	w.server.Stop(pgtest.Fast)
	agent.stop()
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	empty := func() {
		for _, dir := range spaces { // the source's, which the log names
			emptyDirectory(t, dir)
		}
	}

	// A copy of an earlier moment.
	empty()
	w.restore("fresh")
	d := w.delta("older", "")
	comparePages(t, older, filepath.Join(w.dir, "fresh"))
	w.compareStarted(d, source)

	// A copy that was promoted, and goes its own way until it crashes: from the end, and from before the snapshot.
	for i, at := range []string{"latest", early} {
		empty()
		r := w.restore("copy", "--at", at)
		copied := w.open(r.dir)
		empty()
		copied.Start()
		copied.Until(t, "", "SELECT pg_is_in_recovery()", "f")
		own := w.mkdir(fmt.Sprintf("own-%d", i))
		for space := range 3 {
			w.mkdir(fmt.Sprintf("own-%d/space%d", i, space))
		}
		m = moveOn(t, copied, own, 0)
		pause(1500 * time.Millisecond)
		copied.Exec("", "CHECKPOINT")
		pause(time.Second)
		copied.Kill9()
		m.stop()
		empty()
		dropOrphans(t, r.dir)
		d := w.delta("copy", "")
		comparePages(t, r.dir, filepath.Join(w.dir, "fresh"))
		empty()
		w.compareStarted(d, source)
		d.remove()
	}
}

// dropOrphans removes what a crash left of tablespaces that were dropped: a restore writes to no directory that it does not
// find empty, unless it is the cluster's.
func dropOrphans(t *testing.T, dir string) {
	t.Helper()
	for _, space := range glob(t, dir+"_tablespaces/*") {
		if to, err := os.Readlink(filepath.Join(dir, "pg_tblspc", filepath.Base(space))); err != nil || to != space {
			if err := os.RemoveAll(space); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	all, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// delta brings a directory to the end of the log. Why every byte was compared has to begin with why.
func (w *world) delta(name, why string, args ...string) *restored {
	w.t.Helper()
	if len(args) == 0 {
		args = []string{"--delta"}
	}
	r := w.restore(name, args...)
	d := r.Files.Delta
	w.t.Logf("%s: %+v of %d files with %s, %s right", name, d, r.Files.Files, bytesOf(r.Files.Bytes), bytesOf(r.Files.Kept))
	if d == nil || (why == "") != (d.Compared == "") || !strings.HasPrefix(d.Compared, why) {
		w.t.Fatalf("every byte was compared because of %+v, want %q", d, why)
	}
	return r
}

func bytesOf(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// open returns a server on a restored directory that syncs.
func (w *world) open(dir string) *pgtest.Server {
	w.t.Helper()
	return pgtest.Open(w.t, dir, pgtest.Options{Version: fmt.Sprint(w.server.Version), Conf: synced})
}

// compareStarted starts a restored directory and compares it with the source's digest.
func (w *world) compareStarted(r *restored, source map[string]string) {
	w.t.Helper()
	s := w.open(r.dir)
	s.Start()
	s.Until(w.t, "", "SELECT pg_is_in_recovery()", "f")
	r.Server = &struct {
		Socket string
		Port   int
		PID    int
	}{Socket: s.Socket, Port: s.Port}
	compareRestored(w.t, r, source)
	s.WaitExit()
}

// comparePages wants two directories that were restored from one snapshot to have the same pages, but for those that
// replay changes, hint bits, and how far a sequence was given out.
func comparePages(t *testing.T, got, want string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(want, "backup_label"))
	if err != nil {
		t.Fatal(err)
	}
	label, err := wal.ParseLabel(text)
	if err != nil {
		t.Fatal(err)
	}
	pages, differ := 0, 0
	for _, below := range []string{"", "_tablespaces"} {
		err := filepath.WalkDir(want+below, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			rel, _ := filepath.Rel(want+below, path)
			name := rel
			if below != "" {
				name = filepath.Join("pg_tblspc", rel)
			}
			r, ok := cluster.ParsePath(name)
			a, err1 := os.ReadFile(filepath.Join(got+below, rel))
			b, err2 := os.ReadFile(path)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			if !ok || r.Fork == cluster.FSM {
				if !bytes.Equal(a, b) && !strings.HasPrefix(name, "postgresql") {
					t.Errorf("%s differs", rel)
				}
				return nil
			}
			if len(a) != len(b) {
				t.Errorf("%s has %d bytes, want %d", rel, len(a), len(b))
				return nil
			}
			for at := 0; at < len(a); at += page.Size {
				pages++
				p, q := a[at:at+page.Size], b[at:at+page.Size]
				if bytes.Equal(p, q) {
					continue
				}
				differ++
				g, h := page.ReadHeader(p), page.ReadHeader(q)
				replayed := wal.LSN(h.LSN) >= label.StartLSN && wal.LSN(g.LSN) < label.StartLSN
				if replayed || g.LSN == h.LSN && (g.LSN == 0 || g.Lower == h.Lower && g.Upper == h.Upper && g.Special == h.Special) {
					continue
				}
				t.Errorf("page %d of %s: LSN %s, want %s", at/page.Size, rel, wal.LSN(g.LSN), wal.LSN(h.LSN))
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	t.Logf("%d pages, of which %d differ in what is not logged, or before replay", pages, differ)
}

// TestDeltaAfterAFailover brings an old primary, which was killed and had written more than its standby got, to the way of
// the one that took over: with checkpoints of its own behind the fork and without, from snapshots of before the failover
// and of after it.
func TestDeltaAfterAFailover(t *testing.T) {
	for _, v := range pgtest.Versions(t) {
		for _, c := range []struct{ checkpoint, after bool }{{false, false}, {true, true}, {false, true}, {true, false}} {
			t.Run(fmt.Sprintf("%s/checkpoint=%v/after=%v", v, c.checkpoint, c.after), func(t *testing.T) { deltaAfterAFailover(t, v, c.checkpoint, c.after) })
		}
	}
}

func deltaAfterAFailover(t *testing.T, version string, checkpoint, after bool) {
	o := pgtest.Options{Version: version, TCP: true, Checksums: true, Conf: synced}
	w := newWorld(t, o)
	old := w.server
	old.Exec("", "CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 100000) AS i", "CREATE INDEX ON big (i)",
		"CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS i", "CREATE TABLE short AS SELECT * FROM big", "CREATE SEQUENCE ticket", "CREATE DATABASE other")
	standby := old.Standby(pgtest.Options{TCP: true, Conf: o.Conf})
	w.configure(setup{connection: fmt.Sprintf(
		"host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres sslmode=disable target_session_attrs=read-write", old.Port, standby.Port), remote: true})
	w.run("repo", "init")
	agent := w.agentOn(old)
	w.run("snapshot", "create", system)
	old.Exec("", "UPDATE big SET v = md5(v) WHERE i % 1000 = 0", "SELECT nextval('ticket')", "CHECKPOINT", "DELETE FROM big WHERE i % 999 = 0")
	standby.Until(t, "", fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", old.Query("", "SELECT pg_current_wal_flush_lsn()")), "t")
	w.logReaches(1, old.Query("", "SELECT pg_current_wal_flush_lsn()"))
	agent.stop()
	standby.Promote()
	// The old one does not know, and goes on.
	old.Exec("", "SELECT count(*) FROM big", "UPDATE big SET v = 'lost' WHERE i % 500 = 0", "CREATE TABLE gone AS SELECT * FROM big LIMIT 1000", "SELECT nextval('ticket')",
		"DELETE FROM short WHERE i > 100", "VACUUM short", "DROP DATABASE other", "CREATE DATABASE mine")
	if checkpoint {
		old.Exec("", "CHECKPOINT", "UPDATE big SET v = 'lost too' WHERE i % 700 = 1")
	}
	old.Exec("", "SELECT count(*) FROM big")
	old.Kill9()
	w.configure(setup{connection: standby.ConnString(""), remote: true})
	w.server = standby
	agent = w.agentOn(standby)
	standby.Exec("", "UPDATE big SET v = md5(v) WHERE i % 1100 = 0", "SELECT count(*) FROM big", "CREATE TABLE fresh AS SELECT * FROM big LIMIT 5000", "TRUNCATE short",
		"INSERT INTO short SELECT * FROM big LIMIT 5000", "SELECT nextval('ticket')", "CREATE DATABASE ours")
	if after {
		w.run("snapshot", "create", system)
	}
	standby.Exec("", "INSERT INTO fresh SELECT * FROM big LIMIT 500")
	w.logReaches(2, standby.Query("", "SELECT pg_current_wal_flush_lsn()"))
	source := digest(t, standby.ConnString, true)
	standby.Stop(pgtest.Fast)
	agent.stop()

	w.restore("fresh")
	target := filepath.Join(w.dir, "old")
	if out, err := exec.Command("cp", "-a", old.DataDir, target).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d := w.delta("old", "")
	comparePages(t, target, filepath.Join(w.dir, "fresh"))
	w.compareStarted(d, source)
}
