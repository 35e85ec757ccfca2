// Package scratch makes directories for work that may be killed, and finds those that were left behind: each is locked as long as
// somebody works in it, since the lock ends with the process, however that dies.
package scratch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Base returns the directory of sandboxes: the one that is given, or that of temporary files.
func Base(dir string) string {
	if dir == "" {
		return os.TempDir()
	}
	return dir
}

// Make makes a directory below Base(base) whose name begins so, and locks it. Who closes the lock has removed it.
func Make(base, prefix string) (dir string, lock *os.File, err error) {
	for {
		if dir, err = os.MkdirTemp(Base(base), prefix); err != nil {
			return "", nil, fmt.Errorf("make the sandbox: %w", err)
		}
		lock, err = lockDir(dir, unix.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			continue // before it was locked, somebody took it for one that was left behind
		}
		if err != nil {
			return "", nil, errors.Join(err, os.Remove(dir))
		}
		return dir, lock, nil
	}
}

// Abandoned has remove remove the directories of Make, of mine by their owners, in which nobody works any more, and returns what was
// done, in words: of is what they were made for.
func Abandoned(base, prefix, of string, mine func(uid int) bool, remove func(dir string) error) (notes []string) {
	dirs, err := filepath.Glob(filepath.Join(Base(base), prefix+"*")) // base may hold wildcards: then nothing is found
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		if uid, ok := OwnerOf(dir); !ok || !mine(uid) {
			continue
		}
		lock, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // somebody works in it
		}
		if err := errors.Join(remove(dir), lock.Close()); err != nil {
			notes = append(notes, fmt.Sprintf("the sandbox %s of %s that was killed could not be removed: %v", dir, of, err))
			continue
		}
		notes = append(notes, fmt.Sprintf("the sandbox %s of %s that was killed was removed", dir, of))
	}
	return notes
}

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

// OwnerOf returns to whom a directory belongs; ok is false for what is none, also for a link to one.
func OwnerOf(dir string) (uid int, ok bool) {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	return int(st.Uid), err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}
