package pgtest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Standby makes a copy of a running server (its files, copied between the start and the end of a backup, so
// that it works without client programs too), and starts it as a streaming standby that follows it. The
// version is the primary's. The cluster must have no tablespaces outside of its data directory.
func (s *Server) Standby(o Options) *Server {
	s.t.Helper()
	if o.Version == "" {
		o.Version = fmt.Sprint(s.Version)
	}
	sb := newServer(s.t, o)
	sb.DataDir = filepath.Join(sb.Socket, "data")
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.ConnString(""))
	if err != nil {
		s.t.Fatal(err)
	}
	// The slot keeps the log until the standby follows. A busy primary on a busy machine writes more than wal_keep_size while
	// its files are copied; the standby would then wait for log that was removed, and never answer.
	defer conn.Close(ctx) //nolint:errcheck // the slot goes with it
	if _, err := conn.Exec(ctx, "SELECT pg_create_physical_replication_slot('pgtest_' || pg_backend_pid(), true, true)"); err != nil {
		s.t.Fatal(err)
	}
	s.copyTo(ctx, conn, sb.DataDir)
	Chown(s.t, sb.DataDir)
	sb.Follow(s)
	return sb
}

// Follow makes the stopped server (a copy of primary's cluster) a standby of it, and starts it.
func (s *Server) Follow(primary *Server) {
	s.t.Helper()
	auto := filepath.Join(s.DataDir, "postgresql.auto.conf")
	conninfo := strings.ReplaceAll(primary.ConnString(""), " dbname=postgres", "")
	line := fmt.Sprintf("primary_conninfo = '%s'\nrecovery_target_timeline = 'latest'\n", conninfo)
	if err := os.WriteFile(auto, []byte(line), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.DataDir, "standby.signal"), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	Chown(s.t, s.DataDir)
	s.Start()
}

// copyTo takes a plain backup of the server into dir, WAL included. Tests of other packages compare our own
// backups with what such a copy gives, so it shares no code with them.
func (s *Server) copyTo(ctx context.Context, conn *pgx.Conn, dir string) {
	s.t.Helper()
	begin, end := "SELECT pg_backup_start('copy', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if s.Version < 15 {
		begin, end = "SELECT pg_start_backup('copy', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	if _, err := conn.Exec(ctx, begin); err != nil {
		s.t.Fatal(err)
	}
	if err := copyTree(s.DataDir, dir, func(rel string) bool {
		return rel == "pg_wal" || rel == "postmaster.pid" || strings.HasPrefix(rel, "pg_replslot/")
	}); err != nil {
		s.t.Fatal(err)
	}
	var label string
	if err := conn.QueryRow(ctx, end).Scan(&label); err != nil {
		s.t.Fatal(err)
	}
	// The log last: it must reach the end of the backup.
	if err := copyTree(filepath.Join(s.DataDir, "pg_wal"), filepath.Join(dir, "pg_wal"), nil); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "backup_label"), []byte(label), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// copyTree copies a directory; files that vanish meanwhile are left out.
func copyTree(from, to string, skip func(rel string) bool) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		if skip != nil && skip(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		dst := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(dst, 0o700)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(p)
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(dst, b, 0o600)
	})
}
