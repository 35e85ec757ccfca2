package standby

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// prepare makes the directory one that can be started as a standby.
func (x *run) prepare(ctx context.Context, rebuild string) error {
	dir := x.o.Dir
	if rebuild != "" {
		if !overwritable(dir) { // asked again: its server was stopped since
			return x.foreign(restore.RunningServer(dir))
		}
		return x.restore(ctx, restore.Delta)
	}
	mode, whole, err := x.admit()
	if err == nil {
		err = x.place.write(record{Settings: x.o.Settings}) // not before: what is refused here is not what a later promote means
	}
	switch {
	case err != nil:
		return err
	case !whole:
		return x.restore(ctx, mode)
	case restore.RunningServer(dir) != 0:
		return nil // of a run that was killed: it goes on
	}
	return setUpstream(dir, x.place.conninfo())
}

// admit tells how the directory becomes a standby of ours; whole where it is one. It refuses what is somebody else's.
func (x *run) admit() (mode restore.Mode, whole bool, err error) {
	dir := x.o.Dir
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0:
		return restore.Fresh, false, nil
	case err != nil:
		return "", false, dr.Fail("keep a standby of "+x.o.System, err, "choose another --to, or a user who may read it")
	case restore.Unfinished(dir):
		return restore.Delta, false, nil
	}
	ours, err := isOurs(dir)
	if err != nil {
		return "", false, err
	}
	if !ours {
		if pid := restore.RunningServer(dir); pid != 0 || !bool(x.o.Rebuild) {
			return "", false, x.foreign(pid)
		}
		x.o.Rebuild = KeepOthers // once
		return restore.Delta, false, nil
	}
	return "", true, nil
}

// foreign refuses a directory that holds a cluster that is no standby of ours: it may be somebody's only one.
func (x *run) foreign(pid int) error {
	f := &dr.Failure{
		What:   fmt.Sprintf("keep a standby of %s: directory %q holds a cluster that is no standby", x.o.System, x.o.Dir),
		Reason: "it has no standby.signal: it was promoted, or is an old primary",
		Next:   "choose an empty --to; --rebuild brings a stopped cluster back to the repository's newest snapshot, and what only it has is lost",
		Err:    ErrNoStandby,
	}
	does := "accepts writes"
	if isStandby(x.o.Dir) {
		f.What = fmt.Sprintf("keep a standby of %s: directory %q holds a standby of another server", x.o.System, x.o.Dir)
		f.Reason, does = "its primary_conninfo was not written by standby run", "follows another server"
	}
	if pid != 0 {
		f.Reason = fmt.Sprintf("process %d serves it, and %s", pid, does)
		f.Next = "choose an empty --to"
	}
	return f
}

// restore brings the directory to the newest snapshot, as one that follows us.
func (x *run) restore(ctx context.Context, mode restore.Mode) error {
	x.phase(PhaseRestoring)
	pause := firstPause
	for {
		rec, err := x.recover(ctx, mode)
		if err == nil {
			x.log.Info("a snapshot was restored", dr.KeySnapshot, rec.Snapshot, dr.KeyDuration, rec.RTO().Round(time.Millisecond).String(),
				dr.KeyBytes, rec.Files.Bytes, "kept", rec.Files.Kept)
			for _, n := range append(rec.Notes, rec.Files.Notes...) {
				x.log.Info("note", dr.KeyReason, n)
			}
			return nil
		}
		if !x.restored() || ctx.Err() != nil {
			return err // nothing was ever here: a person waits for it
		}
		x.problem(err.Error())
		x.log.Error("the restore failed; it is tried again", dr.KeyError, err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		if pause = min(2*pause, mostPause); restore.Unfinished(x.o.Dir) {
			mode = restore.Delta
		}
	}
}

func (x *run) recover(ctx context.Context, mode restore.Mode) (*workspace.Recovery, error) {
	r, err := x.repository(ctx)
	if err != nil {
		return nil, err
	}
	return x.o.Workspace.Recover(ctx, r, x.o.System, workspace.RecoverOptions{
		Target: points.Target{Kind: points.Latest}, Loss: points.AllowLoss, To: x.o.Dir, Tablespaces: x.o.Tablespaces, Mode: mode,
		Ending: restore.Follow, Upstream: x.place.conninfo(), BinDir: x.o.BinDir, Progress: x.o.Progress,
	})
}

// restored tells whether this run has kept the standby before: what fails then is waited for.
func (x *run) restored() bool { return x.tail != nil }

// overwritable tells whether a directory has nothing of its own. A server that ends its recovery removes standby.signal before it
// takes writes (xlog.c, StartupXLOG); that its log is not on the repository's way says nothing, since a promotion is such a log.
func overwritable(dir string) bool { return isStandby(dir) || restore.Unfinished(dir) }

// isStandby tells whether a directory's server would start as a standby.
func isStandby(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "standby.signal"))
	return err == nil
}
