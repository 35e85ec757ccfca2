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

// slotInterval is how often the slot's state is asked for.
const slotInterval = 10 * time.Second

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
	s.cfg.Logger.Error("the slot was lost: the server kept more log for us than max_slot_wal_keep_size allows", dr.KeySlot, slot.Name)
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
	s.status.Slot = slot
	s.status.SlotUse = -1
	if slot.Safe >= 0 && slot.Retained+slot.Safe > 0 {
		s.status.SlotUse = float64(slot.Retained) / float64(slot.Retained+slot.Safe)
	}
	return slot, nil
}

// watch looks after the slot while the log arrives: how much the server keeps back for us, and whether somebody
// waits for us. What it cannot learn it leaves as it is: the stream itself says when the server is gone.
func (s *LogStream) watch(ctx context.Context) {
	warned := 0.0
	for ; ; waitChange(ctx, nil, slotInterval) { //nolint:errcheck // the loop's condition is below
		if ctx.Err() != nil {
			return
		}
		conn, err := cluster.Connect(ctx, s.host)
		if err != nil {
			continue
		}
		slot, err := s.askSlot(ctx, conn)
		if err == nil {
			s.askSync(ctx, conn, slot)
			warned = s.warn(slot, warned)
		}
		_ = conn.Close(context.WithoutCancel(ctx))
	}
}

// askSync finds out whether commits wait for us.
func (s *LogStream) askSync(ctx context.Context, conn *pgx.Conn, slot stream.Slot) {
	var sync bool
	err := conn.QueryRow(ctx, `SELECT coalesce(bool_or(sync_state IN ('sync', 'quorum')), false)
		FROM pg_stat_replication WHERE pid = $1`, slot.ActivePID).Scan(&sync)
	if err != nil {
		return
	}
	s.writer.SetSynchronous(sync)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Sync = sync
}

// warn says when the slot endangers the server, or itself, at 50 % and at 80 %; it returns what was warned of.
func (s *LogStream) warn(slot stream.Slot, warned float64) float64 {
	s.mu.Lock()
	use := s.status.SlotUse
	s.mu.Unlock()
	if slot.Safe < 0 {
		if warned == 0 {
			s.cfg.Logger.Warn("max_slot_wal_keep_size is not set: while we are away, the log kept for us may fill the primary's disk",
				dr.KeySlot, slot.Name, dr.KeyNext, "ALTER SYSTEM SET max_slot_wal_keep_size = '40GB'; SELECT pg_reload_conf();")
		}
		return 1
	}
	step := 0.0
	switch {
	case use >= 0.8:
		step = 0.8
	case use >= 0.5:
		step = 0.5
	}
	if step > warned {
		s.cfg.Logger.Warn(SlotText(slot), dr.KeySlot, slot.Name, dr.KeyError, s.writer.Status().Err)
	}
	return step
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
