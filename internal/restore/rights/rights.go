package rights

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// As calls f with the rights of a user; nil: with this process's own. f must not leave its goroutine for what needs
// them: they belong to the thread.
func As(user *syscall.Credential, f func() error) (err error) {
	if user == nil || os.Geteuid() != 0 {
		return f()
	}
	runtime.LockOSThread()
	// The file system's IDs are the thread's alone; with another than root's, the kernel takes away the
	// capabilities that overrule permissions too (credentials(7), capabilities(7)).
	restore := func() error { return errors.Join(setUID(0), setGID(0)) }
	if err = errors.Join(setGID(user.Gid), setUID(user.Uid)); err == nil {
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
