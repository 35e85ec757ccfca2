package confine

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The attributes of Landlock (linux/landlock.h); the kernel takes as many bytes as it knows.
type ruleset struct{ fs, net, scoped uint64 }

type pathBeneath struct {
	access uint64
	parent int32
}

// writes are the accesses to files that change something, by the version of Landlock that knows them.
func writes(version int) uint64 {
	a := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM)
	if version >= 2 {
		a |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		a |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	return a
}

// restrictThread takes from this thread, and from what it starts, the right to get more rights, to write elsewhere than below
// some directories, to use TCP, and to send signals outside.
func restrictThread(dirs []string, w *Walls) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up further rights: %w", err)
	}
	err := landlock(dirs, w)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		w.Missing = append(w.Missing, "walls around its files: this kernel has no Landlock")
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep it from files outside of %s: %w", strings.Join(dirs, ", "), err)
	}
	w.Files = true
	return nil
}

func landlock(dirs []string, w *Walls) error {
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errno
	}
	version := int(n)
	attr, size := ruleset{fs: writes(version)}, unsafe.Sizeof(uint64(0))
	if version >= 4 {
		attr.net, size = unix.LANDLOCK_ACCESS_NET_BIND_TCP|unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, 2*unsafe.Sizeof(uint64(0))
		w.Network = true // of what a server speaks
	}
	if version >= 6 {
		attr.scoped, size = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET|unix.LANDLOCK_SCOPE_SIGNAL, unsafe.Sizeof(attr)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(fd)) //nolint:errcheck // the rules count, not the descriptor
	file := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE)
	if version >= 3 {
		file |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	// /dev for /dev/null; /proc is where a user namespace gets its users from.
	allowed := map[string]uint64{"/dev": file, "/proc": file}
	for _, dir := range dirs {
		allowed[dir] = attr.fs
	}
	for path, access := range allowed {
		if err := allow(int(fd), path, access); err != nil {
			return err
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func allow(rules int, path string, access uint64) error {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it names a place only
	beneath := pathBeneath{access, int32(f.Fd())}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&beneath)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
