package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// SlotKind says how long a slot lives.
type SlotKind uint8

// The kinds of slots.
const (
	Permanent SlotKind = iota // until it is dropped: the log is kept while we are away
	Temporary                 // until the connection ends
)

// CheckSlotName returns an error for a name that PostgreSQL does not allow.
func CheckSlotName(name string) error {
	if name == "" || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return fmt.Errorf("%q is no name for a replication slot: 1 to 63 of a-z, 0-9 and _ are allowed", name)
	}
	return nil
}

// EnsureSlot makes a physical slot that keeps the log from now on, where there is none of that name. created
// tells whether it did. A logical slot of that name is an error.
func EnsureSlot(ctx context.Context, conn *pgconn.PgConn, name string, kind SlotKind) (created bool, err error) {
	if err := CheckSlotName(name); err != nil {
		return false, err
	}
	temporary := ""
	if kind == Temporary {
		temporary = "TEMPORARY "
	}
	_, err = conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+name+" "+temporary+"PHYSICAL RESERVE_WAL").ReadAll()
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &pgErr) && pgErr.Code == "42710": // exists
		return false, nil
	case errors.As(err, &pgErr) && pgErr.Code == "53400": // all slots are in use
		return false, dr.Fail(fmt.Sprintf("make replication slot %s", name), plain(ctx, err),
			"raise max_replication_slots and restart the server, or drop a slot that nobody needs")
	}
	return false, fmt.Errorf("make replication slot %s: %w", name, plain(ctx, err))
}

// DropSlot drops a slot that is not in use. One that does not exist is no error.
func DropSlot(ctx context.Context, conn *pgconn.PgConn, name string) error {
	if err := CheckSlotName(name); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "DROP_REPLICATION_SLOT "+name).ReadAll()
	var pgErr *pgconn.PgError
	if err == nil || errors.As(err, &pgErr) && pgErr.Code == "42704" {
		return nil
	}
	return fmt.Errorf("drop replication slot %s: %w", name, plain(ctx, err))
}

// Slot is the state of a slot, as pg_replication_slots shows it.
type Slot struct {
	Name      string
	Physical  bool
	Temporary bool
	Active    bool
	ActivePID int32
	Restart   wal.LSN // the server keeps the log from here; zero: it keeps nothing
	// Status is "reserved", "extended" (more than max_wal_size), "unreserved" (may be lost at the next
	// checkpoint), "lost", or empty where the slot keeps nothing.
	Status   string
	Retained int64 // bytes of log kept since Restart
	// Safe is how many bytes may be written before the slot is in danger: 0 where the next checkpoint may lose it, negative
	// where there is no limit (max_slot_wal_keep_size = -1) or the slot is lost.
	Safe int64
}

// Lost tells whether the slot can no longer give the log from its position.
func (s Slot) Lost() bool { return s.Status == "lost" }

// ReadSlot asks for a slot over an SQL connection; ok is false where there is none of that name.
func ReadSlot(ctx context.Context, conn *pgx.Conn, name string) (s Slot, ok bool, err error) {
	var restart string
	err = conn.QueryRow(ctx, `
		SELECT slot_name, slot_type = 'physical', temporary, active, coalesce(active_pid, 0),
		       coalesce(restart_lsn, '0/0')::text, coalesce(wal_status, ''), CASE WHEN safe_wal_size IS NULL THEN -1 ELSE greatest(safe_wal_size, 0) END,
		       greatest(coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
		                ELSE pg_current_wal_lsn() END, restart_lsn), 0), 0)::int8
		FROM pg_replication_slots WHERE slot_name = $1`, name).
		Scan(&s.Name, &s.Physical, &s.Temporary, &s.Active, &s.ActivePID, &restart, &s.Status, &s.Safe, &s.Retained)
	if errors.Is(err, pgx.ErrNoRows) {
		return Slot{}, false, nil
	}
	if err != nil {
		return Slot{}, false, fmt.Errorf("read replication slot %s: %w", name, plain(ctx, err))
	}
	s.Restart, err = wal.ParseLSN(restart)
	return s, true, err
}
