package capture_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func newRepository(t testing.TB) *repo.Repository {
	t.Helper()
	r := repotest.Init(t, storetest.NewMemory(), repo.Options{Codecs: []repo.Codec{page.NewCodec()}})
	return r
}

// fill makes a database with what a base backup treats differently, and returns the file of its table "t".
func fill(t *testing.T, s *pgtest.Server) (table string) {
	t.Helper()
	space := pgtest.TempDir(t)
	s.Exec("",
		"CREATE TABLE t AS SELECT i, repeat('holdfast ', 20) AS s, random() AS r FROM generate_series(1, 60000) AS i",
		"CREATE INDEX ON t (i)", "CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 1000) AS i",
		"CREATE TABLESPACE far LOCATION '"+space+"'", "CREATE TABLE far TABLESPACE far AS SELECT generate_series(1, 30000) AS i",
		"VACUUM t", "CHECKPOINT")
	if err := s.Connect("").QueryRow(t.Context(), "SELECT pg_relation_filepath('t')").Scan(&table); err != nil {
		t.Fatal(err)
	}
	return table
}

func snapshotConfig(s *pgtest.Server, local bool) capture.SnapshotConfig {
	cfg := capture.SnapshotConfig{System: "orders-db", Connection: s.ConnString(""), Checkpoint: cluster.FastCheckpoint, Codec: page.NewCodec()}
	if local {
		cfg.DataDir = s.DataDir
	}
	return cfg
}

// tree reads a whole snapshot into memory.
func tree(t *testing.T, r *repo.Repository, m *repo.Manifest) map[string][]byte {
	t.Helper()
	return contents{}.tree(t, r, m)
}

// contents are of files that were read, by the IDs of what they were read from: files that have the same are equal.
type contents map[string][]byte

// tree is tree, but reads nothing again that the snapshot before had, too. Nobody may write to what it returns.
func (c contents) tree(t *testing.T, r *repo.Repository, m *repo.Manifest) map[string][]byte {
	t.Helper()
	root, err := m.RootID()
	if err != nil {
		t.Fatal(err)
	}
	out, has := map[string][]byte{}, contents{}
	walk, data := r.Reader(), r.Reader()
	err = walk.Walk(t.Context(), root, "", func(path string, e *repo.Entry) error {
		if e.Type != repo.TypeFile {
			out[path+"/"] = nil
			return nil
		}
		ids := fmt.Sprintf("%d %x %x", e.Size, e.Chunks, e.Lists)
		if content, ok := c[ids]; ok {
			has[ids], out[path] = content, content
			return nil
		}
		content := make([]byte, 0, e.Size)
		for n := range repo.ListCount(e.Size) {
			p, err := data.FilePart(t.Context(), e, n)
			if err != nil {
				return err
			}
			for i := range p.Len() {
				if err := data.Part(t.Context(), p, []int{i}, func(_ int, b []byte) error { content = append(content, b...); return nil }, nil); err != nil {
					return err
				}
			}
		}
		has[ids], out[path] = content, content
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	clear(c)
	maps.Copy(c, has)
	return out
}

func TestSnapshotHoldsTheCluster(t *testing.T) {
	t.Parallel()
	for _, version := range pgtest.Versions(t) {
		for _, local := range []bool{true, false} {
			name := version + "-remote"
			if local {
				name = version + "-local"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				testSnapshot(t, version, local)
			})
		}
	}
}

func testSnapshot(t *testing.T, version string, local bool) {
	s := pgtest.Start(t, pgtest.Options{Version: version, Checksums: true, Conf: map[string]string{"autovacuum": "off"}})
	table := fill(t, s)
	r := newRepository(t)
	report, err := capture.Snapshot(t.Context(), r, snapshotConfig(s, local))
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) > 0 || report.Pages == 0 {
		t.Errorf("of %d pages, these have problems: %v", report.Pages, report.Problems)
	}
	facts, err := pg.ParseFacts(report.Snapshot.Engine, report.Snapshot.Facts)
	if err != nil {
		t.Fatal(err)
	}
	if len(facts.Tablespaces) != 1 || facts.Tablespaces[0].Name != "far" || !facts.Checksums || !strings.Contains(facts.BackupLabel, "CHECKPOINT LOCATION") {
		t.Errorf("facts = %+v", facts)
	}
	got := tree(t, r, report.Snapshot)
	for _, path := range []string{"pg_wal/", "pg_replslot/", "global/pg_control", "PG_VERSION", "base/1/PG_VERSION", "pg_tblspc/"} {
		if _, ok := got[path]; !ok {
			t.Errorf("the snapshot lacks %s", path)
		}
	}
	far := 0
	for path, content := range got {
		if strings.HasPrefix(path, "pg_tblspc/") && len(content) > 0 {
			far++
		}
		if !strings.HasPrefix(path, "base/") || strings.HasSuffix(path, "/") {
			continue
		}
		want, err := os.ReadFile(filepath.Join(s.DataDir, path))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content, want) {
			t.Errorf("%s has %d bytes that differ from the %d of the server", path, len(content), len(want))
		}
	}
	if far == 0 {
		t.Error("nothing of the tablespace is in the snapshot")
	}
	if len(got[table]) < 60000*100 {
		t.Errorf("the table has %d bytes", len(got[table]))
	}
	var unlogged string
	if err := s.Connect("").QueryRow(t.Context(), "SELECT pg_relation_filepath('u')").Scan(&unlogged); err != nil {
		t.Fatal(err)
	}
	if _, ok := got[unlogged]; ok {
		t.Error("the unlogged table's data are in the snapshot")
	}
	if _, ok := got[unlogged+"_init"]; !ok {
		t.Error("the unlogged table's init fork is not in the snapshot")
	}
}

func TestSnapshotNamesADamagedPage(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{true, false} {
		s := pgtest.Start(t, pgtest.Options{Version: "15", Checksums: true})
		table := fill(t, s)
		s.Stop(pgtest.Fast)
		f, err := os.OpenFile(filepath.Join(s.DataDir, table), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("damage"), 17*page.Size+4000); err != nil {
			t.Fatal(err)
		}
		f.Close()
		s.Restart()
		report, err := capture.Snapshot(t.Context(), newRepository(t), snapshotConfig(s, local))
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Problems) != 1 || report.Problems[0].Path != table || report.Problems[0].Block != 17 {
			t.Errorf("local %v: problems = %v, want block 17 of %s", local, report.Problems, table)
		}
		if len(report.Snapshot.Problems) != 1 {
			t.Errorf("local %v: the manifest tells of %v", local, report.Snapshot.Problems)
		}
	}
}

func TestSnapshotCancelled(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{Version: "15"})
	fill(t, s)
	r := newRepository(t)
	ctx, cancel := context.WithCancel(t.Context())
	cfg := snapshotConfig(s, true)
	cfg.Checkpoint = cluster.FastCheckpoint
	cfg.WaitLog = nil
	cancel()
	if _, err := capture.Snapshot(ctx, r, cfg); err == nil {
		t.Fatal("a cancelled snapshot succeeded")
	}
	list, err := r.Snapshots(t.Context(), "orders-db")
	if err != nil || len(list) != 0 {
		t.Fatalf("Snapshots = %v, %v after a cancelled one", list, err)
	}
	if _, err := capture.Snapshot(t.Context(), r, snapshotConfig(s, true)); err != nil {
		t.Fatalf("the next snapshot: %v", err)
	}
}
