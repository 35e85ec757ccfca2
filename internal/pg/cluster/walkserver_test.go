package cluster_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// Both walks find the same, but for what SQL does not tell.
func TestWalkServer(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			conf := map[string]string{"autovacuum": "off"}
			if v >= "15" {
				conf["allow_in_place_tablespaces"] = "on"
			}
			s := pgtest.Start(t, pgtest.Options{Version: v, Conf: conf, InitArgs: []string{"--allow-group-access"}})
			s.Tablespace("ts")
			s.Exec("", "CREATE TABLE far TABLESPACE ts AS SELECT 1 AS i", "CREATE UNLOGGED TABLE u AS SELECT 1 AS i", "CREATE DATABASE d")
			if s.Version >= 15 {
				s.Exec("", "CREATE TABLESPACE inplace LOCATION ''", "CREATE TABLE near TABLESPACE inplace AS SELECT 1 AS i")
			}
			for _, dir := range []string{"kept/below", "new"} {
				if err := os.MkdirAll(filepath.Join(s.DataDir, dir), 0o750); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range []string{"kept/below/file", "kept/other", "new/file", "file"} {
				if err := os.WriteFile(filepath.Join(s.DataDir, file), []byte(file), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			pgtest.Chown(t, s.DataDir)
			s.Exec("", "CHECKPOINT")
			conn := s.Connect("")
			i, err := cluster.Identify(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			for name, relations := range map[string]func(tablespace, database uint32) bool{
				"all": nil, "none": func(uint32, uint32) bool { return false },
				"one": func(_, database uint32) bool { return database == 1 },
			} {
				o := cluster.WalkOptions{Relations: relations}
				want, got := map[string]cluster.Entry{}, map[string]cluster.Entry{}
				var skipped []string
				collect := func(into map[string]cluster.Entry) func(cluster.Entry) error {
					return func(e cluster.Entry) error {
						if e.Type == cluster.TablespaceLink || filepath.Base(e.Path) == "postgresql.auto.conf" {
							e.Mode = 0
						}
						// SQL tells whole seconds, no modes of single files, and not where a link leads.
						e.ModTime, e.Source, e.Target = e.ModTime.UTC().Truncate(1e9), "", ""
						if e.Type != cluster.File {
							e.Mode, e.Size = 0, 0
						}
						into[e.Path] = e
						return nil
					}
				}
				if err := cluster.Walk(t.Context(), s.DataDir, o, collect(want)); err != nil {
					t.Fatal(err)
				}
				o.Skipped = func(path, _ string) { skipped = append(skipped, path) }
				known := func(path string) bool { return path == "kept" || path == "kept/below" }
				if err := cluster.WalkServer(t.Context(), conn, i, o, known, collect(got)); err != nil {
					t.Fatal(err)
				}
				delete(want, "new")
				delete(want, "new/file")
				for path := range want {
					if e := want[path]; e.Mode == 0o600 && e.Type == cluster.File {
						e.Mode = 0o640
						want[path] = e
					}
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("relations of %s (-Walk +WalkServer): %s", name, d)
				}
				if d := cmp.Diff([]string{"new"}, skipped); d != "" {
					t.Errorf("skipped: %s", d)
				}
			}
		})
	}
}
