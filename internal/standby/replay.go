package standby

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
)

// replaying judges, look by look, whether a promotion's replay comes to the end of the log.
type replaying struct {
	end      wal.LSN
	replayed wal.LSN
	received wal.LSN
	still    int // looks in a row in which neither came further
	left     int // in which the way left the standby behind
}

// Looks are counted, not seconds: a busy machine also looks less often.
const (
	replayLook  = 20 * time.Millisecond
	fewLooks    = 5
	hinderAfter = 1500 // with a reason that is known
	stuckAfter  = 3000 // with none
)

// look takes what was seen of the server, and of the log after that. The end is that of the repository, or of what a primary has sent. It is done where the end is reached on the way; why says what
// stands between, and that it will not go away by itself.
func (r *replaying) look(s sample, v view) (done bool, why error) {
	if r.still++; s.replayed != r.replayed || s.received != r.received {
		r.still = 0
	}
	r.replayed, r.received = s.replayed, s.received
	r.end = max(r.end, s.received)
	if left := v.left(s.replayed); left != nil {
		if r.left++; r.left <= fewLooks {
			return false, nil
		}
		return false, left
	}
	r.left = 0
	// What was received is replayed before a server ends its recovery. A part of a record it can still do without: it asks anew.
	off := v.Foreign
	if off == nil {
		off = v.left(s.received)
	}
	asked := v.Way == nil || v.Session != 0 // otherwise nobody knows on which timeline it is
	// Where no repository has answered, what was received is the end.
	if off == nil && v.Refused == "" && asked && s.replayed >= r.end && (v.Way != nil || s.waiting || s.replayed >= s.received) {
		return true, nil
	}
	if r.still < hinderAfter {
		return false, nil
	}
	switch {
	case off != nil:
		return false, off
	case v.Refused != "":
		return false, errors.New(v.Refused)
	case v.Unread != nil:
		return false, fmt.Errorf("the log cannot be read in the repository: %w", v.Unread)
	case !asked:
		return false, errors.New("its server has not asked for log since it was started")
	case s.received < r.end && r.still >= stuckAfter:
		return false, fmt.Errorf("nothing has come of the log from %s on, which the repository lists", max(s.received, s.replayed))
	}
	return false, nil
}

// replay waits until everything up to the end has been replayed.
func (m *promoting) replay(ctx context.Context, frozen view) error {
	w, x := m.w, m.w.x
	r := replaying{end: frozen.End}
	again := time.NewTicker(replayLook) // the replay goes on in another process: ask
	defer again.Stop()
	for {
		s, err := x.ask(ctx, w.conn)
		if err != nil {
			return err
		}
		m.out.Replayed, m.out.NewestCommit = s.replayed, s.commit
		x.observe(s, nil)
		x.phase(PhasePromoting)
		v, _ := x.tail.state()
		done, why := r.look(s, v)
		switch {
		case !s.recovering:
			return errors.New("somebody else has promoted it")
		case done:
			return nil
		case why != nil:
			return m.hindered(s, r.end, why)
		case s.paused:
			if _, err := w.conn.Exec(ctx, "SELECT pg_wal_replay_resume()"); err != nil {
				return err
			}
		case s.waiting && s.received >= r.end && r.still > fewLooks && v.Way != nil && v.Refused == "":
			// The log's last bytes are most often a part of a record, whose rest was never stored. Where a whole one follows, a
			// busy machine may not have let the server look at it yet.
			whole, err := boot.RecordFollows(x.o.Dir, v.Way, x.tail.system.SegmentSize, s.replayed, r.end)
			if err == nil && !whole {
				return nil
			}
			if r.still >= stuckAfter {
				return m.hindered(s, r.end, errors.Join(errors.New("the record there cannot be read by PostgreSQL: the log is damaged"), err))
			}
		case !s.waiting && r.still >= stuckAfter && r.still%stuckAfter == 0:
			if err := m.held(ctx, s); err != nil {
				return err
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// hindered says that the log is not replayed to its end; nil where a person said that this does not matter.
func (m *promoting) hindered(s sample, end wal.LSN, why error) error {
	if m.p.AcceptLoss {
		m.lost(fmt.Sprintf("the log up to %s was not replayed: the replay stopped at %s: %v", end, s.replayed, why))
		return nil
	}
	f := &dr.Failure{
		What:   fmt.Sprintf("promote the standby of %s: the replay stopped at %s, and the log goes on to %s", m.w.x.o.System, s.replayed, end),
		Reason: why.Error(), Err: why,
		Next: "see " + m.w.x.logFile() + "; --accept-loss promotes with what was replayed",
	}
	if v, _ := m.w.x.tail.state(); v.left(s.replayed) != nil {
		f.What = fmt.Sprintf("promote the standby of %s: the source went on from an earlier moment than the standby has replayed", m.w.x.o.System)
		f.Next = "standby run brings it to a newer snapshot by itself: promote it after that; --accept-loss promotes the branch that was left, without what the newest timeline holds"
	}
	return f
}

// held looks whether queries hold the replay up: with max_standby_streaming_delay = -1 they may for ever, and a promotion would wait
// for them too.
func (m *promoting) held(ctx context.Context, s sample) error {
	var pids string
	err := m.w.conn.QueryRow(ctx, `SELECT coalesce(string_agg(pid::text, ', ' ORDER BY pid), '') FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start < now() - interval '1 minute'`).Scan(&pids)
	if err != nil || pids == "" {
		return err // one record may take its time
	}
	return &dr.Failure{
		What:   fmt.Sprintf("promote the standby of %s: the replay stands at %s", m.w.x.o.System, s.replayed),
		Reason: "queries have run for longer than that, and may hold it up: process " + pids,
		Next:   "end them, with SELECT pg_terminate_backend(PID), and try again; a lower max_standby_streaming_delay does so by itself",
	}
}
