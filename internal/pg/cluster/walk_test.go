package cluster

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

func TestParsePath(t *testing.T) {
	for path, want := range map[string]Relation{
		"base/5/16384":            {DefaultTablespace, 5, 16384, Main, 0},
		"base/5/16384.12":         {DefaultTablespace, 5, 16384, Main, 12},
		"base/5/16384_fsm.1":      {DefaultTablespace, 5, 16384, FSM, 1},
		"base/5/16384_vm":         {DefaultTablespace, 5, 16384, VM, 0},
		"base/5/16384_init":       {DefaultTablespace, 5, 16384, Init, 0},
		"global/1262":             {GlobalTablespace, 0, 1262, Main, 0},
		"base/4294967295/1":       {DefaultTablespace, 4294967295, 1, Main, 0},
		"pg_tblspc/7/PG_15_2/5/9": {7, 5, 9, Main, 0},
	} {
		if got, ok := ParsePath(path); !ok || got != want {
			t.Errorf("%s: %+v, %v; want %+v", path, got, ok, want)
		}
	}
	for _, path := range []string{
		"", "16384", "base/5/PG_VERSION", "base/5/t3_16384", "base/5/016384", "base/5/16384.0", "base/5/16384.x", "base/5/16384_main",
		"base/5/16384_", "base/5/16384.", "base/5/4294967296", "base/05/1", "base/5/1/2", "global/pg_control", "pg_xact/0000", "pg_multixact/1/2",
		"pg_tblspc/7/5/9", "pg_tblspc/7/x/5/9", "base/5/1_fsm_vm", "base//1",
	} {
		if got, ok := ParsePath(path); ok {
			t.Errorf("%q was taken for %+v", path, got)
		}
	}
	if r := (Relation{Segment: 3}); r.FirstBlock(131072) != 393216 {
		t.Errorf("segment 3 begins at block %d", r.FirstBlock(131072))
	}
	for name, want := range map[string]bool{"t3_16384": true, "t12_16384_fsm.1": true, "t_1": false, "t3_x": false, "t3": false, "3_1": false, "tx_1": false} {
		if isTemporary(name) != want {
			t.Errorf("isTemporary(%q) = %v", name, !want)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"base/5/16384_fsm.1", "global/1262", "pg_tblspc/7/PG_15_2/5/9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := ParsePath(path)
		if !ok {
			return
		}
		dir, name := cutLast(path)
		want := fmt.Sprint(r.Number)
		if r.Fork != Main {
			want += "_" + r.Fork.String()
		}
		if r.Segment > 0 {
			want += fmt.Sprint(".", r.Segment)
		}
		if name != want || dir == "" {
			t.Fatalf("%q became %+v", path, r)
		}
	})
}

func TestNamesAreSortedWithinBounds(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 500 {
		name := fmt.Sprintf("%x", i*7919%4096)
		if i%10 == 0 {
			if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			want = append(want, name, name+"/")
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	slices.Sort(want)
	for _, limit := range []int{1, 2, 7, 549, 550, 551, 10000} {
		var got []string
		err := sortedNames(t.Context(), dir, limit, fs.DirEntry.IsDir, func(key string) error {
			got = append(got, key)
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("limit %d: %v\n%s", limit, err, cmp.Diff(want, got))
		}
	}
	if err := sortedNames(t.Context(), dir+"-gone", 9, fs.DirEntry.IsDir, nil); err != nil {
		t.Errorf("a folder that vanished: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sortedNames(ended, dir, 9, fs.DirEntry.IsDir, nil); err == nil {
		t.Error("a walk went on after its context ended")
	}
}

// What lies in a data directory besides PostgreSQL's own files.
func TestWalkOfOddDirectories(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{Version: "15", Conf: map[string]string{"allow_in_place_tablespaces": "on"}})
	s.Exec("", "CREATE TABLESPACE inplace LOCATION ''", "CREATE TABLE t TABLESPACE inplace AS SELECT 1")
	outside := s.Tablespace("outside")
	s.Exec("", "CREATE TABLE o TABLESPACE outside AS SELECT 1")
	inside := filepath.Join(s.DataDir, "tsdir")
	mustDo(t, os.Mkdir(inside, 0o700))
	pgtest.Chown(t, inside)
	s.Exec("", "CREATE TABLESPACE inside LOCATION '"+inside+"'", "CREATE TABLE i TABLESPACE inside AS SELECT 1")
	paths := strings.Split(s.Query("", "SELECT pg_relation_filepath(relname::regclass) FROM pg_class WHERE relname IN ('t', 'o', 'i')"), "\n")
	s.Stop(pgtest.Fast)

	mustDo(t, os.Mkdir(filepath.Join(outside, "PG_16_202307071"), 0o700))
	mustDo(t, os.WriteFile(filepath.Join(outside, "PG_16_202307071", "x"), nil, 0o600))
	mustDo(t, os.WriteFile(filepath.Join(outside, "lost+found"), nil, 0o600))
	mustDo(t, os.Rename(filepath.Join(s.DataDir, "pg_wal"), filepath.Join(s.Socket, "wal")))
	mustDo(t, os.Symlink(filepath.Join(s.Socket, "wal"), filepath.Join(s.DataDir, "pg_wal")))
	mustDo(t, os.Symlink("/etc/passwd", filepath.Join(s.DataDir, "link")))
	l, err := net.Listen("unix", filepath.Join(s.DataDir, "socket"))
	mustDo(t, err)
	defer l.Close() //nolint:errcheck // nobody spoke
	for _, name := range []string{"postmaster.pid", "backup_label.old", "base/pgsql_tmp5/x", "global/pg_internal.init.77", "base/1/t3_16384", "pg_replslot/x/state", "pg_stat_tmp/y"} {
		mustDo(t, os.MkdirAll(filepath.Dir(filepath.Join(s.DataDir, name)), 0o700))
		mustDo(t, os.WriteFile(filepath.Join(s.DataDir, name), nil, 0o600))
	}

	var got []string
	skipped := map[string]bool{}
	o := WalkOptions{Skipped: func(path, _ string) { skipped[path] = true }}
	w, err := newWalker(t.Context(), s.DataDir, o, func(e Entry) error {
		got = append(got, e.Path)
		if _, err := os.Lstat(e.Source); err != nil {
			t.Errorf("%s: %v", e.Path, err)
		}
		return nil
	})
	mustDo(t, err)
	w.limit = 5 // many passes over each folder
	mustDo(t, w.dir(t.Context(), "", w.root))
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Error("the paths are not sorted, or not unique")
	}
	for _, p := range append(paths, "pg_wal", "pg_wal/archive_status", "pg_replslot", "tsdir") {
		if !slices.Contains(got, p) {
			t.Errorf("%s is missing", p)
		}
	}
	for _, p := range got {
		base := filepath.Base(p)
		if strings.HasPrefix(p, "tsdir/") || strings.HasPrefix(base, "t3_") || isOmitted(base) || strings.HasPrefix(p, "pg_replslot/") ||
			strings.Contains(p, "PG_16") || base == "lost+found" || strings.HasPrefix(p, "pg_wal/0") || p == ControlFile || p == "link" {
			t.Errorf("%s is in the backup", p)
		}
	}
	if !skipped["link"] || !skipped["socket"] {
		t.Errorf("skipped: %v", skipped)
	}
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Databases that come and go during a walk never make it fail.
func TestWalkWhileDatabasesComeAndGo(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{})
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() {
		defer close(ended)
		for range 6 {
			s.Exec("", "CREATE DATABASE passing", "DROP DATABASE passing")
		}
	})
	walks := 0
	for done := false; !done; walks++ {
		select {
		case <-ended:
			done = true
		default:
		}
		if err := Walk(t.Context(), s.DataDir, WalkOptions{}, func(Entry) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	t.Logf("%d walks", walks)
}
