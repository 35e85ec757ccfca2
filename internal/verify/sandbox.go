package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/confine"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/restore/rights"
	"github.com/holdfast-dr/holdfast/internal/restore/scratch"
)

const sandboxPrefix = "holdfast-verify-"

// sandbox is a directory of a test. It is locked as long as the test runs: the lock ends with the process, however that dies, and
// one that is not locked was left behind. In it are the data directory, the server's messages, and a link that names the directory
// of the server's socket where that lies elsewhere.
type sandbox struct {
	dir   string
	owner *restore.Owner // who runs the server; nil: who runs this
	own   bool           // nobody else is that user
	lock  *os.File
}

func (s *sandbox) data() string { return filepath.Join(s.dir, "data") }

// makeSandbox makes one below a directory. As root its server runs as the named user, or as one that nobody else has.
func makeSandbox(in, name string) (_ *sandbox, err error) {
	if err := os.MkdirAll(scratch.Base(in), 0o711); err != nil { //nolint:gosec // the server's user has to pass through it
		return nil, fmt.Errorf("make the directory of sandboxes: %w", err)
	}
	s := &sandbox{}
	if s.dir, s.lock, err = scratch.Make(in, sandboxPrefix); err != nil {
		return nil, err
	}
	if err := s.choose(name); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// choose decides who runs the server, and lets him pass.
func (s *sandbox) choose(name string) (err error) {
	if os.Geteuid() != 0 || name != "" {
		if s.owner, err = restore.ChooseOwner(s.data(), name); err != nil || s.owner == nil {
			return err
		}
	} else {
		id, err := freeUser()
		if err != nil {
			return err
		}
		s.owner, s.own = &restore.Owner{UID: id, GID: id}, true
	}
	if err := errors.Join(os.Chown(s.dir, 0, s.owner.GID), os.Chmod(s.dir, 0o710)); err != nil { //nolint:gosec // it passes through, and no more
		return err
	}
	err = rights.As(s.owner.Credential(), func() error {
		_, err := os.Stat(filepath.Join(s.dir, "data"))
		return err
	})
	if errors.Is(err, fs.ErrPermission) {
		return dr.Fail("make a sandbox in "+filepath.Dir(s.dir), fmt.Errorf("its server runs as user %d, who may not pass through there", s.owner.UID),
			"choose another directory with --sandbox, or let others pass: chmod o+x on each directory above it")
	}
	return nil
}

// The users that are given to services for as long as they run (systemd, UIDS-GIDS.md: DynamicUser).
const firstDynamic, lastDynamic = 61184, 65519

// freeUser returns a user that has no name and no process: what a server of a test does as this user concerns nobody else.
func freeUser() (int, error) {
	taken := map[int]bool{}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, p := range procs {
		if uid, ok := scratch.OwnerOf(p); ok {
			taken[uid] = true
		}
	}
	for id := lastDynamic; id >= firstDynamic; id-- {
		_, err1 := user.LookupId(strconv.Itoa(id))
		_, err2 := user.LookupGroupId(strconv.Itoa(id))
		if err1 != nil && err2 != nil && !taken[id] {
			return id, nil
		}
	}
	return 0, errors.New("no user is free for the sandbox: name one with --user")
}

// socket makes the directory of the server's socket. Its path may have 107 bytes (unix(7)), which a sandbox may have itself.
func (s *sandbox) socket() (string, error) {
	dir := filepath.Join(s.dir, "socket")
	if len(dir)+len("/.s.PGSQL.5432.lock") > 100 {
		dir = filepath.Join(os.TempDir(), "hf-"+strings.TrimPrefix(filepath.Base(s.dir), sandboxPrefix))
		// The link first: whoever finds it removes what it names.
		if err := os.Symlink(dir, filepath.Join(s.dir, "socket")); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if s.owner != nil {
		return dir, os.Lchown(dir, s.owner.UID, s.owner.GID)
	}
	return dir, nil
}

// remove removes the sandbox, in which nothing runs any more.
func (s *sandbox) remove() error {
	err := removeSandbox(s.dir)
	return errors.Join(err, s.lock.Close())
}

func removeSandbox(dir string) error {
	if link, err := os.Readlink(filepath.Join(dir, "socket")); err == nil &&
		filepath.Dir(link) == os.TempDir() && strings.HasPrefix(filepath.Base(link), "hf-") {
		if err := os.RemoveAll(link); err != nil {
			return err
		}
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Cleanup removes what tests have left below a directory whose process was killed: servers, mounts, sockets, control groups and
// files, each of which may be as large as a cluster. It returns what it did, in words. A test that runs is left alone.
func Cleanup(ctx context.Context, in string) (notes []string) {
	// Others may make such directories too: what is theirs is not ours to remove.
	mine := func(uid int) bool { return uid == os.Geteuid() }
	return scratch.Abandoned(in, sandboxPrefix, "a test", mine, func(dir string) error {
		data := filepath.Join(dir, "data")
		_, err := mount.Clear(ctx, data) // it ends those who run on it
		err = errors.Join(err, endThoseIn(ctx, data))
		confine.RemoveGroup(filepath.Base(dir))
		if err != nil {
			return err
		}
		return removeSandbox(dir)
	})
}

// endThoseIn kills the processes that work in a data directory, where all of PostgreSQL's do. The kernel has killed them already
// where they had a namespace of their own.
func endThoseIn(ctx context.Context, data string) error {
	here, err := filepath.EvalSymlinks(data)
	if err != nil {
		return nil //nolint:nilerr // no server was started
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond) // they are nobody's children here: ask
	defer again.Stop()
	for {
		left := 0
		procs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		for _, proc := range procs {
			// The name alone: a process elsewhere may work in a mount that answers nobody, and whoever looks into it waits for ever.
			there, err := os.Readlink(filepath.Join(proc, "cwd"))
			if err != nil || there != here {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(proc)); err == nil {
				left++
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("%d processes in %s do not end: %w", left, data, ctx.Err())
		}
	}
}

// unmountBelow unmounts what is mounted in a directory: a file below a mount is not the sandbox's.
func unmountBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil //nolint:nilerr // without /proc nothing can be told, and nothing was mounted by us
	}
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			// proc(5): space, tab, newline and backslash are written in octal.
			at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4])
			if strings.HasPrefix(at, dir+"/") {
				points = append(points, at)
			}
		}
	}
	for i := len(points) - 1; i >= 0; i-- { // the last one mounted first
		if err := unmount(points[i]); err != nil {
			return fmt.Errorf("unmount %s: %w", points[i], err)
		}
	}
	return nil
}
