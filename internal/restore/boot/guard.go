package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/restore"
)

// state is what a recovering server says of itself.
type state struct {
	recovering bool
	paused     bool
	waiting    bool // for log, after it has been told that there is no more
	replayed   wal.LSN
	commit     *time.Time
}

func (b *booting) ask(ctx context.Context) (state, error) {
	var s state
	var lsn string
	// RecoveryRetrieveRetryInterval: the startup process has asked everywhere, and waits before it asks again.
	err := b.conn.QueryRow(ctx, `SELECT pg_is_in_recovery(),
		CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
		EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event = 'RecoveryRetrieveRetryInterval'),
		coalesce(pg_last_wal_replay_lsn(), '0/0')::text, pg_last_xact_replay_timestamp()`).
		Scan(&s.recovering, &s.paused, &s.waiting, &lsn, &s.commit)
	if err != nil {
		return s, err
	}
	s.replayed, err = wal.ParseLSN(lsn)
	b.report.replayed(s)
	if b.opts.Progress != nil {
		from := b.plan.Snapshot.Facts.StartLSN
		b.opts.Progress(dr.Progress{Phase: "replaying the log", Done: dr.Bytes(s.replayed - min(from, s.replayed)), Total: dr.Bytes(b.plan.Range.To - from)})
	}
	return s, err
}

// poll asks until done says so.
func (b *booting) poll(ctx context.Context, done func(state) (bool, error)) error {
	again := time.NewTicker(20 * time.Millisecond) // replay goes on in another process: ask
	defer again.Stop()
	for {
		s, err := b.ask(ctx)
		if err != nil {
			return err
		}
		if ok, err := done(s); ok || err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-b.server.exited:
			return errExited
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// awaitTarget waits for the end that PostgreSQL chooses, which is at the target: it refuses any other.
func (b *booting) awaitTarget(ctx context.Context) error {
	return b.poll(ctx, func(s state) (bool, error) {
		return !s.recovering || (b.opts.Ending == restore.Pause && s.paused), nil
	})
}

// awaitEnd waits until a standby has replayed all that the repository holds, and promotes it.
func (b *booting) awaitEnd(ctx context.Context) error {
	to := b.plan.Range.To
	stuck := wal.LSN(0)
	err := b.poll(ctx, func(s state) (bool, error) {
		switch {
		case !s.recovering:
			return false, fmt.Errorf("the server ended its recovery by itself at %s; the log ends at %s", s.replayed, to)
		case s.replayed >= to:
			return true, nil
		case !s.waiting:
			return false, nil
		case s.replayed != stuck: // it may have been about to read more: look twice
			stuck = s.replayed
			return false, nil
		}
		whole, err := RecordFollows(b.dir, b.plan.Way, wal.SegmentSize(b.plan.Snapshot.Facts.SegmentSize), s.replayed, to)
		if err != nil || whole {
			return false, b.stoppedShort(s.replayed, err)
		}
		return true, nil
	})
	if err != nil || b.opts.Ending == restore.Pause {
		return err
	}
	b.phase("promotion")
	var promoted bool
	if err := b.conn.QueryRow(ctx, "SELECT pg_promote(true, 86400)").Scan(&promoted); err != nil {
		return err
	}
	if !promoted {
		return errors.New("pg_promote gave up after a day")
	}
	return nil
}

func (b *booting) stoppedShort(at wal.LSN, err error) error {
	f := &dr.Failure{
		What:   fmt.Sprintf("start %s in %q: the replay stopped at %s, and the log goes on to %s", b.plan.System, b.dir, at, b.plan.Range.To),
		Reason: "the record there cannot be read by PostgreSQL: the log is damaged",
		Next:   fmt.Sprintf("look for it in another replica, or recover to the target %s", at),
		Err:    err,
	}
	if err != nil {
		f.Reason = err.Error()
	}
	return f
}

// RecordFollows tells whether a whole record lies between the end of the replay in a data directory and the end of the
// log, on a way. The log's last bytes are most often the beginning of a record whose rest was never stored: nothing that was
// acknowledged is in it. A whole one, though, should have been replayed.
func RecordFollows(dir string, way *wal.Timelines, size wal.SegmentSize, at, to wal.LSN) (bool, error) {
	at = skipHeader((at+7)&^7, size)
	if at+4 > to {
		return false, nil
	}
	name := wal.SegmentName(way.At(at), size.Segment(at), size)
	f, err := os.Open(filepath.Join(dir, "pg_wal", name))
	if errors.Is(err, os.ErrNotExist) {
		return true, nil // the log holds this segment, and the server has not got it
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // only read
	var length [4]byte
	if _, err := f.ReadAt(length[:], int64(at-size.Floor(at))); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	left := wal.LSN(binary.LittleEndian.Uint32(length[:]))
	if left == 0 {
		return true, nil // no record begins with zeros, and the log goes on here
	}
	// Count the record's bytes over the headers of the pages that it crosses.
	for end := at; ; {
		page := end&^(wal.PageSize-1) + wal.PageSize
		if end+left <= page {
			return end+left <= to, nil
		}
		left -= page - end
		end = skipHeader(page, size)
		if end > to {
			return false, nil
		}
	}
}

// skipHeader steps over a page's header where at is the page's beginning.
func skipHeader(at wal.LSN, size wal.SegmentSize) wal.LSN {
	if at%wal.PageSize == 0 {
		return at + wal.LSN(size.HeaderSize(at))
	}
	return at
}
