package rights

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// As calls f with the rights of a user, and of no group but those that the credential names; nil: with this process's
// own. f must not leave its goroutine for what needs them: they belong to the thread.
func As(user *syscall.Credential, f func() error) (err error) {
	if user == nil || os.Geteuid() != 0 {
		return f()
	}
	runtime.LockOSThread()
	ours, err := groups()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	// The file system's IDs are the thread's alone; with another than root's, the kernel takes away the
	// capabilities that overrule permissions too (credentials(7), capabilities(7)). Root's other groups would still
	// open what is theirs.
	restore := func() error { return errors.Join(setUID(0), setGID(0), setGroups(ours)) }
	if err = errors.Join(setGroups(user.Groups), setGID(user.Gid), setUID(user.Uid)); err == nil {
		err = f()
	}
	if restoreErr := restore(); restoreErr != nil {
		return errors.Join(err, restoreErr) // a thread that stays locked ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

func setUID(id uint32) error {
	_, _ = unix.SetfsuidRetUid(int(id)) // it returns the ID before, and never an error: ask again
	if now, _ := unix.SetfsuidRetUid(-1); now != int(id) {
		return fmt.Errorf("take the rights of user %d: the kernel did not give them", id)
	}
	return nil
}

func setGID(id uint32) error {
	_, _ = unix.SetfsgidRetGid(int(id)) // as above
	if now, _ := unix.SetfsgidRetGid(-1); now != int(id) {
		return fmt.Errorf("take the rights of group %d: the kernel did not give them", id)
	}
	return nil
}

// groups returns the supplementary groups of this thread.
func groups() ([]uint32, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_GETGROUPS, 0, 0, 0)
		if errno != 0 {
			return nil, fmt.Errorf("ask for this thread's groups: %w", errno)
		}
		list := make([]uint32, n)
		n, _, errno = unix.RawSyscall(unix.SYS_GETGROUPS, n, uintptr(unsafe.Pointer(unsafe.SliceData(list))), 0)
		if errno == unix.EINVAL {
			continue // syscall.Setgroups has given the process more of them meanwhile
		}
		if errno != 0 {
			return nil, fmt.Errorf("ask for this thread's groups: %w", errno)
		}
		return list[:n], nil
	}
}

// setGroups sets the supplementary groups of this thread alone. syscall.Setgroups would set those of all threads: the
// kernel knows them by thread, and only POSIX by process (credentials(7)).
func setGroups(list []uint32) error {
	// Where nothing changes the kernel is not asked: within some user namespaces it never agrees.
	if now, err := groups(); err == nil && slices.Equal(now, list) {
		return nil
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(list)), uintptr(unsafe.Pointer(unsafe.SliceData(list))), 0)
	if errno != 0 {
		return fmt.Errorf("take the rights of groups %d: %w", list, errno)
	}
	return nil
}
