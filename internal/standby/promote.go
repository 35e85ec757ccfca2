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
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
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
	Notes        []string       `json:"notes,omitempty"`       // what went wrong without standing in the way
}

// lookPatience is how long the repository is asked for something.
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
			x.phase(PhaseFollowing) // until the next sample
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
	if err := x.putHistories(ctx); err != nil {
		if !p.AcceptLoss {
			return nil, err
		}
		m.note("the repository's timelines could not be read, and the new one may have the number of one of them", err)
	}
	if err := m.become(ctx); err != nil {
		return nil, err
	}
	m.out.RTO = time.Since(m.began)
	x.log.Info("the standby was promoted", dr.KeyTimeline, m.out.Timeline, dr.KeyDuration, m.out.RTO.Round(time.Millisecond).String())
	return m.out, nil
}

func (m *promoting) phase(name string) {
	now := time.Now()
	m.out.Phases = append(m.out.Phases, boot.Phase{Name: name, Took: now.Sub(m.since)})
	m.since = now
}

// end returns the end of what the repository holds now, behind which nothing is served any more.
func (m *promoting) end(ctx context.Context) (view, error) {
	x := m.w.x
	asked, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	v, err := x.tail.freezeAtEnd(asked)
	if ctx.Err() != nil {
		return v, context.Cause(ctx)
	}
	m.out.LogEnd = v.End
	if err != nil {
		if !m.p.AcceptLoss {
			return v, dr.Fail(fmt.Sprintf("promote the standby of %s: the repository cannot be asked for the end of its log", x.o.System), err,
				"try again, or run it on another replica with standby run --site; --accept-loss promotes with what was received")
		}
		m.lost("what the repository holds behind " + v.End.String() + ": it could not be asked")
		return v, nil
	}
	// What a primary has sent to the server is replayed too: nothing of that is missing, although no replica ever had it.
	if s, err := x.ask(asked, m.w.conn); err == nil && v.left(s.received) == nil && s.received > v.End {
		v.End = s.received
		if v.Next <= v.End {
			v.Next = 0
		}
	}
	if more := v.unsent(); more != "" {
		m.out.Notes = append(m.out.Notes, more)
	}
	missing, note, err := x.tail.missing(asked, v)
	switch {
	case ctx.Err() != nil:
		return v, context.Cause(ctx)
	case err != nil && !m.p.AcceptLoss:
		return v, dr.Fail(fmt.Sprintf("promote the standby of %s: the repository cannot be asked whether all of its log is there", x.o.System), err,
			"try again, or run it on another replica with standby run --site; --accept-loss promotes with what is there")
	case err != nil:
		m.lost(fmt.Sprintf("whether log is missing behind %s could not be checked: %v", v.End, err))
	case missing != "" && !m.p.AcceptLoss:
		return v, &dr.Failure{
			What: fmt.Sprintf("promote the standby of %s: log is missing", x.o.System), Reason: missing,
			Next: "look for it at another site: holdfast geo status; --accept-loss does without",
		}
	case missing != "":
		m.lost(missing)
	case note != "":
		m.out.Notes = append(m.out.Notes, note)
	}
	return v, nil
}

// unsent says what the primary had on the timeline that is served, which never came.
func (v view) unsent() string {
	if v.Way == nil || v.Session != v.Way.Timeline || v.PrimaryEnd <= v.End {
		return ""
	}
	return fmt.Sprintf("the primary said that its log goes to %s, and what lies behind %s did not come", v.PrimaryEnd, v.End)
}

// lost notes what is missing.
func (m *promoting) lost(what string) {
	m.out.Missing = strings.TrimPrefix(m.out.Missing+"; "+what, "; ")
}

// putHistories shows the server every timeline that the repository knows, so that it does not choose one of them as its own
// (timeline.c, findNewestTimeLine).
func (x *run) putHistories(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	log := x.tail.current()
	if log == nil {
		return errors.New("the repository has not been opened")
	}
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

// become promotes the server, and writes once. Once the server has said that it is promoted, nothing is an error any more.
func (m *promoting) become(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // what has begun cannot be taken back: it is seen through
	if err := m.pgPromote(ctx); err != nil {
		return err
	}
	m.phase("promotion")
	x := m.w.x
	if err := m.query(ctx, currentTimeline, &m.out.Timeline); err != nil {
		m.note("the timeline could not be read", err)
	}
	if err := x.place.write(record{Settings: x.o.Settings, Promoted: time.Now(), Timeline: m.out.Timeline}); err != nil {
		m.note("the promotion could not be noted", err) // the directory itself says so too
	}
	var at string
	if err := m.query(ctx, "SELECT pg_logical_emit_message(true, 'holdfast', 'promoted')::text", &at); err != nil {
		m.note("the first write failed", err)
	}
	m.phase("first write")
	return nil
}

// pgPromote asks the server to promote itself. Where it gives no answer, another connection tells what has become of it.
func (m *promoting) pgPromote(ctx context.Context) error {
	var promoted bool
	err := m.w.conn.QueryRow(ctx, "SELECT pg_promote(true, 86400)").Scan(&promoted)
	if err == nil && promoted {
		return nil
	}
	if err == nil {
		err = errors.New("pg_promote gave up after a day")
	}
	var recovering bool
	if asked := m.query(ctx, "SELECT pg_is_in_recovery()", &recovering); asked != nil || recovering {
		return errors.Join(err, asked)
	}
	m.note("the server did not answer when it was promoted, and is a primary", err)
	return nil
}

// query asks for one value, over a new connection where the first one fails.
func (m *promoting) query(ctx context.Context, sql string, value any) error {
	w := m.w
	if w.conn != nil && w.conn.QueryRow(ctx, sql).Scan(value) == nil {
		return nil
	}
	w.close(ctx)
	conn, err := w.x.connect(ctx)
	if err != nil {
		return err
	}
	w.conn = conn
	return conn.QueryRow(ctx, sql).Scan(value)
}

// note keeps what went wrong after the promotion, or does not stand in its way.
func (m *promoting) note(what string, err error) {
	m.w.x.log.Error(what, dr.KeyError, err)
	m.out.Notes = append(m.out.Notes, fmt.Sprintf("%s: %v", what, err))
}
