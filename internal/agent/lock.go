package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// ErrSecondAgent is in the error where another agent protects the system already.
var ErrSecondAgent = errors.New("another agent protects this system")

const lockName = "agent.lock"

// lockSystem takes the lock that one agent of this host holds for a system. It ends with the process, however
// that dies. Closing the file gives it back.
func lockSystem(dir, system string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, dr.Fail("agent: lock system "+system, err, "run the agent as the user that owns "+dir)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &dr.Failure{
			What:   fmt.Sprintf("agent: %s is protected by another agent on this host", system),
			Reason: fmt.Sprintf("process %s holds %s", holder(f), path),
			Next:   "leave the system to it, or stop it first: systemctl stop holdfast-agent",
			Err:    ErrSecondAgent,
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// The number only helps people; the lock is what counts.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(io.NewOffsetWriter(f, 0), "%d\n", os.Getpid())
	}
	return f, nil
}

// holder returns the number of the process that wrote the lock file.
func holder(f *os.File) string {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	if pid := strings.TrimSpace(string(b[:n])); pid != "" {
		return pid
	}
	return "(unknown)" // it has just taken the lock
}
