package cluster_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

func TestIdentify(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s := pgtest.Start(t, pgtest.Options{
				Version: v, Checksums: true, InitArgs: []string{"--wal-segsize=4"},
				Conf: map[string]string{"max_slot_wal_keep_size": "40GB", "cluster_name": "orders"},
			})
			dir := s.Tablespace("ts")
			i, _ := identify(t, s)
			c, _, err := control.Read(t.Context(), s.DataDir)
			if err != nil {
				t.Fatal(err)
			}
			if i.SystemID != c.SystemID || i.Timeline != 1 || i.CatalogVersion != c.CatalogVersion || strconv.Itoa(i.Major()) != v ||
				i.WALSegmentSize != 4<<20 || i.BlockSize != 8192 || i.SegmentBlocks != 131072 || !i.Checksums || i.InRecovery ||
				i.DataDir != s.DataDir || i.LSN < c.Checkpoint || cluster.DatabaseBytes(t.Context(), s.Connect("")) == 0 {
				t.Errorf("Identify: %+v", i)
			}
			if i.Settings.MaxSlotWALKeepSize != 40<<30 || !i.Settings.FullPageWrites || i.Settings.WALLevel != "replica" ||
				i.Settings.ArchiveMode != "off" || i.Settings.ClusterName != "orders" || i.Settings.MaxSlots != 12 {
				t.Errorf("settings: %+v", i.Settings)
			}
			if len(i.Tablespaces) != 1 || i.Tablespaces[0].Location != dir || i.Tablespaces[0].Name != "ts" {
				t.Errorf("tablespaces: %+v", i.Tablespaces)
			}
			if err := errors.Join(i.Check(), i.CheckLocal(s.DataDir, c.SystemID)); err != nil {
				t.Error(err)
			}
			if err := i.CheckLocal("/elsewhere", 7); err == nil || dr.Advice(err) == "" {
				t.Errorf("another cluster's data directory: %v", err)
			}
		})
	}
}

// TestIdentifyBesideDrop asks while tablespaces come and go: their links are removed before their rows.
func TestIdentifyBesideDrop(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{})
	dir := s.Tablespace("first") // made once, so that the directory is there
	s.Exec("", "DROP TABLESPACE first")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				s.Exec("", "CREATE TABLESPACE comes LOCATION '"+dir+"'", "DROP TABLESPACE comes")
			}
		}
	}()
	conn, err := cluster.Connect(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	for range 150 {
		if _, err := cluster.Identify(t.Context(), conn); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	<-stopped
}

func TestServersThatCannotBeProtected(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{Conf: map[string]string{"full_page_writes": "off"}})
	conn, err := cluster.Connect(t.Context(), s.ConnString(""))
	if err != nil {
		t.Fatal(err)
	}
	i, err := cluster.Identify(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.BeginBackup(t.Context(), conn, i, "x", cluster.FastCheckpoint); err == nil || !strings.Contains(err.Error(), "full_page_writes") {
		t.Errorf("full_page_writes = off: %v", err)
	}
	i.Settings.FullPageWrites, i.Settings.WALLevel = true, "minimal"
	if err := i.Check(); err == nil || !strings.Contains(err.Error(), "minimal") {
		t.Errorf("wal_level = minimal: %v", err)
	}
}

// The statements that the error advises, run as they stand, mend what it says.
func TestPrivilegesAreNamedAndMended(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			s := pgtest.Start(t, pgtest.Options{Version: v})
			s.Exec("", `CREATE ROLE "Weak one" LOGIN`)
			as := strings.Replace(s.ConnString(""), "user=postgres", "user='Weak one'", 1)
			conn, err := cluster.Connect(t.Context(), as)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close(context.Background()) })
			i, err := cluster.Identify(t.Context(), conn)
			if err != nil || i.DataDir != "" {
				t.Fatalf("Identify without privileges: %+v, %v", i, err)
			}
			if _, err := cluster.ConnectReplication(t.Context(), as); err == nil || dr.Advice(err) == "" || strings.Contains(err.Error(), "SQLSTATE") {
				t.Errorf("replication without privilege: %v", err)
			}
			const all = cluster.ForBackup | cluster.ForReplication | cluster.ForDataDir | cluster.ForFiles
			err = cluster.CheckPrivileges(t.Context(), conn, i, all)
			if err == nil {
				t.Fatal("a role without any privilege may do all")
			}
			_, statements, _ := strings.Cut(dr.Advice(err), ": ")
			for _, q := range strings.SplitAfter(statements, ";") {
				if q = strings.TrimSpace(q); q != "" {
					s.Exec("", q)
				}
			}
			if err := cluster.CheckPrivileges(t.Context(), conn, i, all); err != nil {
				t.Errorf("after the advice: %v", err)
			}
			if i, err = cluster.Identify(t.Context(), conn); err != nil || i.DataDir != s.DataDir {
				t.Errorf("Identify with privileges: %+v, %v", i, err)
			}
			b, err := cluster.BeginBackup(t.Context(), conn, i, "weak", cluster.FastCheckpoint)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			b.Abort() // does nothing now
			if err := conn.Ping(t.Context()); err != nil {
				t.Errorf("after the backup the connection is broken: %v", err)
			}
		})
	}
}

func TestConnectErrorsAreForPeople(t *testing.T) {
	s := pgtest.Start(t, pgtest.Options{})
	for _, bad := range []string{
		"host=/nonexistent user=x dbname=x", "port=abc",
		strings.Replace(s.ConnString(""), "user=postgres", "user=nobody_here password=hunter2", 1),
		s.ConnString("no_such_database"),
	} {
		_, err := cluster.Connect(t.Context(), bad)
		if err == nil || dr.Advice(err) == "" || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v (next: %s)", bad, err, dr.Advice(err))
		}
	}
}
