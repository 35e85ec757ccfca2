package stream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// System is what IDENTIFY_SYSTEM says, and the settings that matter to a receiver.
type System struct {
	ID            uint64
	Timeline      wal.TimelineID
	Flushed       wal.LSN // end of the log that the server has on disk (a standby: has received)
	SegmentSize   wal.SegmentSize
	SenderTimeout time.Duration // wal_sender_timeout; zero: none
}

// Identify asks the server on a connection of cluster.ConnectReplication.
func Identify(ctx context.Context, conn *pgconn.PgConn) (System, error) {
	row, err := oneRow(ctx, conn, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return System{}, err
	}
	var s System
	if s.ID, err = strconv.ParseUint(row[0], 10, 64); err != nil {
		return s, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	if s.Timeline, err = parseTimeline(row[1]); err != nil {
		return s, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	if s.Flushed, err = wal.ParseLSN(row[2]); err != nil {
		return s, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	if row, err = oneRow(ctx, conn, "SHOW wal_segment_size", 1); err != nil {
		return s, err
	}
	if s.SegmentSize, err = parseSegmentSize(row[0]); err != nil {
		return s, err
	}
	if row, err = oneRow(ctx, conn, "SHOW wal_sender_timeout", 1); err != nil {
		return s, err
	}
	s.SenderTimeout, err = parseTimeout(row[0])
	return s, err
}

// InRecovery tells whether the server is a standby itself. One before version 14 does not know the setting, and refuses with a
// *cluster.ServerError.
func InRecovery(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	row, err := oneRow(ctx, conn, "SHOW in_hot_standby", 1)
	return err == nil && row[0] == "on", err
}

// FetchHistory returns the history file of a timeline. The server may lack that of an older timeline; then it
// is made from the way of the timeline that the server is on, which begins with the same lines.
func FetchHistory(ctx context.Context, conn *pgconn.PgConn, tl, current wal.TimelineID) ([]byte, error) {
	row, err := oneRow(ctx, conn, fmt.Sprintf("TIMELINE_HISTORY %d", tl), 2)
	if err == nil {
		if _, err := wal.ParseHistory(tl, []byte(row[1])); err != nil {
			return nil, err
		}
		return []byte(row[1]), nil
	}
	var refused *cluster.ServerError
	if tl >= current || !errors.As(err, &refused) {
		return nil, err
	}
	row, err = oneRow(ctx, conn, fmt.Sprintf("TIMELINE_HISTORY %d", current), 2)
	if err != nil {
		return nil, err
	}
	h, err := wal.ParseHistory(current, []byte(row[1]))
	if err != nil {
		return nil, err
	}
	for i, s := range h.Ancestors {
		if s.Timeline == tl {
			return (&wal.Timelines{Timeline: tl, Ancestors: h.Ancestors[:i]}).Format(), nil
		}
	}
	return nil, fmt.Errorf("timeline %d is not on the way of the server's timeline %d", tl, current)
}

// oneRow runs a replication command and returns the first columns of its only row.
func oneRow(ctx context.Context, conn *pgconn.PgConn, command string, columns int) ([]string, error) {
	results, err := conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", firstWord(command), plain(ctx, err))
	}
	if len(results) == 0 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < columns {
		return nil, fmt.Errorf("%s: the server's answer has another form than expected", firstWord(command))
	}
	row := make([]string, columns)
	for i := range row {
		row[i] = string(results[0].Rows[0][i])
	}
	return row, nil
}

func firstWord(command string) string {
	word, _, _ := strings.Cut(command, " ")
	return word
}

// plain prefers the context's cause, and prints a server's error without its codes.
func plain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return &cluster.ServerError{PgError: pgErr}
	}
	return err
}

func parseTimeline(s string) (wal.TimelineID, error) {
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("%q is no timeline", s)
	}
	return wal.TimelineID(v), nil
}

// parseSegmentSize reads "16MB", "1GB".
func parseSegmentSize(s string) (wal.SegmentSize, error) {
	num, shift := s, 0
	if n, ok := strings.CutSuffix(s, "MB"); ok {
		num, shift = n, 20
	} else if n, ok := strings.CutSuffix(s, "GB"); ok {
		num, shift = n, 30
	}
	v, err := strconv.ParseUint(num, 10, 16)
	if err != nil || shift == 0 || v > 1024 {
		return 0, fmt.Errorf("%q is no WAL segment size", s)
	}
	size := wal.SegmentSize(v << shift)
	return size, size.Check()
}

// parseTimeout reads "1min", "60s", "500ms", "0".
func parseTimeout(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	units := strings.TrimLeft(s, "0123456789")
	v, err := strconv.ParseUint(strings.TrimSuffix(s, units), 10, 31)
	unit, ok := map[string]time.Duration{
		"ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}[units]
	if err != nil || !ok {
		return 0, fmt.Errorf("%q is no duration", s)
	}
	return time.Duration(v) * unit, nil
}
