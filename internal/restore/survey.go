package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/walserve"
)

// leftOut are files of the source that would mislead the recovered server; the restore writes its own.
var leftOut = map[string]bool{
	"backup_label": true, "tablespace_map": true, "recovery.signal": true, "standby.signal": true,
	"postmaster.pid": true, "postmaster.opts": true, journalName: true, walserve.PolicyName: true,
}

// walk calls fn for every entry of the snapshot's tree that is to be written, with its place. It goes around parts of
// the tree that the repository has lost, and notes them.
func (x *run) walk(ctx context.Context, fn func(path string, e *repo.Entry, a *area, rel string) error) error {
	root, err := x.plan.Snapshot.Manifest.RootID()
	if err != nil {
		return err
	}
	return x.repo.Reader().WalkAround(ctx, root, func(path string, e *repo.Entry) error {
		a, rel, err := x.layout.place(path)
		if err != nil || leftOut[path] {
			return err
		}
		if future, err := x.isFuture(ctx, path); err != nil || future {
			return err
		}
		return fn(path, e, a, rel)
	}, x.losePaths)
}

// survey walks the tree once: it proves the paths, sums the sizes, and reads pg_control.
func (x *run) survey(ctx context.Context) error {
	x.progress.phase("reading the snapshot's tree")
	x.files, x.isDir = newSeen(), newSeen()
	for _, d := range []string{"global", tablespaceDir, "pg_wal"} {
		x.addDir(d)
	}
	err := x.walk(ctx, func(path string, e *repo.Entry, a *area, rel string) error {
		switch e.Type {
		case repo.TypeDir:
			x.addDir(path)
		case repo.TypeSymlink:
			return x.surveyLink(path, e)
		case repo.TypeFile:
			x.surveyFile(path, e, a, rel)
			if path == control.Path {
				return x.readControl(ctx, e)
			}
		default:
			return fmt.Errorf("the snapshot has %q of the unknown type %d", path, e.Type)
		}
		return nil
	})
	if err == nil && x.control == nil && x.controlLost == nil && !x.isLost(control.Path) {
		err = errors.New("the snapshot has no " + control.Path)
	}
	if err == nil && x.total == 0 && len(x.result.Lost) > 0 {
		err = fmt.Errorf("of its tree %s is lost: %s", x.result.Lost[0], x.result.Lost[0].Reason)
	}
	if err != nil {
		return dr.Fail(fmt.Sprintf("restore %s: snapshot %s cannot be restored", x.plan.System, x.plan.Snapshot.Manifest.ID), err,
			"choose another snapshot with an earlier --at, or another replica")
	}
	return x.refuseDelta()
}

// addDir notes a directory, and first those above it: a tree may list what is in a directory without the directory, whose
// own entry may be lost.
func (x *run) addDir(dir string) {
	if dir == "." || x.isDir.has(dir) {
		return
	}
	x.addDir(path.Dir(dir))
	x.isDir.add(dir)
	x.dirs = append(x.dirs, dir)
}

func (x *run) surveyFile(name string, e *repo.Entry, a *area, rel string) {
	x.addDir(path.Dir(name))
	x.total += e.Size
	a.need += e.Size
	x.haveConf(name)
	if x.state == targetEmpty {
		return
	}
	x.files.add(name)
	x.lots.offer(name, e)
	if fi, err := os.Lstat(filepath.Join(a.dir, filepath.FromSlash(rel))); err == nil && fi.Mode().IsRegular() {
		a.have += min(fi.Size(), e.Size)
	}
}

// surveyLink never makes a link that leads out of the target: the tablespaces' links are made anew, pg_wal
// becomes a directory, and of others only the person is told.
func (x *run) surveyLink(path string, e *repo.Entry) error {
	switch {
	case strings.HasPrefix(path, tablespaceDir+"/"):
	case path == "pg_wal":
		x.addDir(path)
		x.note("pg_wal was a link to %s at the source; here it is a directory", e.Link)
	default:
		x.note("%s was a link to %s at the source; links out of the data directory are not made", path, e.Link)
	}
	return nil
}

func (x *run) note(format string, args ...any) {
	x.result.Notes = append(x.result.Notes, fmt.Sprintf(format, args...))
}

// reserve is what a recovering server needs beside the snapshot: a few segments of log and what it rewrites.
const reserve = 64 << 20

// checkSpace compares what will be written with what each file system has left.
func (x *run) checkSpace() error {
	type demand struct {
		dir  string
		need int64
	}
	byDevice := map[uint64]*demand{}
	for i, a := range x.layout.areas() {
		at := existing(a.dir)
		var st unix.Stat_t
		if err := unix.Stat(at, &st); err != nil {
			return fmt.Errorf("look at %s: %w", at, err)
		}
		d := byDevice[st.Dev]
		if d == nil {
			d = &demand{dir: at}
			byDevice[st.Dev] = d
		}
		d.need += a.need - a.have
		if i == 0 {
			d.need += reserve
		}
	}
	for _, d := range byDevice {
		var st unix.Statfs_t
		if err := unix.Statfs(d.dir, &st); err != nil {
			return fmt.Errorf("ask for the free space of %s: %w", d.dir, err)
		}
		if free := int64(st.Bavail) * st.Bsize; free < d.need {
			return &dr.Failure{
				What:   fmt.Sprintf("restore %s to %q: the file system is too small", x.plan.System, x.opts.To),
				Reason: fmt.Sprintf("%s has %s left, and %s are needed there", d.dir, dr.Bytes(free), dr.Bytes(d.need)),
				Next:   "choose a --to on a larger file system, or make room",
				Err:    unix.ENOSPC,
			}
		}
	}
	return nil
}

// existing returns the nearest directory above path that exists.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
