package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// anchor is where recovery from a snapshot begins, and how the snapshot ends.
type anchor struct {
	start    wal.LSN        // redo of a checkpoint that is complete: everything before it is in the files
	timeline wal.TimelineID // on which start lies
	finish   func(context.Context) (cluster.Result, error)
	abort    func() // does nothing after finish
}

// begin finds or makes the checkpoint from which recovery will begin.
func (s *snapshot) begin(ctx context.Context, b *base) (*anchor, error) {
	c, content, err := s.files.control(ctx)
	if err != nil {
		return nil, err
	}
	// Where there was none since the snapshot before, nothing would become shorter for a recovery.
	old := c.Redo <= b.facts.StartLSN && s.info.LSN > c.Redo+logBlockSize
	if !old && !s.cfg.ForceCheckpoint && !b.newTablespaces(s.info.Tablespaces) {
		return s.lastCheckpoint(c, content)
	}
	// What is not known now will not be known then: spare the server a checkpoint in vain.
	if _, err := s.changedSince(ctx, b, &anchor{start: c.Redo, timeline: c.Timeline}); err != nil {
		return nil, err
	}
	return s.orderCheckpoint(ctx)
}

// orderCheckpoint is forceCheckpoint for a role that may lack the right: BASE_BACKUP does not need it.
func (s *snapshot) orderCheckpoint(ctx context.Context) (*anchor, error) {
	if err := cluster.CheckPrivileges(ctx, s.conn, s.info, cluster.ForBackup); err != nil {
		return nil, lacking(err)
	}
	return s.forceCheckpoint(ctx)
}

// lacking makes of missing privileges a doubt that tells what to grant.
func lacking(err error) error {
	var f *dr.Failure
	if !errors.As(err, &f) {
		return err
	}
	return doubtf("%s: %s (%s)", f.What, f.Reason, f.Next)
}

// forceCheckpoint begins a backup that the server knows of.
func (s *snapshot) forceCheckpoint(ctx context.Context) (*anchor, error) {
	backup, err := cluster.BeginBackup(ctx, s.conn, s.info, s.label(), s.cfg.Checkpoint)
	if err != nil {
		return nil, err
	}
	finish := func(ctx context.Context) (cluster.Result, error) {
		// Last of all: a backup of a standby takes its end from it.
		c, content, err := s.files.control(ctx)
		if err == nil && s.info.InRecovery && c.MinRecovery < s.least.lsn {
			content, err = control.AsStandby(content, s.least.timeline, s.least.lsn)
		}
		if err == nil {
			err = s.saveControl(ctx, content)
		}
		if err != nil {
			return cluster.Result{}, err
		}
		r, err := backup.Stop(ctx)
		r.Stop = max(r.Stop, s.least.lsn)
		return r, err
	}
	return &anchor{backup.Start, backup.Timeline, finish, backup.Abort}, nil
}

func (s *snapshot) label() string { return "holdfast " + string(s.w.ID()) }

// lastCheckpoint begins at the last checkpoint that the server has completed, and asks it for nothing: its log from
// there on is ours already, and what a backup that the server knows of does more (it forces full_page_writes, and
// writes a record at its end) is looked up in that log. The snapshot is described as a backup of a standby: those end
// where pg_control says, without a record of the end.
func (s *snapshot) lastCheckpoint(c control.Data, content []byte) (*anchor, error) {
	if !c.FullPageWrites {
		return nil, doubtf("full_page_writes was off at the last checkpoint")
	}
	finish := func(ctx context.Context) (cluster.Result, error) {
		r := cluster.Result{Start: c.Redo, Timeline: c.Timeline, Stop: c.Redo, FromStandby: true}
		consistent, err := s.consistentFrom(ctx)
		if err != nil {
			return r, err
		}
		if consistent.lsn < s.least.lsn {
			consistent = s.least
		}
		r.Stop = max(r.Stop, consistent.lsn)
		content, err := control.AsStandby(content, consistent.timeline, r.Stop)
		if err != nil {
			return r, err
		}
		size := s.info.WALSegmentSize
		r.Label = wal.Label{
			StartLSN: c.Redo, StartFile: wal.SegmentName(c.Timeline, size.Segment(c.Redo), size), CheckpointLSN: c.Checkpoint,
			Method: "streamed", From: "standby", StartTime: time.Now().UTC().Format("2006-01-02 15:04:05 UTC"), Label: s.label(), Timeline: c.Timeline,
		}
		r.LabelFile = r.Label.Format()
		for _, t := range s.info.Tablespaces {
			r.Tablespaces = append(r.Tablespaces, cluster.Tablespace{OID: t.OID, Location: t.Location})
		}
		return r, s.saveControl(ctx, content)
	}
	return &anchor{c.Redo, c.Timeline, finish, func() {}}, nil
}

// consistentFrom returns up to where the log has to be replayed so that the pages that were read until now agree with
// each other: no page is written before the log of its last change is. On a standby pg_control says it. A primary
// inserts a record, and writes the log to the disk up to it.
func (s *snapshot) consistentFrom(ctx context.Context) (logPosition, error) {
	if s.info.InRecovery {
		c, _, err := s.files.control(ctx)
		if err == nil && (c.State != control.InArchiveRecovery || c.MinRecovery == 0) {
			err = doubtf("the server was promoted meanwhile")
		}
		return logPosition{c.MinRecoveryTimeline, c.MinRecovery}, err
	}
	var lsn string
	tx, err := s.conn.Begin(ctx)
	if err == nil {
		// "local": whether a standby has it does not matter here.
		_, err = tx.Exec(ctx, "SET LOCAL synchronous_commit = local")
	}
	if err == nil {
		err = tx.QueryRow(ctx, "SELECT pg_logical_emit_message(true, 'holdfast', $1)::text", s.label()).Scan(&lsn)
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err != nil {
		return logPosition{}, fmt.Errorf("mark the end of the snapshot in the log: %w", err)
	}
	end, err := wal.ParseLSN(lsn)
	return logPosition{s.info.Timeline, end}, err
}

// ErrNoCheckpoint is the error of a snapshot that was to be taken after a checkpoint only.
var ErrNoCheckpoint = errors.New("the server has completed no checkpoint since the last snapshot")

// needed tells whether recovery from a new snapshot would begin later than from the last one.
func needed(ctx context.Context, conn *pgx.Conn, r *repo.Repository, system string) error {
	m, err := r.LatestSnapshot(ctx, system)
	if err != nil || m == nil {
		return err
	}
	f, err := pg.ParseFacts(m.Engine, m.Facts)
	if err != nil {
		return nil // another one is needed
	}
	var redo string
	if err := conn.QueryRow(ctx, "SELECT redo_lsn::text FROM pg_control_checkpoint()").Scan(&redo); err != nil {
		return fmt.Errorf("ask for the last checkpoint: %w", err)
	}
	if lsn, err := wal.ParseLSN(redo); err != nil || lsn != f.StartLSN {
		return err
	}
	return ErrNoCheckpoint
}
