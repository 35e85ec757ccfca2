package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// TestArchivingWithoutAStream recovers through archive_command and restore_command alone.
func TestArchivingWithoutAStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15", Conf: map[string]string{"archive_mode": "on"}})
	w.configure(setup{log: "{stream: false}"})
	w.run("repo", "init")
	w.server.Exec("", fmt.Sprintf("ALTER SYSTEM SET archive_command = '%s --config %s wal push %s %%p'", w.binary, w.config, system), "SELECT pg_reload_conf()")
	w.server.Until(t, "", "SELECT current_setting('archive_command') <> ''", "t")
	w.run("snapshot", "create", system)
	for i := range 5 {
		w.server.Exec("", ledgerTable, fmt.Sprintf("INSERT INTO book SELECT '%d ' || i, repeat('x', 500) FROM generate_series(1, 2000) AS i", i), "SELECT pg_switch_wal()")
	}
	// What changed is known of archived log too. Nobody archives the end of it before the segment is full: it is not waited for.
	for i := range 2 {
		w.server.Exec("", fmt.Sprintf("INSERT INTO book VALUES ('before %d', '')", i), "CHECKPOINT", fmt.Sprintf("INSERT INTO book VALUES ('behind %d', '')", i))
		if c := w.snapshot(); c.FullScan != "" {
			t.Errorf("everything was read: %s", c.FullScan)
		}
	}
	want := digest(t, w.server.ConnString, true)
	last := w.server.Query("", "SELECT pg_walfile_name(pg_current_wal_lsn())")
	w.server.Exec("", "SELECT pg_switch_wal()")
	w.server.Until(t, "", "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver", "t")
	w.pushesQuickly(last)
	w.server.Stop(pgtest.Fast)
	if err := os.RemoveAll(w.server.DataDir); err != nil {
		t.Fatal(err)
	}
	r := w.restore("back", "--start")
	if d := cmp.Diff(want, digest(t, r.connString, false)); d != "" {
		t.Errorf("-source +restored:\n%s", d)
	}
	r.stop()
}

// pushesQuickly pushes a segment again whose archiver is there: the command ends before the program begins.
func (w *world) pushesQuickly(segment string) {
	w.t.Helper()
	path := filepath.Join(w.server.DataDir, "pg_wal", segment)
	w.env = append(w.env, "GODEBUG=inittrace=1")
	defer func() { w.env = w.env[:len(w.env)-1] }()
	w.run("--config", w.config, "wal", "push", system, path) // it may have to start the archiver
	trace := w.try("--config", w.config, "wal", "push", system, path).stderr
	if !strings.Contains(trace, "init syscall ") || strings.Contains(trace, "init os ") || strings.Contains(trace, "internal/config ") || strings.Contains(trace, "prometheus") {
		w.t.Errorf("before the answer there began:\n%s", trace)
	}
}

// TestLongestName protects a system whose name is as long as names may be, with a stream through its slot.
func TestLongestName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Options{Version: "15"})
	for _, name := range []string{strings.Repeat("z", 63), "0"} {
		w.configure(setup{systems: []string{name}, url: "file://" + filepath.Join(w.dir, "repository-"+name[:1])})
		w.run("repo", "init")
		agent := w.agent()
		w.run("snapshot", "create", name)
		agent.stop()
		w.run("restore", name, "--to", filepath.Join(w.dir, "back"+name[:1]), "--at", "immediate", "--start")
		w.program("pg_ctl", "-D", filepath.Join(w.dir, "back"+name[:1]), "-m", "fast", "-w", "stop")
	}
}
