package workspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/fusefs"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Instant is a system that runs on a mount while its data comes.
type Instant struct {
	Recovery *Recovery
	Mount    *mount.Mount
	Resumed  bool // it had been mounted before

	w     *Workspace
	boot  boot.Options
	asked map[string]string // settings, without those that the mount needs
	major int
	help  func()

	stop      context.CancelFunc // ends the hydration
	hydrating sync.WaitGroup
	hydration atomic.Pointer[Hydration]
}

// Hydration is how far the data has come.
type Hydration struct {
	Done  dr.Bytes `json:"doneBytes"`
	Total dr.Bytes `json:"totalBytes"`
	Whole bool     `json:"whole"`           // all is here: the mount may be finished
	Error string   `json:"error,omitempty"` // why it has ended otherwise
}

// Instantly is Recover on a mount: the server runs before its data has come. o.Boot is needed. Where the directory holds a mount of the
// system that was interrupted, it goes on with that one: its target is the one that it had.
func (w *Workspace) Instantly(ctx context.Context, r *repo.Repository, system string, o RecoverOptions, mo mount.Options) (_ *Instant, err error) {
	out := &Recovery{Target: o.Target}
	i := &Instant{Recovery: out, w: w, help: w.help(r, system, out)}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Close())
		}
	}()
	if o.To, err = filepath.Abs(o.To); err != nil {
		return nil, err
	}
	notes, err := mount.Clear(ctx, o.To)
	if err != nil {
		return nil, err
	}
	was, err := mount.ReadState(o.To)
	if err != nil {
		return nil, err
	}
	if was != nil && was.Phase != mount.Laying {
		if was.System != system {
			return nil, &dr.Failure{
				What: fmt.Sprintf("recover %s to %q", system, o.To), Reason: "a mount of " + was.System + " is there, which was interrupted",
				Next: "holdfast mount resume " + o.To + " goes on with it; holdfast mount abort " + o.To + " removes it",
			}
		}
		i.Resumed = true
		o.Target, o.Timeline, o.Loss, o.snapshot = was.Target, was.Timeline, was.Loss, was.Snapshot
	}
	plan, owner, ending, err := w.prepare(ctx, r, system, &o, out)
	if err != nil {
		return nil, err
	}
	out.Notes = append(out.Notes, notes...)
	i.major, i.boot, i.asked = plan.Snapshot.Facts.Major(), *o.Boot, o.Boot.Config
	i.boot.Owner, i.boot.Ending, i.boot.Progress, i.boot.Log = owner, ending, o.Progress, r
	began := time.Now()
	if i.Resumed && restore.RunningServer(o.To) == 0 {
		// Below, where nothing is mounted: a server that was killed could not remove it, and its number may be another process's by now.
		if err := os.Remove(filepath.Join(o.To, "postmaster.pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	mo.Owner, mo.Tablespaces, mo.Timeline, mo.Log = owner, o.Tablespaces, o.Timeline, w.log
	mo.Settings = restore.Settings{RestoreCommand: o.RestoreCommand, Ending: ending, Archiving: o.Archiving, Subscriptions: o.Subscriptions}
	if i.Resumed {
		i.Mount, err = mount.Resume(ctx, r, o.To, mo)
	} else {
		i.Mount, err = mount.Begin(ctx, r, plan, o.To, mo)
	}
	if err != nil {
		return nil, err
	}
	if out.Files = i.Mount.Files; out.Files != nil {
		out.Notes = append(out.Notes, out.Files.Notes...)
	}
	if i.Mount.Writes() == fusefs.Passthrough && i.boot.Config["wal_sync_method"] == "" {
		// The log is written below us then, and so it is synced where it is written so: another way of syncing would ask us.
		i.configure("wal_sync_method", "open_datasync")
	}
	if i.major >= 14 && i.boot.Config["recovery_init_sync_method"] == "" {
		// After a crash the server syncs all its files. syncfs, the other way to do it, never reaches a file system that a process serves.
		i.configure("recovery_init_sync_method", "fsync")
	}
	out.phase("mount", began)
	behind, stop := context.WithCancel(ctx)
	i.stop = stop
	i.hydrating.Go(func() { i.hydrate(behind) })
	if i.Mount.State().Phase != mount.Recovered {
		i.hydrating.Go(func() {
			if err := i.Mount.Foresee(behind, plan); err != nil && behind.Err() == nil {
				w.log.Warn("what the replay will read is not fetched ahead of it any more", dr.KeyError, err)
			}
		})
	}
	return i, i.start(ctx, plan)
}

// configure sets what the server needs while it runs on the mount.
func (i *Instant) configure(name, value string) {
	i.boot.Config = maps.Clone(i.boot.Config)
	if i.boot.Config == nil {
		i.boot.Config = map[string]string{}
	}
	i.boot.Config[name] = value
}

// start starts the server, and sees its recovery through where that is not over.
func (i *Instant) start(ctx context.Context, plan *points.Plan) (err error) {
	out := i.Recovery
	if i.Mount.State().Phase == mount.Recovered || i.Resumed && promoted(i.Mount.Dir) {
		began := time.Now()
		if out.Server, err = boot.Run(ctx, i.Mount.Dir, i.major, i.boot); err != nil {
			return err
		}
		out.phase("start", began)
		return i.Mount.SetPhase(mount.Recovered)
	}
	out.Server, out.Boot, err = boot.Start(ctx, i.Mount.Dir, plan, i.boot)
	if out.Boot != nil {
		out.Phases = append(out.Phases, out.Boot.Phases...)
	}
	if err != nil {
		return err
	}
	return i.Mount.SetPhase(mount.Recovered)
}

// promoted tells whether a server has ended its recovery: it then removes the file that asks for one.
func promoted(dir string) bool {
	for _, name := range []string{"recovery.signal", "standby.signal"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return false
		}
	}
	return true
}

// hydrate brings all the data, and notes how that ended.
func (i *Instant) hydrate(ctx context.Context) {
	err := i.Mount.Hydrate(ctx)
	h := Hydration{Done: dr.Bytes(i.Mount.Hydrated()), Total: dr.Bytes(i.Mount.State().Bytes), Whole: err == nil}
	switch {
	case err == nil:
		i.w.log.Info("all of the data is here", "directory", i.Mount.Dir, "bytes", int64(h.Total))
	case ctx.Err() == nil:
		i.w.log.Error("the hydration has ended before all of the data was here", "directory", i.Mount.Dir, dr.KeyError, err)
	}
	if err != nil {
		h.Error = err.Error()
	}
	i.hydration.Store(&h)
}

// Hydrated waits until the hydration has ended.
func (i *Instant) Hydrated() Hydration {
	i.hydrating.Wait()
	return i.Hydration()
}

// Hydration returns how far the data has come.
func (i *Instant) Hydration() Hydration {
	if h := i.hydration.Load(); h != nil {
		return *h
	}
	return Hydration{Done: dr.Bytes(i.Mount.Hydrated()), Total: dr.Bytes(i.Mount.State().Bytes)}
}

// Finish stops the server, takes the mount away, and starts the server again on the plain directory that is left.
func (i *Instant) Finish(ctx context.Context) error {
	if !i.Hydration().Whole {
		return i.Mount.Finish(ctx) // says so
	}
	switch whole, err := i.Mount.Whole(ctx); { // before the server is stopped: a sync may have failed since
	case err != nil:
		return err
	case !whole:
		return i.Mount.Finish(ctx) // says so
	}
	ran, err := i.StopServer(ctx)
	if err != nil {
		return err
	}
	if err := i.Mount.Finish(ctx); err != nil {
		if !ran {
			return err
		}
		if !i.Mount.Serves() {
			return fmt.Errorf("the server was stopped, and is not started again before the mount is finished: %w", err)
		}
		server, startErr := boot.Run(ctx, i.Mount.Dir, i.major, i.boot)
		if startErr != nil {
			return fmt.Errorf("the server was stopped and does not start again: %w", errors.Join(err, startErr))
		}
		i.Recovery.Server = server
		return err // the server runs on the mount, as before
	}
	if ran {
		i.boot.Config = i.asked
		i.Recovery.Server, err = boot.Run(ctx, i.Mount.Dir, i.major, i.boot)
	}
	return err
}

// StopServer stops whatever server runs on the mount, and tells whether one did.
func (i *Instant) StopServer(ctx context.Context) (bool, error) { return boot.StopIn(ctx, i.Mount.Dir) }

// Close takes the mount away; the server must have been stopped. What is here remains, and is resumed by the same Instantly.
func (i *Instant) Close() error {
	var err error
	if i.stop != nil {
		i.stop()
		i.hydrating.Wait()
	}
	if i.Mount != nil {
		err = i.Mount.Close()
	}
	if i.help != nil {
		i.help()
		i.help = nil
	}
	return err
}
