package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// readControl takes pg_control out of the snapshot and makes it useless without backup_label.
func (x *run) readControl(ctx context.Context, e *repo.Entry) error {
	rd := x.repo.Reader()
	p, err := rd.FilePart(ctx, e, 0)
	if err == nil {
		if p.Len() != 1 || e.Size > 1<<16 {
			return fmt.Errorf("%s has %d bytes", control.Path, e.Size)
		}
		err = rd.Part(ctx, p, []int{0}, func(_ int, plain []byte) error {
			x.control, err = control.Disarm(plain)
			return err
		}, nil)
	}
	if IsDamage(err) {
		x.controlLost = &DamagedRange{File: control.Path, Length: e.Size, Reason: err.Error()}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", control.Path, err)
	}
	return nil
}

// writeControl is the instant at which the directory becomes a cluster.
func (x *run) writeControl() error {
	name := control.Path
	if x.opts.Lazy != nil {
		name = x.opts.Lazy.Control
	}
	if err := x.put(name, x.control); err != nil {
		return err
	}
	return syncDir(filepath.Join(x.opts.To, filepath.Dir(filepath.FromSlash(control.Path))))
}

// put writes a small file of the data directory, whole or not at all; its directory is synced by the caller.
func (x *run) put(rel string, content []byte) error {
	return x.putWith(rel, func(f *os.File) error {
		_, err := f.Write(content)
		return err
	})
}

// putWith is put for what write writes. After an error of that nothing is there.
func (x *run) putWith(rel string, write func(*os.File) error) error {
	root := x.layout.data.root
	tmp := rel + ".holdfast"
	if err := root.RemoveAll(tmp); err != nil {
		return err
	}
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		return errors.Join(err, f.Close(), root.Remove(tmp))
	}
	if err := errors.Join(x.opts.Owner.chown(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return root.Rename(tmp, rel)
}

// syncDirs makes the names of all files durable.
func (x *run) syncDirs() error {
	dirs := map[string]bool{}
	for _, a := range x.layout.areas() {
		dirs[a.dir] = true
	}
	for _, path := range x.dirs {
		a, rel, err := x.layout.place(path)
		if err != nil {
			return err
		}
		dirs[filepath.Join(a.dir, filepath.FromSlash(rel))] = true
	}
	for d := range dirs {
		if err := syncDir(d); err != nil {
			return err
		}
	}
	return nil
}
