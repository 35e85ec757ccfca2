package capture

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
)

const (
	// slotInterval is how often the slot's state is asked for, over a connection that is made for it: one that stayed
	// would hold up a smart shutdown of the server.
	slotInterval = 10 * time.Second
	// settleInterval is how often while the stream settles, and settleTime how long that is after it has caught up: only
	// then does the server count us as a synchronous standby, and until we know, each of its commits waits for our interval.
	settleInterval = time.Second
	settleTime     = time.Minute
)

// reserve makes the slot where it is missing or lost, and reads its state.
func (s *LogStream) reserve(ctx context.Context, conn *pgconn.PgConn) error {
	if _, err := stream.EnsureSlot(ctx, conn, s.cfg.Slot, s.cfg.slotKind()); err != nil {
		return err
	}
	slot, err := s.readSlot(ctx)
	if err != nil {
		return err
	}
	if slot.Name != "" && !slot.Physical {
		return &dr.Failure{
			What: fmt.Sprintf("replication slot %s cannot be used", slot.Name), Reason: "it is a logical slot",
			Next: "name another slot in holdfast.yaml",
		}
	}
	if !slot.Lost() {
		return nil
	}
	// It keeps nothing any more and never will: the server may still have the log, which is asked for next.
	s.slotLost = true
	pos := s.writer.position()
	s.cfg.Logger.Error("the slot was lost: the server kept as much log for us as max_slot_wal_keep_size allows; a new one is made, and what the server still has is received",
		dr.KeySlot, slot.Name, dr.KeyTimeline, pos.timeline, dr.KeyLSN, pos.lsn,
		dr.KeyNext, "see why the log was not received or stored, and raise max_slot_wal_keep_size if that was no longer than it may be; where the log has a gap now, the next line says which")
	if err := stream.DropSlot(ctx, conn, s.cfg.Slot); err != nil {
		return err
	}
	if _, err := stream.EnsureSlot(ctx, conn, s.cfg.Slot, s.cfg.slotKind()); err != nil {
		return err
	}
	_, err = s.readSlot(ctx)
	return err
}

func (c *StreamConfig) slotKind() stream.SlotKind {
	if c.Temporary {
		return stream.Temporary
	}
	return stream.Permanent
}

// readSlot asks for the slot over a short SQL connection.
func (s *LogStream) readSlot(ctx context.Context) (stream.Slot, error) {
	conn, err := cluster.Connect(ctx, s.host)
	if err != nil {
		return stream.Slot{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	return s.askSlot(ctx, conn)
}

func (s *LogStream) askSlot(ctx context.Context, conn *pgx.Conn) (stream.Slot, error) {
	slot, _, err := stream.ReadSlot(ctx, conn, s.cfg.Slot)
	if err != nil {
		return slot, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Slot, s.status.SlotUse = slot, slotUse(slot)
	return slot, nil
}

// watch looks after the slot while the log arrives: how much the server keeps back for us, and whether somebody
// waits for us. What it cannot learn it leaves as it is: the stream itself says when the server is gone.
func (s *LogStream) watch(ctx context.Context) {
	var settled time.Time // when we had caught up
	for ctx.Err() == nil {
		s.look(ctx)
		now := time.Now()
		if st := s.writer.Status(); settled.IsZero() && st.SourceEnd > 0 && st.ReceivedLSN >= st.SourceEnd {
			settled = now
		}
		_ = waitChange(ctx, nil, lookAfter(settled, now)) // the loop's condition sees the end
	}
}

// lookAfter says when the slot is looked at again.
func lookAfter(settled, now time.Time) time.Duration {
	if settled.IsZero() || now.Sub(settled) < settleTime {
		return settleInterval
	}
	return slotInterval
}

// look looks at the slot once.
func (s *LogStream) look(ctx context.Context) {
	conn, err := cluster.Connect(ctx, s.host)
	if err != nil {
		return
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	slot, err := s.askSlot(ctx, conn)
	if err != nil {
		return
	}
	s.askSync(ctx, conn, slot)
	if message, next := s.warnings.due(slot); message != "" {
		s.cfg.Logger.Warn(message, dr.KeySlot, slot.Name, dr.KeyError, s.writer.Status().Err, dr.KeyNext, next)
	}
}

// askSync finds out whether commits wait for us.
func (s *LogStream) askSync(ctx context.Context, conn *pgx.Conn, slot stream.Slot) {
	var sync bool
	// A role without pg_read_all_stats (pg_monitor has it) sees that we are there, and no more. Then it counts whether we
	// are named: to be wrong costs requests, and no commit waits longer than it must.
	err := conn.QueryRow(ctx, `SELECT coalesce(bool_or(coalesce(sync_state IN ('sync', 'quorum'),
			strpos(names, '*') > 0 OR strpos(lower(names), lower(current_setting('application_name'))) > 0)), false)
		FROM pg_stat_replication, current_setting('synchronous_standby_names') AS names WHERE pid = $1`, slot.ActivePID).Scan(&sync)
	if err != nil {
		return
	}
	s.writer.SetSynchronous(sync)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Sync = sync
}

// slotWarnings remembers what was warned of, so that each is said once.
type slotWarnings struct {
	unlimited bool
	step      float64 // of slotSteps
}

// slotSteps are the parts of what a slot may keep back at which we warn: at all of it the slot is lost.
var slotSteps = []float64{0.5, 0.8}

// due returns what is to be said of a slot as it is now: that it endangers the server, or itself. Empty: nothing new.
func (w *slotWarnings) due(slot stream.Slot) (message, next string) {
	switch {
	case slot.Name == "" || slot.Lost():
		return "", ""
	case slot.Safe < 0:
		w.step = 0
		if w.unlimited {
			return "", ""
		}
		w.unlimited = true
		return "max_slot_wal_keep_size is not set: while we are away, the log kept for us may fill the primary's disk",
			"ALTER SYSTEM SET max_slot_wal_keep_size = '40GB'; SELECT pg_reload_conf();"
	}
	w.unlimited = false
	step := 0.0
	for _, s := range slotSteps {
		if slotUse(slot) >= s {
			step = s
		}
	}
	grown := step > w.step
	w.step = step
	if !grown {
		return "", ""
	}
	return SlotText(slot), "mend what keeps the log from being stored, or raise max_slot_wal_keep_size: when the primary may keep no more, the slot is lost and the log has a gap"
}

// slotUse returns which part of what it may keep back a slot keeps; negative: without a limit, or not known.
func slotUse(slot stream.Slot) float64 {
	if slot.Safe < 0 || slot.Retained+slot.Safe <= 0 {
		return -1
	}
	return float64(slot.Retained) / float64(slot.Retained+slot.Safe)
}

// SlotText says how much of the log a server keeps back for us.
func SlotText(slot stream.Slot) string {
	switch {
	case slot.Name == "":
		return "how much log the primary keeps for us is not known"
	case slot.Lost():
		return "the slot is lost: the primary kept more log for us than it may"
	case slot.Safe < 0:
		return fmt.Sprintf("log kept for us on the primary is %s, without a limit", dr.Bytes(slot.Retained))
	}
	return fmt.Sprintf("log kept for us on the primary is %s of the allowed %s", dr.Bytes(slot.Retained), dr.Bytes(slot.Retained+slot.Safe))
}

// Problem returns what stops the log at the moment, or nil: what, why, and what to do. It does not end the stream,
// which tries again.
func (s StreamStatus) Problem() error {
	switch {
	case s.Blocked():
		return dr.Fail("receiving the log has stopped: "+SlotText(s.Slot), fmt.Errorf("%w; before that: %w", s.SpoolErr, s.Err),
			"mend the repository, or raise the spool's limit; when the primary may keep no more, the slot is lost")
	case s.Err != nil:
		return dr.Fail(fmt.Sprintf("the log is not stored since %s; the spool has %s", s.Stored, s.Spooled), s.Err,
			"mend the repository: what it misses is stored as soon as it answers")
	case !s.Connected && s.ConnErr != nil:
		return dr.Fail("the log is not received", s.ConnErr, dr.Advice(s.ConnErr))
	}
	return nil
}
