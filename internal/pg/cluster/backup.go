package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Result is what a finished backup needs besides its files to be recovered: the two files, which the server
// writes nowhere, and the log from Start to Stop.
type Result struct {
	Start         wal.LSN        // replay begins here
	Stop          wal.LSN        // replay must reach this before the data is consistent
	Timeline      wal.TimelineID // on which Start lies
	Label         wal.Label      // LabelFile, parsed
	LabelFile     []byte         // backup_label
	TablespaceMap []byte         // tablespace_map; empty: no such file
	Tablespaces   []Tablespace   // the map, parsed; a remote backup adds the sizes
	FromStandby   bool
}

// Backup is a backup that the server knows of. It owns the connection until Stop or Abort.
type Backup struct {
	Start    wal.LSN
	Timeline wal.TimelineID

	conn    *pgx.Conn
	version int
	standby bool
	release func() bool // ends the watch on the context
	done    bool        // stopped or aborted
}

// CheckpointMode says how the checkpoint at a backup's start is made.
type CheckpointMode bool

// The modes of a checkpoint.
const (
	SpreadCheckpoint CheckpointMode = false // within checkpoint_completion_target: minutes, but gentle
	FastCheckpoint   CheckpointMode = true  // as fast as the disks allow
)

// BeginBackup begins a backup (a non-exclusive one, the only kind since version 15) of a primary or a standby,
// and returns after the checkpoint. While ctx lives, the backup does: when it ends, the connection is closed,
// and the server forgets the backup. The caller then reads the files of Walk, last of all pg_control, and calls
// Stop; conn must not be used meanwhile.
func BeginBackup(ctx context.Context, conn *pgx.Conn, i Info, label string, mode CheckpointMode) (*Backup, error) {
	if err := i.Check(); err != nil {
		return nil, err
	}
	b := &Backup{conn: conn, version: i.Major(), standby: i.InRecovery, Timeline: i.Timeline}
	// Closing the socket is the one thing that may be done to a connection from beside.
	b.release = context.AfterFunc(ctx, func() { _ = conn.PgConn().Conn().Close() })
	query := "SELECT pg_backup_start($1, $2)::text"
	if b.version < 15 {
		query = "SELECT pg_start_backup($1, $2, false)::text"
	}
	var start string
	if err := conn.QueryRow(ctx, query, label, bool(mode)).Scan(&start); err != nil {
		b.Abort()
		return nil, fmt.Errorf("begin the backup: %w", plain(ctx, err))
	}
	var err error
	if b.Start, err = wal.ParseLSN(start); err != nil {
		b.Abort()
		return nil, err
	}
	return b, nil
}

// Stop ends the backup. It does not wait for an archive. From a standby it fails where that was promoted
// meanwhile; then, as after every error, the files that were read are worthless. The connection may be used
// again after success, and is closed after an error.
func (b *Backup) Stop(ctx context.Context) (Result, error) {
	query := "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)"
	if b.version < 15 {
		query = "SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
	}
	var stop, label, spcmap string
	if err := b.conn.QueryRow(ctx, query).Scan(&stop, &label, &spcmap); err != nil {
		b.Abort()
		return Result{}, fmt.Errorf("end the backup: %w", plain(ctx, err))
	}
	b.done = true
	b.release()
	r := Result{LabelFile: []byte(label), TablespaceMap: []byte(spcmap), FromStandby: b.standby}
	var err error
	if r.Stop, err = wal.ParseLSN(stop); err != nil {
		return Result{}, err
	}
	return r, r.parse()
}

// parse fills in what the two files say.
func (r *Result) parse() error {
	label, err := wal.ParseLabel(r.LabelFile)
	if err != nil {
		return err
	}
	ts, err := wal.ParseTablespaceMap(r.TablespaceMap)
	if err != nil {
		return err
	}
	r.Label, r.Start, r.Timeline = label, label.StartLSN, label.Timeline
	if r.Tablespaces == nil {
		for _, t := range ts {
			r.Tablespaces = append(r.Tablespaces, Tablespace{OID: t.OID, Location: t.Location})
		}
	}
	if r.Stop < r.Start {
		return fmt.Errorf("the server says that the backup from %s ended at %s", r.Start, r.Stop)
	}
	return nil
}

// Abort ends the backup without a result, by closing the connection: the server then forgets it. After Stop it
// does nothing, so that it may be deferred.
func (b *Backup) Abort() {
	if b.done {
		return
	}
	b.done = true
	b.release()
	_ = b.conn.PgConn().Conn().Close() // nothing was written that an error could be about
}

// plain prefers the context's cause to the noise of a connection that was closed because of it, and prints a
// server's error without its codes.
func plain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return &ServerError{pgErr}
	}
	return err
}
