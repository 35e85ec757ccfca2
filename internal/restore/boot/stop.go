package boot

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
)

// StopIn stops the server that runs on a directory, whoever started it: fast, and after a minute at once. It tells whether one ran.
func StopIn(ctx context.Context, dir string) (bool, error) {
	pid := restore.RunningServer(dir)
	if pid == 0 {
		return false, nil
	}
	at := time.Now().Add(time.Minute)
	signal := syscall.SIGINT
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	sent := false
	for {
		if !sent {
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return true, dr.Fail(fmt.Sprintf("stop the server in %q", dir), err, fmt.Sprintf("stop process %d by its service manager, and run this again", pid))
			}
			sent = true
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || restore.RunningServer(dir) != pid {
			return true, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return true, ctx.Err()
		}
		if signal == syscall.SIGINT && time.Now().After(at) {
			signal, sent = syscall.SIGQUIT, false
		}
	}
}
