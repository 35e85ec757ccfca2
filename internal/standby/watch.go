package standby

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// sample is what the server says of itself.
type sample struct {
	recovering bool
	paused     bool
	waiting    bool    // the replay has nothing more to do
	replayed   wal.LSN // the end of what was executed
	received   wal.LSN
	commit     time.Time // of the last transaction that was executed, by the source's clock
}

func (x *run) ask(ctx context.Context, conn *pgx.Conn) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var replayed, received string
	var at *time.Time
	err = conn.QueryRow(ctx, `SELECT pg_is_in_recovery(),
		CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
		EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval')),
		coalesce(pg_last_wal_replay_lsn(), '0/0')::text, coalesce(pg_last_wal_receive_lsn(), '0/0')::text, pg_last_xact_replay_timestamp()`).
		Scan(&s.recovering, &s.paused, &s.waiting, &replayed, &received, &at)
	if err != nil {
		return s, err
	}
	if at != nil {
		s.commit = at.UTC()
	}
	var err1, err2 error
	s.replayed, err1 = wal.ParseLSN(replayed)
	s.received, err2 = wal.ParseLSN(received)
	return s, errors.Join(err1, err2)
}

const (
	sampleEvery = 500 * time.Millisecond
	checkEvery  = 5 * time.Second // whether a newer snapshot leads past what is missing
)

// watcher watches one start of the server.
type watcher struct {
	x       *run
	conn    *pgx.Conn
	last    sample
	foreign int // samples in a row with the standby off the way
	checked time.Time
}

// serve starts the server and watches it until it ends, must be rebuilt, or was promoted.
func (x *run) serve(ctx context.Context) (*Promoted, error) {
	x.tail.forget()
	if err := x.start(ctx); err != nil {
		return nil, err
	}
	w := &watcher{x: x, checked: time.Now()}
	defer w.close(ctx)
	tick := time.NewTicker(sampleEvery) // the replay goes on in another process: ask
	defer tick.Stop()
	exited := x.server.exited // nil for one that was found: then alive tells
	for {
		select {
		case <-ctx.Done():
			return nil, nil
		case <-exited:
			return nil, x.ended(ctx)
		case r := <-x.pending(ctx, w):
			if r.ctx.Err() != nil {
				continue
			}
			done, err := w.promote(r.ctx, r.Promotion)
			x.asked = r.asked
			r.reply(done, err)
			if done != nil || x.first != nil {
				return done, x.first
			}
			continue
		case <-tick.C:
		}
		if !x.server.alive() {
			return nil, x.ended(ctx)
		}
		if err := w.look(ctx); err != nil {
			return nil, err
		}
	}
}

// pending returns requests once the server can be asked; those of the beginning first.
func (x *run) pending(ctx context.Context, w *watcher) <-chan request {
	if w.conn == nil {
		return nil
	}
	if p := x.o.Promote; p != nil {
		x.o.Promote = nil
		first := make(chan request, 1)
		first <- request{Promotion: *p, ctx: ctx, reply: func(_ *Promoted, err error) { x.first = err }}
		return first
	}
	return x.requests
}

// ended says why the server is gone. One whose position the newest timeline does not lead past cannot start any more.
func (x *run) ended(ctx context.Context) error {
	why := errors.New(x.lastWords())
	d, err := readControl(ctx, x.o.Dir)
	v, _ := x.tail.state()
	if err == nil && v.Way != nil && d.MinRecoveryTimeline != 0 && !v.Way.IsAncestor(d.MinRecoveryTimeline, d.MinRecovery) {
		return &errRebuild{fmt.Sprintf("it was on timeline %d at %s, and the way to the newest timeline %d does not lead past there", d.MinRecoveryTimeline, d.MinRecovery, v.Way.Timeline)}
	}
	return why
}

func (w *watcher) close(ctx context.Context) {
	if w.conn != nil {
		_ = w.conn.Close(context.WithoutCancel(ctx))
		w.conn = nil
	}
}

// look takes a sample, and judges it.
func (w *watcher) look(ctx context.Context) error {
	x := w.x
	if w.conn == nil {
		conn, err := x.connect(ctx)
		if err != nil {
			x.observe(sample{}, err)
			return w.judge(ctx) // it may wait for log that is not there before it is consistent
		}
		w.conn = conn
		x.log.Info("the standby answers queries", "connection", x.connString("postgres"))
	}
	s, err := x.ask(ctx, w.conn)
	if err != nil {
		w.close(ctx)
		x.observe(sample{}, err)
		return nil
	}
	w.last = s
	x.observe(s, nil)
	if !s.recovering {
		return w.promotedByOthers(ctx)
	}
	if s.paused {
		if err := w.resume(ctx); err != nil {
			return err
		}
	}
	return w.judge(ctx)
}

// resume lets a paused replay go on. One that has paused because the source has raised a setting needs a restart, with the
// source's value of today; versions before 14 end by themselves.
func (w *watcher) resume(ctx context.Context) error {
	d, err := readControl(ctx, w.x.o.Dir)
	if err != nil {
		return nil //nolint:nilerr // the next sample tries again
	}
	for name, needed := range d.Least {
		var has int
		if err := w.conn.QueryRow(ctx, "SELECT current_setting($1)::int", name).Scan(&has); err != nil {
			return nil //nolint:nilerr // as above
		}
		if has < needed {
			why := fmt.Sprintf("the source has raised %s to %d, and a standby must not have less than its %d", name, needed, has)
			w.close(ctx)
			return errors.Join(errors.New(why), w.x.server.stop(ctx))
		}
	}
	_, err = w.conn.Exec(ctx, "SELECT pg_wal_replay_resume()")
	return err
}

// judge looks whether the log that the standby needs will ever come.
func (w *watcher) judge(ctx context.Context) error {
	x := w.x
	v, _ := x.tail.state() // after the sample: what the standby asked for then, it had not passed before
	if other := new(otherClusterError); errors.As(v.Problem, &other) {
		return other
	}
	off := v.Foreign
	if off == nil {
		off = v.Strayed
	}
	if off == nil {
		off = v.left(w.last.replayed)
	}
	if off == nil {
		w.foreign = 0
	} else if w.foreign++; w.foreign > 2 {
		return &errRebuild{off.Error()}
	}
	stuck := v.Next != 0 || v.Damaged != 0 || v.End == v.Base && time.Since(v.Grown) > checkEvery
	if !stuck || v.Streams || v.Session == 0 || v.Problem != nil || time.Since(w.checked) < checkEvery {
		return nil
	}
	w.checked = time.Now()
	return w.leap(ctx, v)
}

// leap asks for a rebuild where log is missing that a newer snapshot makes unnecessary.
func (w *watcher) leap(ctx context.Context, v view) error {
	x := w.x
	r, err := x.repository(ctx)
	if err != nil {
		return nil //nolint:nilerr // the tail says so too
	}
	all, err := points.Load(ctx, r, x.o.System)
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	plan, err := all.Plan(ctx, points.Target{Kind: points.Latest}, points.Timeline{}, points.AllowLoss)
	missing := fmt.Sprintf("the repository has no log from %s on", v.End)
	from := v.End // a snapshot must begin behind it
	if v.Damaged != 0 {
		// The log of a snapshot is read from the start of a segment.
		missing, from = fmt.Sprintf("the repository's log is damaged between %s and %s", v.Sent, v.Damaged), v.Damaged-1
		if err == nil && x.tail.system.SegmentSize.Floor(plan.Snapshot.Facts.StartLSN) < v.Damaged {
			return nil
		}
	} else if v.Next != 0 {
		missing = fmt.Sprintf("the repository's log has a gap from %s to %s", v.End, v.Next)
	}
	if gaps, err := capture.ReadLogGaps(ctx, r.Log(x.o.System)); err == nil {
		for _, g := range gaps {
			if v.Damaged == 0 && g.From <= v.End && v.End < g.To {
				missing += ": " + g.Reason
			}
		}
	}
	if err != nil || plan.Snapshot.Facts.StartLSN <= from {
		if v.Next != 0 && v.Damaged == 0 {
			x.gap(missing + "; a snapshot behind it is waited for")
		}
		return nil
	}
	return &errRebuild{missing}
}

// promotedByOthers ends the run of a server that somebody else has promoted.
func (w *watcher) promotedByOthers(ctx context.Context) error {
	var tl int64
	if err := w.conn.QueryRow(ctx, currentTimeline).Scan(&tl); err != nil {
		return err
	}
	if err := w.x.place.write(record{Settings: w.x.o.Settings, Promoted: time.Now(), Timeline: wal.TimelineID(tl)}); err != nil {
		return err
	}
	return &promotedError{wal.TimelineID(tl)}
}

type promotedError struct{ timeline wal.TimelineID }

func (e *promotedError) Unwrap() error { return ErrNoStandby }
func (e *promotedError) Error() string {
	return fmt.Sprintf("somebody has promoted the standby: it writes on timeline %d", e.timeline)
}
