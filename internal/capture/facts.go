package capture

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// keptSettings decide whether a server that replays this cluster's log, or accepts its sessions, starts at all.
var keptSettings = []string{
	"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions",
	"max_locks_per_transaction", "wal_level", "track_commit_timestamp", "shared_preload_libraries", "shared_buffers",
	"huge_pages", "lc_messages", "config_file", "hba_file", "ident_file", "port", "timezone",
}

func (s *snapshot) facts(ctx context.Context, result cluster.Result, stopTimeline wal.TimelineID) (json.RawMessage, error) {
	f := pg.Facts{
		Version: s.info.VersionNum, SystemID: s.info.SystemID,
		Timeline: result.Timeline, StopTimeline: stopTimeline, StartLSN: result.Start, StopLSN: result.Stop,
		SegmentSize: uint32(s.info.WALSegmentSize), PageSize: s.info.BlockSize, Checksums: s.info.Checksums,
		FromStandby: result.FromStandby, Remote: s.cfg.DataDir == "", BackupLabel: string(result.LabelFile),
		DataDir: s.info.DataDir, Settings: map[string]string{},
	}
	names := map[uint32]string{}
	for _, t := range s.info.Tablespaces {
		names[t.OID] = t.Name
	}
	for _, t := range result.Tablespaces {
		f.Tablespaces = append(f.Tablespaces, pg.Tablespace{OID: t.OID, Name: names[t.OID], Location: t.Location})
	}
	rows, err := s.conn.Query(ctx, "SELECT name, setting || COALESCE(unit, '') FROM pg_settings WHERE name = ANY($1) AND setting <> ''", keptSettings)
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	var name, value string
	if _, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error { f.Settings[name] = value; return nil }); err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	if f.Audit, err = s.audited(ctx); err != nil {
		return nil, err
	}
	s.report.Unseen = f.Audit.Unseen()
	if s.cfg.Figures != nil {
		f.Figures = s.cfg.Figures(ctx)
	}
	return json.Marshal(f)
}
