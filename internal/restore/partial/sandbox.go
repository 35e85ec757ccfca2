package partial

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/restore"
)

const sandboxPrefix = "holdfast-sandbox-"

// sandbox is a directory that only the server's owner enters. It is locked as long as somebody works in it: one that is
// not belongs to an extraction that was killed.
type sandbox struct {
	dir   string
	owner *restore.Owner
	lock  *os.File
}

// sandboxBase is the directory of sandboxes.
func (o *Options) sandboxBase() string {
	if o.Sandbox == "" {
		return os.TempDir()
	}
	return o.Sandbox
}

func (o *Options) makeSandbox() (_ *sandbox, err error) {
	for {
		dir, err := os.MkdirTemp(o.sandboxBase(), sandboxPrefix)
		if err != nil {
			return nil, fmt.Errorf("make the sandbox: %w", err)
		}
		s := &sandbox{dir: dir}
		switch s.lock, err = lockDir(dir, unix.LOCK_EX); {
		case errors.Is(err, fs.ErrNotExist):
			continue // before it was locked, somebody took it for one that was left behind
		case err != nil:
			return nil, errors.Join(err, os.Remove(dir))
		}
		if s.owner, err = restore.ChooseOwner(dir, o.User); err == nil && s.owner != nil {
			err = os.Chown(dir, s.owner.UID, s.owner.GID)
		}
		if err != nil {
			return nil, errors.Join(err, s.remove())
		}
		return s, nil
	}
}

// remove removes the sandbox; nothing runs in it any more.
func (s *sandbox) remove() error { return errors.Join(os.RemoveAll(s.dir), s.lock.Close()) }

// lockDir locks a directory. Where it was removed meanwhile the error is fs.ErrNotExist.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	held, err1 := f.Stat()
	err2 := unix.Flock(int(f.Fd()), how)
	named, err3 := os.Lstat(dir)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !os.SameFile(held, named) {
		return nil, errors.Join(fs.ErrNotExist, f.Close())
	}
	return f, nil
}

// removeAbandoned stops and removes what extractions have left that were killed, each of which takes as much room as its
// cluster. It returns what it did, in words.
func removeAbandoned(ctx context.Context, base string) (notes []string) {
	dirs, err := filepath.Glob(filepath.Join(base, sandboxPrefix+"*")) // base may hold wildcards: then nothing is found
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		if uid, ok := ownerOf(dir); !ok || (os.Geteuid() != 0 && uid != os.Geteuid()) {
			continue
		}
		lock, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // somebody works in it
		}
		err = stopAbandoned(ctx, filepath.Join(dir, "data"))
		if err == nil {
			err = os.RemoveAll(dir)
		}
		if err := errors.Join(err, lock.Close()); err != nil {
			notes = append(notes, fmt.Sprintf("the sandbox %s of an extraction that was killed could not be removed: %v", dir, err))
			continue
		}
		notes = append(notes, fmt.Sprintf("the sandbox %s of an extraction that was killed was removed", dir))
	}
	return notes
}

// ownerOf returns to whom a directory belongs; ok is false for what is none, also for a link to one.
func ownerOf(dir string) (uid int, ok bool) {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	return int(st.Uid), err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// stopAbandoned stops the server of a sandbox's data directory and removes its socket's directory. Others may have made
// all of this up, so only a process in that very directory is stopped, which is of the directory's owner.
func stopAbandoned(ctx context.Context, data string) error {
	uid, ok := ownerOf(data)
	if !ok {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return nil //nolint:nilerr // no server runs there
	}
	lines := append(strings.Split(string(b), "\n"), make([]string, 5)...)
	if pid, err := strconv.Atoi(lines[0]); err == nil && pid > 1 {
		if err := stopProcess(ctx, pid, uid, data); err != nil {
			return err
		}
	}
	socket := lines[4] // miscadmin.h: the lock file's fifth line
	if owner, ok := ownerOf(socket); ok && owner == uid && filepath.Dir(socket) == os.TempDir() && strings.HasPrefix(filepath.Base(socket), "holdfast-") {
		return os.RemoveAll(socket)
	}
	return nil
}

func stopProcess(ctx context.Context, pid, uid int, dir string) error {
	p, err := os.FindProcess(pid) // holds on to the process, not to its number
	if err != nil {
		return err
	}
	defer p.Release() //nolint:errcheck // nothing is done with it later
	here, err1 := os.Lstat(dir)
	there, err2 := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	owner, ok := ownerOf(fmt.Sprintf("/proc/%d", pid))
	if err1 != nil || err2 != nil || !ok || owner != uid || !os.SameFile(here, there) {
		return nil //nolint:nilerr // it has ended, and its number may be another's
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond) // it is nobody's child here: ask
	defer again.Stop()
	for sig := os.Signal(syscall.SIGQUIT); ; sig = syscall.Signal(0) {
		if err := p.Signal(sig); errors.Is(err, os.ErrProcessDone) {
			return nil
		} else if err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("its server, process %d, does not end: %w", pid, ctx.Err())
		}
	}
}
