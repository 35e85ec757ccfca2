package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
)

// begin makes the directories, takes the journal, and makes sure that nothing can be started from here on.
func (x *run) begin(ctx context.Context) (err error) {
	areas := x.layout.areas()
	for _, a := range areas {
		a.maxFolders = maxFolders / len(areas)
		if err := x.opts.Owner.mkdirAll(a.dir); err != nil {
			return err
		}
		if a.root, err = os.OpenRoot(a.dir); err != nil {
			return err
		}
	}
	m := x.plan.Snapshot.Manifest
	x.result.Resumed = x.state == targetOurs || x.state == targetOurDelta
	x.journal, err = openJournal(x.opts.To, journalHead{x.plan.System, m.ID, m.Root, x.state == targetCluster}, x.result.Resumed)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.journal.close())
		}
	}()
	if x.state != targetEmpty {
		x.stillStopped(ctx)
		if _, err := x.layout.data.root.Lstat(control.Path); err == nil {
			// It was complete already, and a server may have run on it since. Once pg_control is gone nothing tells.
			if err := x.journal.distrust(); err != nil {
				return err
			}
		}
		if err := x.disarm(); err != nil {
			return err
		}
	}
	if err := x.makeDirs(); err != nil {
		return err
	}
	if err := x.linkTablespaces(); err != nil {
		return err
	}
	// Also of an interrupted restore: a Delta may have ended before it had removed everything.
	if x.state != targetEmpty {
		return x.removeExtra()
	}
	return nil
}

// disarm takes away what a server starts from, durably, before anything else changes.
func (x *run) disarm() error {
	for _, name := range []string{control.Path, "backup_label", "tablespace_map", "recovery.signal", "standby.signal", "postmaster.pid"} {
		if err := x.layout.data.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, d := range []string{filepath.Join(x.opts.To, "global"), x.opts.To} {
		if err := syncDir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// makeDirs makes the snapshot's directories, also those that a base backup leaves empty. What stands in the
// place of one and is no directory is removed: a link in an old data directory is not followed.
func (x *run) makeDirs() error {
	for _, path := range x.dirs {
		a, rel, err := x.layout.place(path)
		if err != nil {
			return err
		}
		if rel == "." {
			continue
		}
		if err := x.makeDir(a, rel); err != nil {
			return err
		}
	}
	return nil
}

func (x *run) makeDir(a *area, rel string) error {
	fi, err := a.root.Lstat(rel)
	if err == nil && !fi.IsDir() {
		if fi.Mode()&fs.ModeSymlink != 0 {
			x.note("%s was a link in the target; it was removed, what it points to was not touched", filepath.Join(a.dir, rel))
		}
		if err := a.root.Remove(rel); err != nil {
			return err
		}
	}
	if err != nil || !fi.IsDir() {
		if err := a.root.Mkdir(rel, 0o700); err != nil {
			return err
		}
	}
	// Also of one that is there: an earlier run may have been killed when it had made it.
	return x.opts.Owner.lchown(a.root, rel)
}

// linkTablespaces makes the links in pg_tblspc. They stand before the first file of a tablespace is written,
// so that an interrupted restore knows its own directories again.
func (x *run) linkTablespaces() error {
	for oid, a := range x.layout.spaces {
		rel := fmt.Sprintf("%s/%d", tablespaceDir, oid)
		if have, err := os.Readlink(x.link(oid)); err == nil && have == a.dir {
			continue
		}
		if err := x.layout.data.root.RemoveAll(rel); err != nil {
			return err
		}
		// The link leads out, as it must; its place does not, whatever stands for pg_tblspc meanwhile.
		if err := x.layout.data.root.Symlink(a.dir, rel); err != nil {
			return err
		}
		if err := x.opts.Owner.lchown(x.layout.data.root, rel); err != nil {
			return err
		}
	}
	if len(x.layout.spaces) == 0 {
		return nil
	}
	return syncDir(filepath.Join(x.opts.To, tablespaceDir))
}

// removeExtra removes what the directory has and the snapshot has not.
func (x *run) removeExtra() error {
	for oid, a := range x.layout.spaces {
		prefix := fmt.Sprintf("%s/%d", tablespaceDir, oid)
		x.addDir(prefix)
		if err := x.removeBelow(a, prefix+"/"); err != nil {
			return err
		}
	}
	if err := x.removeBelow(x.layout.data, ""); err != nil {
		return err
	}
	switch {
	case len(x.result.Old) > 0:
		x.note("what is on disk of the lost parts of the tree is of the cluster that was here before, and of another moment than the rest")
	case x.result.Rescued > 0:
		x.note("%s; what is on disk of the lost parts of the tree is whole", rescued(x.result.Rescued))
	}
	return nil
}

// removeBelow removes from an area, whose tree paths begin with prefix, what the snapshot has not, but for the last copies
// of what was in those parts of the tree that are lost.
func (x *run) removeBelow(a *area, prefix string) error {
	var doubtful []string // directories that stay if they hold such a file
	err := fs.WalkDir(a.root.FS(), ".", func(rel string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := prefix + rel
		if rel == "." || path == journalName {
			return nil
		}
		if d.IsDir() {
			if x.isDir.has(path) {
				return nil
			}
			if x.mayHoldLost(path) {
				doubtful = append(doubtful, rel)
				return nil
			}
			if err := a.root.RemoveAll(rel); err != nil {
				return err
			}
			return fs.SkipDir
		}
		link := d.Type()&fs.ModeSymlink != 0
		if (d.Type().IsRegular() && x.files.has(path)) || (link && x.isDir.has(path) && strings.HasPrefix(path, tablespaceDir+"/")) {
			return nil
		}
		if x.isLost(path) && d.Type().IsRegular() && (x.rescue(path, a, rel) || x.leaveOld(path)) {
			return nil
		}
		return a.root.Remove(rel)
	})
	if err != nil {
		return err
	}
	for _, rel := range slices.Backward(doubtful) { // the inner ones first
		switch err := a.root.Remove(rel); {
		case errors.Is(err, fs.ErrExist): // it is not empty
			x.addDir(prefix + rel)
		case err != nil:
			return err
		}
	}
	return nil
}
