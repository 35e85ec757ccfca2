package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// wayOf returns the way of a server's timeline.
func wayOf(ctx context.Context, conn *pgconn.PgConn, tl wal.TimelineID) (*wal.Timelines, error) {
	if tl == 1 {
		return &wal.Timelines{Timeline: 1}, nil
	}
	content, err := stream.FetchHistory(ctx, conn, tl, tl)
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %w", tl, err)
	}
	return wal.ParseHistory(tl, content)
}

// place finds where the log goes on and tells the writer: after what we have, on the newest timeline of the
// server's way of which we have anything. Where the writer is on that way already, nothing changes.
func (s *LogStream) place(ctx context.Context, conn *pgconn.PgConn, sys stream.System) error {
	way, err := wayOf(ctx, conn, sys.Timeline)
	if err != nil {
		return err
	}
	pos := s.writer.position()
	if pos.timeline != 0 && way.IsAncestor(pos.timeline, pos.lsn) {
		return nil
	}
	tls, err := storedTimelines(ctx, s.cfg.Log)
	if err != nil {
		return err
	}
	if n := len(tls); n > 0 && tls[n-1] > sys.Timeline {
		s.cfg.Logger.Warn("the server is on an older timeline than the repository has: is it the old primary?",
			dr.KeyTimeline, sys.Timeline)
	}
	gaps, err := ReadLogGaps(ctx, s.cfg.Log)
	if err != nil {
		return err
	}
	if pos.timeline != 0 {
		s.restart(pos, sys)
	}
	for tl, ok := way.Timeline, true; ok; tl, ok = before(way, tl) {
		begin, end, onWay := way.Range(tl)
		if !onWay || !slices.Contains(tls, tl) && tl != pos.timeline {
			continue
		}
		h, stored, err := heldLog{end: pos.lsn}, true, error(nil) // the writer has more than the repository
		if tl != pos.timeline {
			h, stored, err = readHeld(ctx, s.cfg.Log, tl, gaps)
		}
		switch {
		case err != nil:
			return err
		case !stored || h.end < sys.SegmentSize.Floor(begin):
			continue
		case h.end < end:
			if err := dropFinished(ctx, s.cfg.Log, tl, h.end); err != nil {
				return err
			}
			return s.writer.Begin(ctx, tl, h.end, h.data, h.pieces)
		}
		next, _ := way.Next(tl)
		// As walreceiver does: the new timeline's segment repeats the bytes before the switch.
		return s.writer.Begin(ctx, next, sys.SegmentSize.Floor(end), nil, 0)
	}
	return s.beginFresh(ctx, way, sys)
}

// before returns the timeline before tl on a way.
func before(way *wal.Timelines, tl wal.TimelineID) (wal.TimelineID, bool) {
	found := wal.TimelineID(0)
	for _, a := range way.Ancestors {
		if a.Timeline < tl {
			found = a.Timeline
		}
	}
	return found, found != 0
}

// restart prepares the writer for a server whose log is another one than what we have received.
func (s *LogStream) restart(pos logPosition, sys stream.System) {
	s.cfg.Logger.Warn("the server's log has left ours before its end: what we have beyond is kept, and is not on its way",
		dr.KeyTimeline, sys.Timeline, dr.KeyLSN, pos.lsn)
	s.writer.Restart()
	s.mu.Lock()
	s.acked = 0
	s.mu.Unlock()
}

// beginFresh begins the log of a system of which we have nothing: where its slot begins.
func (s *LogStream) beginFresh(ctx context.Context, way *wal.Timelines, sys stream.System) error {
	from := sys.Flushed
	s.mu.Lock()
	if r := s.status.Slot.Restart; r != 0 {
		from = min(from, r)
	}
	s.mu.Unlock()
	from = sys.SegmentSize.Floor(from)
	return s.writer.Begin(ctx, way.At(from), from, nil, 0)
}

// moved turns the errors after which the log goes on elsewhere into a *movedError, when the place is found.
func (s *LogStream) moved(ctx context.Context, err error) error {
	var removed *stream.RemovedError
	var diverged *stream.DivergedError
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.As(err, &diverged):
		return &movedError{err} // place finds out at the next connection
	case errors.As(err, &removed):
		if gapErr := s.skip(ctx, removed); gapErr != nil {
			return gapErr
		}
		return &movedError{err}
	}
	return err
}

// skip notes a gap and goes on behind it.
func (s *LogStream) skip(ctx context.Context, removed *stream.RemovedError) error {
	g := LogGap{Timeline: removed.Timeline, From: s.writer.position().lsn, Reason: removed.Err.Error(), Noticed: time.Now().UTC()}
	if s.slotLost {
		g.Reason = fmt.Sprintf("replication slot %s was lost: the server kept as much log for us as max_slot_wal_keep_size allows (%s)", s.cfg.Slot, g.Reason)
	}
	conn, err := cluster.Connect(ctx, s.host)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	info, err := cluster.Identify(ctx, conn)
	if err != nil {
		return err
	}
	next := g.Timeline
	if info.Timeline == g.Timeline {
		g.To, err = oldestLog(ctx, conn, info)
	} else {
		next, g.To, err = s.leftTimeline(ctx, g.Timeline, info)
	}
	if err != nil {
		return err
	}
	if g.To <= g.From {
		return fmt.Errorf("%w; it has the log from %s on", removed, g.To)
	}
	if err := putLogGap(ctx, s.cfg.Log, g); err != nil {
		return err
	}
	s.mu.Lock()
	s.status.Gaps = append(s.status.Gaps, g)
	s.mu.Unlock()
	s.cfg.Logger.Error(g.String()+": no moment in it can be restored, and none after it before the next snapshot",
		dr.KeyTimeline, g.Timeline, dr.KeyLSN, g.From, dr.KeyError, g.Reason, dr.KeyNext, "take a snapshot now")
	return s.writer.Begin(ctx, next, info.WALSegmentSize.Floor(g.To), nil, 0)
}

// leftTimeline returns which timeline follows tl on the way of the server's, and where.
func (s *LogStream) leftTimeline(ctx context.Context, tl wal.TimelineID, info cluster.Info) (wal.TimelineID, wal.LSN, error) {
	conn, err := cluster.ConnectReplication(ctx, s.host)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	way, err := wayOf(ctx, conn, info.Timeline)
	if err != nil {
		return 0, 0, err
	}
	next, ok := way.Next(tl)
	at, left := way.SwitchPoint(tl)
	if !ok || !left {
		return 0, 0, fmt.Errorf("the server's timeline %d does not come from timeline %d", info.Timeline, tl)
	}
	return next, at, nil
}

// oldestLog returns where the log that a server still has begins.
func oldestLog(ctx context.Context, conn *pgx.Conn, info cluster.Info) (wal.LSN, error) {
	var name, redo string
	err := conn.QueryRow(ctx, `SELECT coalesce(min(name), '') FROM pg_ls_waldir()
		WHERE name ~ '^[0-9A-F]{24}$' AND left(name, 8) = $1`, fmt.Sprintf("%08X", uint32(info.Timeline))).Scan(&name)
	if err == nil {
		n, err := wal.ParseName(name, info.WALSegmentSize)
		return n.Start, err
	}
	var denied *pgconn.PgError
	if !errors.As(err, &denied) {
		return 0, err
	}
	// Without the right to look (pg_monitor): what the last checkpoint needs is certainly there.
	if err := conn.QueryRow(ctx, "SELECT redo_lsn::text FROM pg_control_checkpoint()").Scan(&redo); err != nil {
		return 0, err
	}
	lsn, err := wal.ParseLSN(strings.TrimSpace(redo))
	return info.WALSegmentSize.Floor(lsn), err
}
