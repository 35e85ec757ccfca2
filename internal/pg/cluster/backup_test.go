package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// identify connects and identifies.
func identify(t *testing.T, s *pgtest.Server) (cluster.Info, func(ctx context.Context) *cluster.Backup) {
	t.Helper()
	conn, err := cluster.Connect(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	info, err := cluster.Identify(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return info, func(ctx context.Context) *cluster.Backup {
		t.Helper()
		b, err := cluster.BeginBackup(ctx, conn, info, "test's label", cluster.FastCheckpoint)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// populated starts a server with everything in it that a backup treats in its own way.
func populated(t *testing.T, version string) (s *pgtest.Server, tablespace string) {
	t.Helper()
	s = pgtest.Start(t, pgtest.Options{Version: version, Checksums: true, Conf: map[string]string{"wal_keep_size": "1GB"}})
	tablespace = s.Tablespace("fast disk")
	s.Exec("",
		"CREATE TABLE big AS SELECT i, md5(i::text) AS m FROM generate_series(1, 20000) i",
		"CREATE INDEX ON big (m)",
		"CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000) AS i",
		`CREATE TABLE far TABLESPACE "fast disk" AS SELECT generate_series(1, 1000) AS i`,
		"VACUUM big",
		"CREATE DATABASE other")
	s.Exec("other", `CREATE UNLOGGED TABLE u (i serial PRIMARY KEY) TABLESPACE "fast disk"`, "CREATE TABLE l (i int)")
	return s, tablespace
}

// walk collects what Walk gives, and checks its order.
func walk(t *testing.T, dataDir string) map[string]cluster.Entry {
	t.Helper()
	entries, last := map[string]cluster.Entry{}, ""
	err := cluster.Walk(t.Context(), dataDir, cluster.WalkOptions{}, func(e cluster.Entry) error {
		if e.Path <= last {
			t.Errorf("%q comes after %q", e.Path, last)
		}
		last = e.Path
		entries[e.Path] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestBackupBesideAndFromAfar(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s, tablespace := populated(t, v)
			temp := s.Connect("")
			if _, err := temp.Exec(t.Context(), "CREATE TEMP TABLE tt AS SELECT generate_series(1, 1000) AS i"); err != nil {
				t.Fatal(err)
			}
			local, localResult := besideServer(t, s)
			remote, remoteResult := fromAfar(t, s)

			if localResult.Start == 0 || localResult.Stop <= localResult.Start || localResult.Timeline != 1 ||
				localResult.Label.Label != "test's label" || localResult.FromStandby {
				t.Errorf("local result: %+v", localResult)
			}
			if remoteResult.Start <= localResult.Start || remoteResult.Stop <= remoteResult.Start || remoteResult.Label.Label != "it's far" {
				t.Errorf("remote result: %+v", remoteResult)
			}
			for _, r := range []cluster.Result{localResult, remoteResult} {
				if len(r.Tablespaces) != 1 || r.Tablespaces[0].Location != tablespace {
					t.Errorf("tablespaces: %+v", r.Tablespaces)
				}
			}
			// The links of tablespaces are in the tablespace_map of a remote backup; the rest is equal.
			for p, e := range local {
				if e.Type == cluster.TablespaceLink {
					delete(local, p)
				}
			}
			if diff := cmp.Diff(content(local), content(remote)); diff != "" {
				t.Errorf("local (-) and remote (+) backups differ:\n%s", diff)
			}
			againstCatalog(t, s, local)
		})
	}
}

// kept is what the test keeps of an entry.
type kept struct{ cluster.Entry }

func content(m map[string]kept) map[string]string {
	out := map[string]string{}
	for p, e := range m {
		out[p] = fmt.Sprintf("%d %v %v %+v", e.Type, e.Mode, e.IsRelation, e.Relation)
		// Hint bits and statistics may change between the two; user data does not.
		if e.IsRelation && e.Relation.Number >= 16384 && e.Relation.Fork == cluster.Main {
			out[p] += fmt.Sprint(" ", e.Size)
		}
	}
	return out
}

func besideServer(t *testing.T, s *pgtest.Server) (map[string]kept, cluster.Result) {
	t.Helper()
	info, begin := identify(t, s)
	b := begin(t.Context())
	if b.Start == 0 || b.Timeline != info.Timeline {
		t.Errorf("the backup begins at %s on timeline %d", b.Start, b.Timeline)
	}
	out := map[string]kept{}
	for p, e := range walk(t, s.DataDir) {
		out[p] = kept{Entry: e}
	}
	c, raw, err := control.Read(t.Context(), s.DataDir)
	if err != nil || c.SystemID != info.SystemID {
		t.Fatalf("pg_control: %v, %v", c, err)
	}
	out[cluster.ControlFile] = kept{Entry: cluster.Entry{Type: cluster.File, Mode: 0o600, Size: int64(len(raw))}}
	r, err := b.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out, r
}

func fromAfar(t *testing.T, s *pgtest.Server) (map[string]kept, cluster.Result) {
	t.Helper()
	conn, err := cluster.ConnectReplication(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	out, last, started := map[string]kept{}, "", false
	o := cluster.RemoteOptions{Label: "it's far", Mode: cluster.FastCheckpoint, Progress: true}
	o.Started = func(start wal.LSN, _ wal.TimelineID, ts []cluster.Tablespace) error {
		started = start != 0 && len(ts) == 2
		return nil
	}
	r, err := cluster.RemoteBackup(t.Context(), conn, o, func(e cluster.Entry, r io.Reader) error {
		if _, twice := out[e.Path]; twice {
			t.Errorf("%s came twice", e.Path)
		}
		// Every other file is left unread, which must not disturb the next.
		if len(out)%2 == 0 {
			b, err := io.ReadAll(r)
			if err != nil || e.Type == cluster.File && int64(len(b)) != e.Size {
				t.Errorf("%s: %d bytes of %d, %v", e.Path, len(b), e.Size, err)
			}
			sameAsOnDisk(t, s, e, b)
		}
		out[e.Path], last = kept{Entry: e}, e.Path
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if last != cluster.ControlFile || !started {
		t.Errorf("the last entry is %s, Started was called: %v", last, started)
	}
	// The connection can be used for another command.
	if _, err := conn.Exec(t.Context(), "IDENTIFY_SYSTEM").ReadAll(); err != nil {
		t.Errorf("after the backup: %v", err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	return out, r
}

func sameAsOnDisk(t *testing.T, s *pgtest.Server, e cluster.Entry, got []byte) {
	t.Helper()
	if !e.IsRelation || e.Relation.Number < 16384 {
		return // the server writes these meanwhile
	}
	want, err := os.ReadFile(filepath.Join(s.DataDir, e.Path))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s differs from the file (%v)", e.Path, err)
	}
}

// againstCatalog asks the server for the path of every relation, and compares.
func againstCatalog(t *testing.T, s *pgtest.Server, entries map[string]kept) {
	t.Helper()
	for _, db := range []string{"postgres", "other"} {
		rows := s.Query(db, `SELECT pg_relation_filepath(c.oid), pg_relation_filenode(c.oid), c.relpersistence,
				coalesce(nullif(c.reltablespace, 0), d.dattablespace), CASE WHEN c.reltablespace = 1664 THEN 0 ELSE d.oid END
			FROM pg_class c, pg_database d
			WHERE d.datname = current_database() AND pg_relation_filenode(c.oid) IS NOT NULL`)
		for _, row := range strings.Split(rows, "\n") {
			col := strings.Split(row, "|")
			path, persistence := col[0], col[2]
			e, ok := entries[path]
			switch persistence {
			case "t":
				if ok {
					t.Errorf("%s is of a temporary relation", path)
				}
				continue
			case "u":
				if ok {
					t.Errorf("%s is the main fork of an unlogged relation", path)
				}
				e, ok = entries[path+"_init"]
			}
			want := fmt.Sprintf("%s/%s/%s/0", col[3], col[4], col[1])
			got := fmt.Sprintf("%d/%d/%d/%d", e.Relation.Tablespace, e.Relation.Database, e.Relation.Number, e.Relation.Segment)
			if !ok || !e.IsRelation || got != want || (persistence == "u") != (e.Relation.Fork == cluster.Init) {
				t.Errorf("%s (%s): in the backup: %v, classified as %s, want %s", path, persistence, ok, got, want)
			}
		}
	}
}

func TestBackupOfAStandby(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			primary := pgtest.Start(t, pgtest.Options{Version: v})
			standby := primary.Standby(pgtest.Options{})
			info, begin := identify(t, standby)
			if !info.InRecovery || info.Timeline != 1 {
				t.Errorf("the standby says %+v", info)
			}
			b := begin(t.Context())
			r, err := b.Stop(t.Context())
			if err != nil || !r.FromStandby || r.Label.From != "standby" {
				t.Errorf("backup of a standby: %+v, %v", r, err)
			}
			b = begin(t.Context())
			standby.Promote()
			if _, err := b.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "promoted") {
				t.Errorf("a promotion during the backup: %v", err)
			}
		})
	}
}

func TestCancelledBackupIsForgotten(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{})
	_, begin := identify(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	b := begin(ctx)
	cancel()
	s.Until(t, "", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast'", "0")
	if _, err := b.Stop(t.Context()); err == nil {
		t.Error("a cancelled backup was ended with success")
	}
	b.Abort()

	conn, err := cluster.ConnectReplication(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	_, err = cluster.RemoteBackup(ctx, conn, cluster.RemoteOptions{Label: "x", Mode: cluster.FastCheckpoint},
		func(cluster.Entry, io.Reader) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled remote backup gives %v", err)
	}
	s.Until(t, "", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast'", "0")
}

func TestErrorOfCallbackEndsRemoteBackup(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{})
	conn, err := cluster.ConnectReplication(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	mine := errors.New("disk full")
	_, err = cluster.RemoteBackup(t.Context(), conn, cluster.RemoteOptions{Label: "x", Mode: cluster.FastCheckpoint},
		func(cluster.Entry, io.Reader) error { return mine })
	if err != mine { //nolint:errorlint // "returned as it is"
		t.Errorf("got %v", err)
	}
	s.Until(t, "", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast'", "0")
}
