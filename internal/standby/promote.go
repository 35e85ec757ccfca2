package standby

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// Promotion says how a standby becomes a primary.
type Promotion struct {
	AcceptLoss    bool `json:"acceptLoss"`    // also where log is known to be missing, or the repository cannot be asked
	BesidePrimary bool `json:"besidePrimary"` // also where the source still accepts writes
}

// Promoted is what a promotion reached.
type Promoted struct {
	System       string         `json:"system"`
	Directory    string         `json:"directory"`
	Connection   string         `json:"connection"`
	PID          int            `json:"pid"`
	Phases       []boot.Phase   `json:"phases"`
	RTO          time.Duration  `json:"rtoNs"`
	Timeline     wal.TimelineID `json:"timeline"` // on which it writes
	Replayed     wal.LSN        `json:"replayed"`
	LogEnd       wal.LSN        `json:"logEnd"`                // of what the repository held
	NewestCommit time.Time      `json:"newestCommit,omitzero"` // that was replayed, by the source's clock
	Missing      string         `json:"missing,omitempty"`     // what is known to be lost
}

// lookPatience is how long the repository is asked for the end of its log.
const lookPatience = 30 * time.Second

const currentTimeline = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int8"

// Promote asks whoever keeps the standby of a system on this host to promote it. ok is false where nobody does.
func Promote(ctx context.Context, w *workspace.Workspace, system string, p Promotion) (_ *Promoted, ok bool, err error) {
	a, err := sidecar.Ask[question, reply](ctx, filepath.Join(w.SystemPath(system), placeName, askName), question{Promote: &p})
	if err != nil {
		return nil, false, context.Cause(ctx)
	}
	if a.Promoted == nil {
		return nil, true, &dr.Failure{What: a.What, Reason: a.Reason, Next: a.Next}
	}
	return a.Promoted, true, nil
}

// Left returns the settings of a standby that nobody keeps now.
func Left(w *workspace.Workspace, system string) (Settings, error) {
	rec, ok, err := readRecord(filepath.Join(w.SystemPath(system), placeName))
	switch {
	case err != nil:
		return Settings{}, err
	case !ok:
		return Settings{}, dr.Fail("promote the standby of "+system, errors.New("none was ever kept here"), "holdfast standby run "+system+" --to DIR, or holdfast restore")
	case !rec.Promoted.IsZero():
		return Settings{}, dr.Fail("promote the standby of "+system, fmt.Errorf("it was promoted at %s UTC already, in %s", rec.Promoted.UTC().Format("2006-01-02 15:04:05"), rec.Dir), "")
	}
	return rec.Settings, nil
}

// promoting is one promotion.
type promoting struct {
	w     *watcher
	p     Promotion
	out   *Promoted
	began time.Time
	since time.Time
}

// promote makes the standby a primary. After an error it goes on as a standby.
func (w *watcher) promote(ctx context.Context, p Promotion) (_ *Promoted, err error) {
	x := w.x
	x.phase(PhasePromoting)
	x.log.Info("the standby is promoted")
	defer func() {
		if err != nil {
			x.tail.thaw()
			x.log.Error("the standby was not promoted", dr.KeyError, err)
		}
	}()
	m := &promoting{w: w, p: p, began: time.Now(), out: &Promoted{System: x.o.System, Directory: x.o.Dir, Connection: x.connString("postgres"), PID: x.server.pid}}
	m.since = m.began
	if !p.BesidePrimary {
		if err := x.noPrimary(ctx); err != nil {
			return nil, err
		}
	}
	m.phase("the source was asked")
	v, err := m.end(ctx)
	if err != nil {
		return nil, err
	}
	m.phase("end of the log")
	if err := m.replay(ctx, v); err != nil {
		return nil, err
	}
	m.phase("log replay")
	if err := x.putHistories(ctx); err != nil && !p.AcceptLoss {
		return nil, err
	}
	if err := m.become(ctx); err != nil {
		return nil, err
	}
	m.out.RTO = time.Since(m.began)
	if err := x.place.write(record{Settings: x.o.Settings, Promoted: time.Now(), Timeline: m.out.Timeline}); err != nil {
		x.log.Error("the promotion could not be noted", dr.KeyError, err) // the directory itself says so too
	}
	x.log.Info("the standby was promoted", dr.KeyTimeline, m.out.Timeline, dr.KeyDuration, m.out.RTO.Round(time.Millisecond).String())
	return m.out, nil
}

func (m *promoting) phase(name string) {
	now := time.Now()
	m.out.Phases = append(m.out.Phases, boot.Phase{Name: name, Took: now.Sub(m.since)})
	m.since = now
}

// noPrimary refuses where the source, as the configuration names it, accepts writes: two primaries would share one history.
func (x *run) noPrimary(ctx context.Context) error {
	dsn := x.sys.Postgres.Connection.DSN()
	if dsn == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := cluster.Connect(ctx, dsn)
	if err != nil {
		return nil //nolint:nilerr // it is gone, as it should
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only asked
	info, err := cluster.Identify(ctx, conn)
	// Where its directory lies says nothing: hosts use the same path. A connection that leads to the standby itself finds a recovery.
	if err != nil || info.InRecovery || info.SystemID != x.tail.system.ID {
		return nil //nolint:nilerr // as above
	}
	return &dr.Failure{
		What:   fmt.Sprintf("promote the standby of %s: the source accepts writes", x.o.System),
		Reason: fmt.Sprintf("it answers at its configured connection, on timeline %d at %s; with two primaries what is written to one of them is lost", info.Timeline, info.LSN),
		Next:   "stop the source and see that it does not come back; for a copy beside it on purpose, add --beside-primary",
	}
}

// end returns the end of what the repository holds now, behind which nothing is served any more.
func (m *promoting) end(ctx context.Context) (view, error) {
	x := m.w.x
	asked, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	err := x.tail.look(asked)
	v := x.tail.freeze()
	if ctx.Err() != nil {
		return v, context.Cause(ctx)
	}
	if err != nil {
		if !m.p.AcceptLoss {
			return v, dr.Fail(fmt.Sprintf("promote the standby of %s: the repository cannot be asked for the end of its log", x.o.System), err,
				"try again, or run it on another replica with standby run --site; --accept-loss promotes with what was received")
		}
		m.out.Missing = "what the repository holds behind " + v.End.String() + ": it could not be asked"
	}
	m.out.LogEnd = v.End
	if err == nil {
		if m.out.Missing, err = x.missing(ctx, v); err != nil && !m.p.AcceptLoss {
			return v, err
		}
	}
	if m.out.Missing != "" && !m.p.AcceptLoss {
		return v, &dr.Failure{
			What: fmt.Sprintf("promote the standby of %s: log is missing", x.o.System), Reason: m.out.Missing,
			Next: "look for it at another site: holdfast geo status; --accept-loss does without",
		}
	}
	return v, nil
}

// missing says what is known to be missing behind the log's end.
func (x *run) missing(ctx context.Context, v view) (string, error) {
	if v.Next != 0 {
		return fmt.Sprintf("the log has a gap from %s to %s", v.End, v.Next), nil
	}
	r, err := x.repository(ctx)
	if err != nil {
		return "", err
	}
	all, err := points.Load(ctx, r, x.o.System)
	if err != nil {
		return "", err
	}
	plan, err := all.Plan(ctx, points.Target{Kind: points.Latest}, points.Timeline{}, points.AllowLoss)
	if err != nil {
		return "", nil //nolint:nilerr // snapshots may be gone, and the standby has all that it needs
	}
	if mark := plan.Range.Mark; mark > v.End {
		return fmt.Sprintf("the log ends at %s, and its high-water mark says that it was stored up to %s", v.End, mark), nil
	}
	return "", nil
}

// replay waits until everything up to the end has been replayed.
func (m *promoting) replay(ctx context.Context, v view) error {
	w, x := m.w, m.w.x
	again := time.NewTicker(20 * time.Millisecond) // the replay goes on in another process: ask
	defer again.Stop()
	waits := 0
	var at wal.LSN
	for {
		s, err := x.ask(ctx, w.conn)
		if err != nil {
			return err
		}
		m.out.Replayed, m.out.NewestCommit = s.replayed, s.commit
		x.observe(s, nil)
		x.phase(PhasePromoting)
		switch {
		case !s.recovering:
			return errors.New("somebody else has promoted it")
		case s.replayed >= v.End:
			return nil
		case s.paused:
			if _, err := w.conn.Exec(ctx, "SELECT pg_wal_replay_resume()"); err != nil {
				return err
			}
		case s.waiting && s.received >= v.End && s.replayed == at:
			waits++
		default:
			waits = 0
		}
		at = s.replayed
		if waits > 5 {
			// The log's last bytes are most often a part of a record, whose rest was never stored. Where a whole one follows, a
			// busy machine may not have let the server look at it yet.
			whole, err := boot.RecordFollows(x.o.Dir, v.Way, x.tail.system.SegmentSize, s.replayed, v.End)
			if err == nil && !whole {
				return nil
			}
			if waits > stuckAfter {
				return m.stuck(s.replayed, v.End, err)
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stuckAfter is how many looks in a row, of 20 ms, a replay waits before a record that it has not taken: a minute.
const stuckAfter = 3000

// stuck says that the log cannot be replayed to its end; nil where a person said that this does not matter.
func (m *promoting) stuck(at, end wal.LSN, err error) error {
	m.out.Missing = strings.TrimPrefix(m.out.Missing+"; ", "; ") + fmt.Sprintf("the log from %s to %s cannot be replayed", at, end)
	if m.p.AcceptLoss {
		return nil
	}
	return &dr.Failure{
		What:   fmt.Sprintf("promote the standby of %s: the replay stopped at %s, and the log goes on to %s", m.w.x.o.System, at, end),
		Reason: "the record there cannot be read by PostgreSQL: the log is damaged", Err: err,
		Next: "see " + m.w.x.logFile() + "; --accept-loss promotes with what was replayed",
	}
}

// putHistories shows the server every timeline that the repository knows, so that it does not choose one of them as its own
// (timeline.c, findNewestTimeLine).
func (x *run) putHistories(ctx context.Context) error {
	r, err := x.repository(ctx)
	if err != nil {
		return err
	}
	log := r.Log(x.o.System)
	names, err := log.Files(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		n, err := wal.ParseName(strings.ToUpper(strings.TrimSuffix(name, ".history"))+".history", x.tail.system.SegmentSize)
		if err != nil || !strings.HasSuffix(name, ".history") {
			continue
		}
		b, err := log.File(ctx, pg.HistoryFile(n.Timeline))
		if err == nil {
			err = replaceFile(filepath.Join(x.o.Dir, "pg_wal", wal.HistoryName(n.Timeline)), b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// become promotes the server, and writes once.
func (m *promoting) become(ctx context.Context) error {
	conn := m.w.conn
	ctx = context.WithoutCancel(ctx) // what has begun cannot be taken back: it is seen through
	var promoted bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, 86400)").Scan(&promoted); err != nil {
		return err
	}
	if !promoted {
		return errors.New("pg_promote gave up after a day")
	}
	m.phase("promotion")
	var tl int64
	if err := conn.QueryRow(ctx, currentTimeline).Scan(&tl); err != nil {
		return err
	}
	m.out.Timeline = wal.TimelineID(tl)
	if _, err := conn.Exec(ctx, "SELECT pg_logical_emit_message(true, 'holdfast', 'promoted')"); err != nil {
		return fmt.Errorf("the first write after the promotion: %w", err)
	}
	m.phase("first write")
	return nil
}
