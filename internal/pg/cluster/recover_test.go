package cluster_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Both kinds of backup, taken while the server works, start a server that has everything.
func TestBackupsRecover(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s, _ := populated(t, v)
			s.Exec("", "CREATE TABLE counter AS SELECT 0 AS n")
			ctx, stop := context.WithCancel(t.Context())
			conn := s.Connect("")
			var writer sync.WaitGroup
			writer.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					_, err := conn.Exec(context.Background(), fmt.Sprintf(`UPDATE counter SET n = n + 1;
						UPDATE big SET m = md5(m) WHERE i %% 100 = %d; CREATE TABLE passing AS SELECT 1; DROP TABLE passing`, i%100))
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
			local, remote := t.TempDir(), t.TempDir()
			rl := besideInto(t, s, local)
			rr := afarInto(t, s, remote)
			stop()
			writer.Wait()
			want := s.Query("", "SELECT n, (SELECT md5(string_agg(m, '' ORDER BY i)) FROM big), (SELECT count(*) FROM far) FROM counter")
			s.Exec("", "CHECKPOINT") // so that the files in pg_wal are all written
			s.Stop(pgtest.Fast)
			for dir, r := range map[string]cluster.Result{local: rl, remote: rr} {
				if got := recovered(t, s, dir, r); got != want {
					t.Errorf("recovered: %s, want %s", got, want)
				}
			}
		})
	}
}

func besideInto(t *testing.T, s *pgtest.Server, dir string) cluster.Result {
	t.Helper()
	_, begin := identify(t, s)
	b := begin(t.Context())
	defer b.Abort()
	err := cluster.Walk(t.Context(), s.DataDir, cluster.WalkOptions{}, func(e cluster.Entry) error {
		f, err := os.Open(e.Source)
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read
		return put(dir, e, f)
	})
	if err != nil {
		t.Fatal(err)
	}
	_, raw, err := control.Read(t.Context(), s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, control.Path), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := b.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func afarInto(t *testing.T, s *pgtest.Server, dir string) cluster.Result {
	t.Helper()
	conn, err := cluster.ConnectReplication(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // all is done
	r, err := cluster.RemoteBackup(t.Context(), conn, cluster.RemoteOptions{Label: "afar", Mode: cluster.FastCheckpoint},
		func(e cluster.Entry, r io.Reader) error { return put(dir, e, r) })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func put(dir string, e cluster.Entry, r io.Reader) error {
	path := filepath.Join(dir, e.Path)
	if e.Type != cluster.File {
		return os.MkdirAll(path, 0o700)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// recovered starts a server on a backup and returns what it holds. The tablespace was put where its link was;
// it moves beside, as a restore does it.
func recovered(t *testing.T, s *pgtest.Server, dir string, r cluster.Result) string {
	t.Helper()
	place := pgtest.TempDir(t)
	data := filepath.Join(place, "data")
	if err := os.Rename(dir, data); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o700); err != nil { //nolint:gosec // a directory
		t.Fatal(err)
	}
	var moved []wal.Tablespace
	for _, ts := range r.Tablespaces {
		to := filepath.Join(place, fmt.Sprint("ts", ts.OID))
		if err := os.Rename(filepath.Join(data, "pg_tblspc", fmt.Sprint(ts.OID)), to); err != nil {
			t.Fatal(err)
		}
		moved = append(moved, wal.Tablespace{OID: ts.OID, Location: to})
	}
	segments, err := filepath.Glob(filepath.Join(s.DataDir, "pg_wal", "0*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, seg := range segments {
		b, err := os.ReadFile(seg)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, "pg_wal", filepath.Base(seg)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string][]byte{"backup_label": r.LabelFile, "tablespace_map": wal.FormatTablespaceMap(moved)} {
		if err := os.WriteFile(filepath.Join(data, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Chown(t, place)
	n := pgtest.Open(t, data, pgtest.Options{})
	n.Start()
	if !strings.Contains(n.Log(), "consistent recovery state reached") {
		t.Error("the server did not recover from the backup's start")
	}
	if got := n.Query("", "SELECT count(*) FROM unlogged"); got != "0" {
		t.Errorf("the unlogged table has %s rows", got)
	}
	if got := n.Query("", "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast disk'"); got != moved[0].Location {
		t.Errorf("the tablespace is at %s", got)
	}
	out := n.Query("", "SELECT n, (SELECT md5(string_agg(m, '' ORDER BY i)) FROM big), (SELECT count(*) FROM far) FROM counter")
	n.Stop(pgtest.Fast)
	return out
}
