package standby

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/walsender"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// Options say what is kept recovered, and how. Settings is what a later promote of a standby that nobody runs needs too.
type Options struct {
	Settings
	Workspace *workspace.Workspace // of the site whose replica is followed
	Rebuild   Rebuild
	Promote   *Promotion // as soon as the server follows; nil: when somebody asks
	Log       *slog.Logger
	Progress  dr.ProgressFunc
}

// Settings are kept in the standby's state.
type Settings struct {
	System      string            `json:"system"`
	Dir         string            `json:"directory"`
	Site        string            `json:"site,omitempty"`
	Tablespaces map[string]string `json:"tablespaces,omitempty"` // see restore.Options
	BinDir      string            `json:"binDirectory,omitempty"`
	Superuser   string            `json:"superuser,omitempty"` // empty: postgres
	Port        int               `json:"port,omitempty"`      // 0: 5432
	Listen      string            `json:"listen,omitempty"`    // listen_addresses; empty: sockets only
	SocketDir   string            `json:"socketDirectory,omitempty"`
	Every       time.Duration     `json:"everyNs,omitempty"` // between two looks at the log; 0: 1 s
	Primary     config.Connection `json:"primary,omitempty"` // from which the log comes while it answers, without a password; empty: none
}

// Rebuild says whether a cluster that is no standby may be made one.
type Rebuild bool

// The two answers.
const (
	KeepOthers  Rebuild = false
	MakeStandby Rebuild = true // a stopped cluster of the same system is brought back to a snapshot
)

// run is one Run.
type run struct {
	o      Options
	place  place
	log    *slog.Logger
	sys    config.System
	tail   *tail
	server *server // nil while none runs

	lockedOut bool // the cluster's own rules do not let us in

	requests chan request
	first    error // why Options.Promote failed
	asked    bool  // another process has asked for the promotion

	helping sync.Mutex       // guards the two below
	helped  *repo.Repository // as it is open
	endHelp func() int64     // of the other sites

	mu      sync.Mutex // guards the rest
	status  Status
	waits   string // what is missing
	unasked string // why the server could not be asked
}

// Run keeps a standby until ctx ends, when the server is stopped, or until it was promoted, when the server goes on. The result is
// not nil then.
func Run(ctx context.Context, o Options) (_ *Promoted, err error) {
	x := &run{o: o, log: o.Log, requests: make(chan request)}
	if x.o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	if x.o.Every == 0 {
		x.o.Every = time.Second
	}
	if os.Geteuid() == 0 {
		return nil, &dr.Failure{
			What: "keep a standby of " + o.System, Reason: "PostgreSQL does not run as root, and a server that is started again and again has to find everything as its own user",
			Next: "run this as the user that runs PostgreSQL, such as postgres",
		}
	}
	if x.sys, err = o.Workspace.Config.System(o.System); err != nil {
		return nil, err
	}
	dir, err := o.Workspace.SystemDir(o.System)
	if err != nil {
		return nil, err
	}
	if x.place, err = openPlace(filepath.Join(dir, placeName)); err != nil {
		return nil, err
	}
	defer x.place.close()
	if err := x.place.mayRun(x.o); err != nil {
		return nil, err
	}
	defer x.help(nil)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	beside, ctx := errgroup.WithContext(ctx) // without what serves the log, or those who ask, nothing goes on unnoticed
	told := make(chan struct{})
	beside.Go(func() error {
		defer close(told)
		return x.answer(ctx)
	})
	done, err := x.keep(ctx, beside)
	if x.asked && done != nil {
		select {
		case <-told: // whoever asked for the promotion has the answer
		case <-time.After(answerPatience):
		}
	}
	stop()
	return done, errors.Join(err, beside.Wait())
}

// answerPatience is how long whoever asked for a promotion may take to read the answer.
const answerPatience = 10 * time.Second

// errRebuild says that the directory must be brought back to a snapshot.
type errRebuild struct{ reason string }

func (e *errRebuild) Error() string { return e.reason }

// The pauses between two starts of a server that ends.
const (
	firstPause = 500 * time.Millisecond
	mostPause  = 30 * time.Second
	lasting    = time.Minute // a server that ran so long had started well
)

// keep prepares the directory and runs the server, again and again.
func (x *run) keep(ctx context.Context, beside *errgroup.Group) (*Promoted, error) {
	pause := firstPause
	rebuild := ""
	for {
		if err := x.prepare(ctx, rebuild); err != nil {
			return nil, err
		}
		if rebuild != "" {
			x.tail.restored()
		}
		rebuild = ""
		if x.tail == nil {
			if err := x.feed(ctx, beside); err != nil {
				return nil, err
			}
		}
		began := time.Now()
		done, err := x.serve(ctx)
		again, gone, other := new(errRebuild), new(promotedError), new(otherClusterError)
		switch {
		case x.first != nil:
			return nil, errors.Join(x.first, x.stopUnless(ctx, nil))
		case errors.As(err, &gone), x.server == nil: // nothing was ever started: a person waits for it
			return nil, err
		case done != nil || ctx.Err() != nil || errors.As(err, &other):
			return done, errors.Join(err, x.stopUnless(ctx, done))
		case errors.As(err, &again):
			if !overwritable(x.o.Dir) {
				return nil, x.foreign(restore.RunningServer(x.o.Dir)) // somebody promotes it: it is neither stopped nor overwritten
			}
			rebuild = again.reason
			x.log.Warn("the standby is brought back to a newer snapshot", dr.KeyReason, rebuild)
			if err := x.server.stop(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if time.Since(began) > lasting {
			pause = firstPause
		}
		x.problem(err.Error())
		x.log.Error("the server has ended; it is started again", dr.KeyError, err, dr.KeyDuration, pause.String())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

// stopUnless stops the server where it was not promoted: by us, or by somebody else, or by us without an answer.
func (x *run) stopUnless(ctx context.Context, done *Promoted) error {
	if done != nil || !overwritable(x.o.Dir) {
		return nil
	}
	return x.server.stop(ctx)
}

// feed begins to serve the log.
func (x *run) feed(ctx context.Context, beside *errgroup.Group) error {
	d, err := readControl(ctx, x.o.Dir)
	if err != nil {
		return err
	}
	sys := walsender.System{ID: d.SystemID, SegmentSize: d.WALSegmentSize, Major: d.Major()}
	t := newTail(sys, nil, sys.SegmentSize.Floor(d.Redo)) // the repository may be away: the server can be promoted all the same
	t.every, t.logger, t.open, t.reopen = x.o.Every, x.log, x.openLog, x.reopen
	t.primary = x.o.Primary
	t.guard = walserve.Guard{DataDir: x.o.Dir}
	l, err := x.place.listen()
	if err != nil {
		return err
	}
	x.tail = t
	beside.Go(func() error {
		t.follow(ctx)
		return nil
	})
	beside.Go(func() error {
		s := &walsender.Server{Log: t, Progress: t.progress, Logger: x.log}
		return s.Serve(ctx, l)
	})
	return nil
}

// repository returns the repository as it is open now.
func (x *run) repository(ctx context.Context) (*repo.Repository, error) {
	r, err := x.o.Workspace.Repository(ctx, x.sys.Repository)
	if err == nil {
		x.help(r)
	}
	return r, err
}

// help lets the other sites help the repository that is open now; nil ends that.
func (x *run) help(r *repo.Repository) {
	x.helping.Lock()
	defer x.helping.Unlock()
	if r == x.helped {
		return
	}
	if x.endHelp != nil {
		x.endHelp()
	}
	if x.helped, x.endHelp = r, nil; r != nil {
		x.endHelp = x.o.Workspace.Help(r, x.o.System)
	}
}

// openLog opens the log for the first time. That of another cluster is not served.
func (x *run) openLog(ctx context.Context) (*repo.Log, error) {
	r, err := x.repository(ctx)
	if err != nil {
		return nil, err
	}
	log := r.Log(x.o.System)
	id, ok, err := capture.ReadLogIdentity(ctx, log)
	if err == nil && ok && id.SystemID != x.tail.system.ID {
		err = &otherClusterError{dr.Failure{
			What:   fmt.Sprintf("keep a standby of %s: directory %q belongs to another cluster", x.o.System, x.o.Dir),
			Reason: fmt.Sprintf("its system identifier is %d, that of %s is %d", x.tail.system.ID, x.o.System, id.SystemID),
			Next:   "choose an empty --to",
		}}
	}
	return log, err
}

// otherClusterError ends the run.
type otherClusterError struct{ f dr.Failure }

func (e *otherClusterError) Error() string { return e.f.Error() }
func (e *otherClusterError) Unwrap() error { return &e.f }

// reopen opens the repository with the keys of today.
func (x *run) reopen(ctx context.Context) (*repo.Log, error) {
	if err := x.o.Workspace.Reopen(x.sys.Repository); err != nil {
		return nil, err
	}
	r, err := x.repository(ctx)
	if err != nil {
		return nil, err
	}
	return r.Log(x.o.System), nil
}
