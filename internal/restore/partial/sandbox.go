package partial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/scratch"
)

const sandboxPrefix = "holdfast-sandbox-"

// sandbox is a directory that only the server's owner enters. It is locked as long as somebody works in it: one that is
// not belongs to an extraction that was killed.
type sandbox struct {
	dir   string
	owner *restore.Owner
	lock  *os.File
}

func (o *Options) makeSandbox() (_ *sandbox, err error) {
	s := &sandbox{}
	if s.dir, s.lock, err = scratch.Make(o.Sandbox, sandboxPrefix); err != nil {
		return nil, err
	}
	if s.owner, err = restore.ChooseOwner(s.dir, o.User); err == nil && s.owner != nil {
		err = os.Chown(s.dir, s.owner.UID, s.owner.GID)
	}
	if err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// remove removes the sandbox; nothing runs in it any more.
func (s *sandbox) remove() error { return errors.Join(os.RemoveAll(s.dir), s.lock.Close()) }

// removeAbandoned stops and removes what extractions have left that were killed, each of which takes as much room as its
// cluster. It returns what it did, in words.
func removeAbandoned(ctx context.Context, base string) (notes []string) {
	mine := func(uid int) bool { return os.Geteuid() == 0 || uid == os.Geteuid() }
	return scratch.Abandoned(base, sandboxPrefix, "an extraction", mine, func(dir string) error {
		if err := stopAbandoned(ctx, filepath.Join(dir, "data")); err != nil {
			return err
		}
		return os.RemoveAll(dir)
	})
}

// stopAbandoned stops the server of a sandbox's data directory and removes its socket's directory. Others may have made
// all of this up, so only a process in that very directory is stopped, which is of the directory's owner.
func stopAbandoned(ctx context.Context, data string) error {
	uid, ok := scratch.OwnerOf(data)
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
	if owner, ok := scratch.OwnerOf(socket); ok && owner == uid && filepath.Dir(socket) == os.TempDir() && strings.HasPrefix(filepath.Base(socket), "holdfast-") {
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
	owner, ok := scratch.OwnerOf(fmt.Sprintf("/proc/%d", pid))
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
