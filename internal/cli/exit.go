package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/config"
)

// The exit codes. They are an interface: scripts and PostgreSQL branch on them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitMissed      = 3
	exitNoStandby   = 4
	exitInterrupted = 130
	exitLogBroken   = 200
)

// exitTable says what each code means; docs/exit-codes.md is printed from it.
var exitTable = []struct {
	code    int
	meaning string
}{
	{exitDone, "Done."},
	{exitFailed, "Failed; stderr says why. From `wal fetch`: the end of the log."},
	{exitUsage, "The command line or the configuration is wrong; nothing was done."},
	{exitMissed, "Done, but a check found damage or an objective was missed."},
	{exitNoStandby, "Only from `standby run`: the directory's database was promoted, or never was a standby of ours. It is left as it is, and another try changes nothing: the service that kept it is to be disabled."},
	{exitInterrupted, "Interrupted by SIGINT or SIGTERM; what was begun was cleaned up, and may be run again."},
	{exitLogBroken, "Only from `wal fetch`: the log has a gap, the store failed, or anything else went wrong. PostgreSQL stops, instead of taking it for the end of the log and opening the database for writes."},
}

// exitCodesMarkdown returns docs/exit-codes.md.
func exitCodesMarkdown() string {
	var b strings.Builder
	b.WriteString("# Exit codes\n\nEvery command of `holdfast` ends with one of these.\n\n| code | meaning |\n|---|---|\n")
	for _, e := range exitTable {
		fmt.Fprintf(&b, "| %d | %s |\n", e.code, e.meaning)
	}
	return b.String()
}

// coded is an error with an exit code of its own.
type coded struct {
	err  error
	code int
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// withExit gives err an exit code. A nil err stays nil.
func withExit(err error, code int) error {
	if err == nil {
		return nil
	}
	return &coded{err, code}
}

// missed marks err as "done, but a check or an objective was missed".
func missed(err error) error { return withExit(err, exitMissed) }

// usage marks err as a mistake on the command line that a command found by itself.
func usage(err error) error { return withExit(err, exitUsage) }

// configError is an error of finding or reading the configuration.
type configError struct{ err error }

func (c *configError) Error() string { return c.err.Error() }
func (c *configError) Unwrap() error { return c.err }

// exitOf returns the code that err carries, or -1.
func exitOf(err error) int {
	var c *coded
	if errors.As(err, &c) {
		return c.code
	}
	return -1
}

// exitCode decides how the process ends after err.
func (a *app) exitCode(ctx context.Context, err error) int {
	var conf *configError
	switch {
	case exitOf(err) >= 0:
		return exitOf(err)
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case !a.started, errors.As(err, &conf), config.IsUnknownName(err):
		return exitUsage
	}
	return exitFailed
}
