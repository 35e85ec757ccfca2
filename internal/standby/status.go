package standby

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// Phase is what a standby is doing.
type Phase string

// The phases.
const (
	PhaseNone      Phase = "not running" // nobody keeps it
	PhaseRestoring Phase = "restoring"
	PhaseStarting  Phase = "starting" // until it answers queries
	PhaseFollowing Phase = "following"
	PhasePromoting Phase = "promoting"
	PhasePromoted  Phase = "promoted"
)

// Source is where the log comes from.
type Source string

// The sources.
const (
	FromRepository Source = "repository"
	FromPrimary    Source = "primary"
)

// Status is how a standby stands.
type Status struct {
	System     string         `json:"system"`
	Directory  string         `json:"directory"`
	Phase      Phase          `json:"phase"`
	Connection string         `json:"connection,omitempty"`
	Timeline   wal.TimelineID `json:"timeline,omitempty"` // that is replayed
	Received   wal.LSN        `json:"received"`           // that the server has on its disk
	Replayed   wal.LSN        `json:"replayed"`           // as the server says
	LogEnd     wal.LSN        `json:"logEnd"`             // of what the repository holds without a gap
	// LastCommit is of the last transaction that was replayed, by the source's clock.
	LastCommit time.Time `json:"lastCommit,omitzero"`
	// Lag is from there to the newest commit that the repository is known to hold, and LagBytes what is still to be replayed.
	Lag      time.Duration `json:"lagNs"`
	LagBytes dr.Bytes      `json:"lagBytes"`
	// LogTime is a moment, by the source's clock, up to which the repository holds everything, or the primary has sent it, and LogAge
	// how long that is ago here: a source that does nothing says so once a minute.
	LogTime time.Time     `json:"logTime,omitzero"`
	LogAge  time.Duration `json:"logAgeNs"`
	Looked  time.Time     `json:"looked,omitzero"` // when the store answered last
	// LogFrom is where the log comes from now; Severed says why that is not the primary, where one was named.
	LogFrom Source `json:"logFrom,omitempty"`
	Severed string `json:"primaryProblem,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// observe makes a status of a sample.
func (x *run) observe(s sample, err error) {
	v, _ := x.tail.state()
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	st := &x.status
	st.LogEnd, st.Received, st.Looked, st.Timeline = v.End, v.Has, v.Looked, v.Session
	st.Connection = x.connString("postgres")
	if err == nil {
		st.Phase = PhaseFollowing
		st.Replayed, st.LastCommit = s.replayed, s.commit
	} else if st.Phase != PhaseStarting {
		st.Phase = PhaseStarting
	}
	st.LogFrom, st.Severed = FromRepository, ""
	end := v.End
	if v.Streams {
		st.LogFrom, end = FromPrimary, max(end, v.PrimaryEnd)
	} else if v.Severed != nil {
		st.Severed = v.Severed.Error()
	}
	newest := v.Commit
	if v.Sent < v.End && v.Mark.Source.After(newest.Time) { // what was not sent yet has newer ones
		newest = commit{v.End, v.Mark.Source}
	}
	st.Lag, st.LagBytes = 0, dr.Bytes(end-min(st.Replayed, end))
	if st.Replayed < newest.LSN && !st.LastCommit.IsZero() {
		st.Lag = max(0, newest.Time.Sub(st.LastCommit))
	}
	st.LogTime = v.Clock
	if v.Mark.Source.After(v.Clock) && wal.LSN(v.Mark.LSN) <= v.End {
		st.LogTime = v.Mark.Source
	}
	st.LogAge = 0
	if !st.LogTime.IsZero() {
		st.LogAge = max(0, now.Sub(st.LogTime))
	}
	switch {
	case v.Refused != "":
		st.Problem = v.Refused
	case v.Foreign != nil:
		st.Problem = v.Foreign.Error()
	case v.Problem != nil:
		st.Problem = "the log cannot be read in the repository: " + v.Problem.Error()
	case v.Unread != nil:
		st.Problem = "the log cannot be read in the repository: " + v.Unread.Error()
	case v.Next != 0 && now.Sub(v.Holed) > checkEvery:
		st.Problem = x.waits
	case err != nil && !notYet(err):
		st.Problem = "its server cannot be asked: " + err.Error()
		if refused := new(pgconn.PgError); errors.As(err, &refused) && strings.HasPrefix(refused.Code, "28") {
			st.Problem += "; --superuser names the role that this process connects as"
		}
		if x.unasked != st.Problem {
			x.log.Error("the standby's server cannot be asked", dr.KeyError, err)
		}
		x.unasked = st.Problem
	case err != nil && v.Sent >= v.End && v.Way != nil:
		st.Problem = "it waits for more log before its data is consistent"
	default:
		st.Problem = ""
	}
}

// notYet tells whether a server that cannot be asked will answer by itself: it has no socket yet, or is not consistent (57P03).
func notYet(err error) bool {
	if refused := new(pgconn.PgError); errors.As(err, &refused) {
		return refused.Code == "57P03"
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// gap notes what is waited for.
func (x *run) gap(missing string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.waits != missing {
		x.log.Error("the standby cannot go on", dr.KeyReason, missing)
	}
	x.waits = missing
}

func (x *run) phase(p Phase) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.status.Phase = p
}

func (x *run) problem(text string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.status.Problem = text
}

func (x *run) report() Status {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.status
	s.System, s.Directory = x.o.System, x.o.Dir
	return s
}

// question is what another process asks; Promote nil asks for the status.
type question struct {
	Promote *Promotion `json:"promote,omitempty"`
}

// reply is the answer.
type reply struct {
	Status   Status    `json:"status"`
	Promoted *Promoted `json:"promoted,omitempty"`
	What     string    `json:"what,omitempty"` // of an error
	Reason   string    `json:"reason,omitempty"`
	Next     string    `json:"next,omitempty"`
}

// request is a promotion that somebody waits for.
type request struct {
	Promotion
	ctx   context.Context // ends when nobody waits any more: then it is called off, until the server has been told
	asked bool            // by another process
	reply func(*Promoted, error)
}

// forEver is how long nobody need ask.
const forEver = 100 * 365 * 24 * time.Hour

// answer answers other processes until ctx ends.
func (x *run) answer(ctx context.Context) error {
	at := sidecar.Place{Dir: filepath.Join(x.place.dir, askName), HangUp: true}
	var promoted atomic.Bool
	err := sidecar.Serve(ctx, at, forEver, func(ctx context.Context, q question) (reply, bool) {
		if q.Promote == nil {
			return reply{Status: x.report()}, false
		}
		a := x.take(ctx, *q.Promote, lookPatience)
		promoted.Store(a.Promoted != nil)
		return a, a.Promoted != nil // with the promotion all is over
	})
	if err == nil && ctx.Err() == nil && !promoted.Load() {
		err = errors.New("the socket at which the standby is asked does not work any more")
	}
	return err
}

// take hands a promotion to the watcher and returns its answer. What cannot begin soon is refused: a promotion that waits is one
// that happens when nobody expects it any more.
func (x *run) take(ctx context.Context, p Promotion, patience time.Duration) reply {
	refused := &dr.Failure{What: "promote the standby of " + x.o.System, Next: "see holdfast standby status, and try again"}
	switch x.report().Phase {
	case PhaseRestoring:
		refused.Reason = "it is being restored"
		return replyOf(nil, refused)
	case PhasePromoting:
		refused.Reason = "it is being promoted already"
		return replyOf(nil, refused)
	}
	answered := make(chan reply, 1)
	r := request{Promotion: p, ctx: ctx, asked: true, reply: func(p *Promoted, err error) { answered <- replyOf(p, err) }}
	select {
	case x.requests <- r:
		return <-answered
	case <-ctx.Done():
		return reply{} // is not sent any more
	case <-time.After(patience):
		refused.Reason = "its server does not answer queries"
		if s := x.report(); s.Problem != "" {
			refused.Reason += ": " + s.Problem
		}
		return replyOf(nil, refused)
	}
}

func replyOf(p *Promoted, err error) reply {
	a := reply{Promoted: p}
	if f := new(dr.Failure); errors.As(err, &f) {
		a.What, a.Reason, a.Next = f.What, f.Reason, f.Next
	} else if err != nil {
		a.What = err.Error()
	}
	return a
}

// Ask returns how the standby of a system on this host stands; ok is false where none was ever kept.
func Ask(ctx context.Context, w *workspace.Workspace, system string) (s Status, ok bool, err error) {
	dir := filepath.Join(w.SystemPath(system), placeName)
	rec, ok, err := readRecord(dir)
	if err != nil || !ok {
		return s, ok, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a, err := sidecar.Ask[question, reply](ctx, filepath.Join(dir, askName), question{})
	if err == nil {
		return a.Status, true, nil
	}
	s = Status{System: system, Directory: rec.Dir, Phase: PhaseNone, Problem: "nobody keeps it: holdfast standby run goes on with it"}
	if !rec.Promoted.IsZero() {
		s.Phase, s.Problem, s.Timeline = PhasePromoted, "", rec.Timeline
	} else if _, err := os.Stat(rec.Dir); errors.Is(err, fs.ErrNotExist) {
		s.Problem = "its directory is gone"
	}
	return s, true, nil
}
