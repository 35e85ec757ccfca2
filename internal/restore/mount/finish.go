package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	pgcontrol "github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/fusefs"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
)

// Whole tells whether all files that are still there are.
func (m *Mount) Whole(ctx context.Context) (bool, error) {
	missing := errors.New("a file is not whole")
	err := m.each(ctx, func(_ *area, _ *os.File, id layer.Ident) error {
		if !m.layer.Whole(id.ID) {
			return missing
		}
		return nil
	})
	if errors.Is(err, missing) {
		return false, nil
	}
	return err == nil, err
}

// Finish takes the mount away, after Hydrate: what is below is then a plain data directory. Nobody may use the files. It may be
// repeated where it was interrupted, by FinishUnmounted.
func (m *Mount) Finish(ctx context.Context) error {
	switch whole, err := m.Whole(ctx); {
	case err != nil:
		return err
	case m.opts.ThrowAway || !whole:
		return &dr.Failure{
			What: fmt.Sprintf("finish the mount over %q", m.Dir), Reason: "not all of it is here",
			Next: "holdfast mount list shows how far it is; it may be finished when it is whole",
		}
	}
	if err := m.settled.wait(); err != nil {
		return err
	}
	for _, a := range slices.Backward(m.areas) { // as Close does
		if a.mount == nil {
			continue // by an earlier try
		}
		if err := a.mount.Unmount(); err != nil {
			return dr.Fail(fmt.Sprintf("unmount %q", a.path), err, "stop what runs on it: fuser -m "+a.path+" shows that")
		}
		a.mount = nil
	}
	m.stateMu.Lock()
	m.state.Phase = Plain
	err := m.areas[0].write(&m.state)
	m.stateMu.Unlock()
	if err := errors.Join(err, m.Close()); err != nil {
		return err
	}
	return FinishUnmounted(ctx, m.Dir)
}

// Serves tells whether all of it is mounted.
func (m *Mount) Serves() bool {
	return !m.closed && !slices.ContainsFunc(m.areas, func(a *area) bool { return a.mount == nil })
}

// FinishUnmounted does the last steps of Finish, where they were interrupted.
func FinishUnmounted(ctx context.Context, dir string) error {
	s, err := ReadState(dir)
	if err != nil {
		return err
	}
	if s == nil || s.Phase != Plain {
		return fmt.Errorf("the mount over %q is not to be finished", dir)
	}
	m := &Mount{Dir: dir, state: *s}
	for _, a := range s.Areas {
		if err := m.hold(a); err != nil {
			return errors.Join(err, m.Close())
		}
	}
	// The attributes tell nobody anything any more.
	err = m.each(ctx, func(_ *area, f *os.File, _ layer.Ident) error { return fusefs.ForgetIdent(f) })
	if err == nil {
		err = m.armed()
	}
	if err := errors.Join(err, m.Close()); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, StateDir)); err != nil {
		return err
	}
	return syncDir(dir)
}

// armed gives pg_control its name: from here on a server starts on the directory by itself.
func (m *Mount) armed() error {
	err := os.Rename(filepath.Join(m.Dir, filepath.FromSlash(controlName)), filepath.Join(m.Dir, filepath.FromSlash(pgcontrol.Path)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, a := range m.areas {
		if err := unix.Syncfs(int(a.dir.Fd())); err != nil {
			return err
		}
	}
	return nil
}

// endFor is how long a process that has unmounted may take to end.
const endFor = 10 * time.Second

// Abort removes what a mount has brought and all that was written to it. It is unmounted, and nobody uses it.
func Abort(ctx context.Context, dir string) error {
	s, err := ReadState(dir)
	if err != nil {
		return err
	}
	if s == nil {
		return &dr.Failure{What: fmt.Sprintf("remove the mount over %q", dir), Reason: "there is none", Next: "holdfast mount list shows which there are"}
	}
	b, err := openBelow(dir)
	if err != nil {
		return err
	}
	if err := b.openState(); err != nil {
		return errors.Join(err, b.close())
	}
	lock, err := b.lock()
	for late := time.Now().Add(endFor); err != nil && time.Now().Before(late); lock, err = b.lock() { // who has unmounted it may be about to end
		if err := wait(ctx, endFor/200); err != nil {
			return errors.Join(err, b.close())
		}
	}
	if err != nil {
		return errors.Join(err, b.close())
	}
	s.Phase = Laying // if this is interrupted, what is left counts for nothing
	if err = removable(dir, s); err == nil {
		err = b.write(s)
	}
	if err == nil {
		err = remove(dir, s)
	}
	return errors.Join(err, lock.Close(), b.close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
