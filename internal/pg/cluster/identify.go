package cluster

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// The major versions that are supported.
const (
	OldestVersion = 13
	NewestVersion = 18
)

// Tablespace is one that lies outside of the data directory (or, In place, beneath its pg_tblspc).
type Tablespace struct {
	OID      uint32
	Name     string // empty where only the protocol told us
	Location string // absolute; relative to the data directory for one in place
	Size     int64  // bytes, estimated by the server; zero where nobody asked
}

// Info is what a running server says of itself.
type Info struct {
	VersionNum     int    // 150018
	SystemID       uint64 // the cluster's identity, which its copies share
	InRecovery     bool   // a standby, or a recovery
	Timeline       wal.TimelineID
	LSN            wal.LSN // end of the log; on a standby of what it has replayed
	DataDir        string  // empty where the role may not see it
	CatalogVersion uint32
	BlockSize      uint32
	SegmentBlocks  uint32 // pages of a relation's segment file
	WALSegmentSize wal.SegmentSize
	Checksums      bool
	Tablespaces    []Tablespace // without pg_default and pg_global
	Settings       Settings
}

// Settings are those that decide whether and how a server can be protected.
type Settings struct {
	FullPageWrites     bool
	WALLogHints        bool
	WALLevel           string
	ArchiveMode        string // off, on, always
	MaxSlotWALKeepSize int64  // bytes; negative: without limit
	MaxWALSenders      int
	MaxSlots           int // max_replication_slots
	SyncStandbyNames   string
	ClusterName        string
}

// Major returns the major version.
func (i Info) Major() int { return i.VersionNum / 10000 }

// Version returns the version as people say it: "15.18".
func (i Info) Version() string { return fmt.Sprintf("%d.%d", i.Major(), i.VersionNum%10000) }

// TablespaceDir returns the name of the folder that this server keeps in each tablespace: "PG_15_202209061".
func (i Info) TablespaceDir() string { return tablespaceDir(i.Major(), i.CatalogVersion) }

func tablespaceDir(major int, catalog uint32) string { return fmt.Sprintf("PG_%d_%d", major, catalog) }

// Identify asks a server what it is. It needs no privilege; what the role may not see stays empty.
func Identify(ctx context.Context, conn *pgx.Conn) (Info, error) {
	var i Info
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&i.VersionNum); err != nil {
		return i, fmt.Errorf("ask for the server's version: %w", err)
	}
	if i.Major() < OldestVersion || i.Major() > NewestVersion {
		return i, &dr.Failure{
			What:   fmt.Sprintf("this server is PostgreSQL %d", i.Major()),
			Reason: fmt.Sprintf("versions %d to %d are supported: the layout of others is not known", OldestVersion, NewestVersion),
			Next:   "use a release of Holdfast that knows this version",
		}
	}
	for _, step := range []func(context.Context, *pgx.Conn, *Info) error{identity, settings, tablespaces, privileged} {
		if err := step(ctx, conn, &i); err != nil {
			return i, fmt.Errorf("identify the server: %w", err)
		}
	}
	return i, nil
}

func identity(ctx context.Context, conn *pgx.Conn, i *Info) error {
	var system, lsn string
	var timeline int64
	// The control file's timeline is old for a moment after a promotion, so the name of the segment that is being
	// written counts on a primary; a standby refuses that function, and knows what it receives.
	err := conn.QueryRow(ctx, `
		SELECT s.system_identifier::text, s.catalog_version_no, i.database_block_size, i.blocks_per_segment,
		       i.bytes_per_wal_segment, i.data_page_checksum_version > 0, r.rec,
		       CASE WHEN r.rec THEN greatest(c.timeline_id, m.min_recovery_end_timeline,
		                 (SELECT received_tli FROM pg_stat_wal_receiver))
		            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int8 END,
		       CASE WHEN r.rec THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_insert_lsn() END::text
		FROM pg_control_system() s, pg_control_init() i, pg_control_checkpoint() c, pg_control_recovery() m,
		     (SELECT pg_is_in_recovery() AS rec) r`).
		Scan(&system, &i.CatalogVersion, &i.BlockSize, &i.SegmentBlocks, &i.WALSegmentSize, &i.Checksums,
			&i.InRecovery, &timeline, &lsn)
	if err != nil {
		return err
	}
	i.Timeline = wal.TimelineID(timeline)
	if i.SystemID, err = strconv.ParseUint(system, 10, 64); err != nil {
		return err
	}
	i.LSN, err = wal.ParseLSN(lsn)
	return err
}

func settings(ctx context.Context, conn *pgx.Conn, i *Info) error {
	s := &i.Settings
	return conn.QueryRow(ctx, `
		SELECT current_setting('full_page_writes')::bool, current_setting('wal_log_hints')::bool, current_setting('wal_level'), current_setting('archive_mode'),
		       (SELECT CASE WHEN setting::int8 < 0 THEN -1 ELSE setting::int8 * 1024 * 1024 END
		          FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
		       current_setting('max_wal_senders')::int, current_setting('max_replication_slots')::int,
		       current_setting('synchronous_standby_names'), current_setting('cluster_name')`).
		Scan(&s.FullPageWrites, &s.WALLogHints, &s.WALLevel, &s.ArchiveMode, &s.MaxSlotWALKeepSize, &s.MaxWALSenders, &s.MaxSlots,
			&s.SyncStandbyNames, &s.ClusterName)
}

// dropping is how long DROP TABLESPACE may take from the removal of the link in pg_tblspc to its commit.
const dropping = 10 * time.Second

// tablespaces lists the tablespaces. Their locations are read from links in the data directory, which DROP TABLESPACE
// removes before its row is gone: the list is read again then.
func tablespaces(ctx context.Context, conn *pgx.Conn, i *Info) error {
	give := time.Now().Add(dropping)
	for {
		rows, err := conn.Query(ctx, `SELECT oid, spcname, pg_tablespace_location(oid) FROM pg_tablespace
			WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid`)
		if err != nil {
			return err
		}
		i.Tablespaces, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (t Tablespace, err error) {
			err = r.Scan(&t.OID, &t.Name, &t.Location)
			return t, err
		})
		var missing *pgconn.PgError
		if !errors.As(err, &missing) || missing.Code != "58P01" { // undefined_file
			return err
		}
		if time.Now().After(give) {
			return dr.Advise(fmt.Errorf("a tablespace has lost its link: %w", err), "look in pg_tblspc of the data directory; drop the tablespace, or restore the link")
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// privileged asks for what not every role may see.
func privileged(ctx context.Context, conn *pgx.Conn, i *Info) error {
	err := conn.QueryRow(ctx, "SELECT current_setting('data_directory')").Scan(&i.DataDir)
	if err := allowDenied(err); err != nil {
		return err
	}
	return ctx.Err()
}

// DatabaseBytes estimates how many bytes all databases have, 0 where the role may not see it. The server looks at every
// file.
func DatabaseBytes(ctx context.Context, conn *pgx.Conn) int64 {
	var n int64
	// A database that is dropped at this moment makes the sum fail too.
	if err := conn.QueryRow(ctx, "SELECT sum(pg_database_size(oid))::int8 FROM pg_database").Scan(&n); err != nil {
		return 0
	}
	return n
}

// allowDenied forgets an error that says that the role lacks a privilege.
func allowDenied(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" {
		return nil
	}
	return err
}
