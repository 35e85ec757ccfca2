package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// targetState is what was found at the target.
type targetState byte

const (
	targetEmpty    targetState = iota // nothing, or an empty directory
	targetOurs                        // an interrupted restore of this snapshot
	targetOurDelta                    // the same, but files of the cluster that it began over may be left
	targetCluster                     // a stopped cluster, or something interrupted, to be overwritten by Delta
)

// hasCluster tells whether there may be files that no restore of this snapshot has written.
func (s targetState) hasCluster() bool { return s == targetCluster || s == targetOurDelta }

// inspect looks at the target directory and refuses what must not be written over. What is called beside does not count.
func inspect(ctx context.Context, p *points.Plan, to string, mode Mode, beside string) (targetState, error) {
	what := fmt.Sprintf("restore %s: target directory %q", p.System, to)
	names, err := os.ReadDir(to)
	names = slices.DeleteFunc(names, func(d os.DirEntry) bool { return d.Name() == beside })
	switch {
	case errors.Is(err, fs.ErrNotExist) || (err == nil && len(names) == 0):
		return targetEmpty, nil
	case err != nil:
		return 0, dr.Fail(what+" cannot be read", err, "choose another --to, or a user who may read it")
	}
	if pid := RunningServer(to); pid != 0 {
		return 0, &dr.Failure{
			What:   what + " belongs to a running PostgreSQL",
			Reason: fmt.Sprintf("postmaster.pid names live process %d; a recovery never writes over a running cluster", pid),
			Next:   "choose an empty --to, or stop that server and run this again with --delta",
		}
	}
	head, err := readJournalHead(to)
	if err != nil {
		return 0, err
	}
	ours := head != nil && head.Snapshot == p.Snapshot.Manifest.ID && head.Root == p.Snapshot.Manifest.Root
	if ours {
		// A pg_control is written last: a server may have run on it since.
		if _, err := os.Lstat(filepath.Join(to, control.Path)); err == nil || head.OverCluster {
			return targetOurDelta, nil
		}
		return targetOurs, nil
	}
	if head != nil && head.Snapshot == "" && len(names) == 1 {
		return targetEmpty, nil // whoever began died before it could say what
	}
	if !mode.overwrites() {
		return 0, notEmpty(what, names, head)
	}
	if head != nil {
		return targetCluster, nil
	}
	return targetCluster, checkCluster(ctx, what, to, p)
}

func notEmpty(what string, names []os.DirEntry, head *journalHead) error {
	if head != nil {
		return &dr.Failure{
			What:   what + " holds an interrupted restore of another snapshot",
			Reason: fmt.Sprintf("it was begun from snapshot %s of %s", head.Snapshot, head.System),
			Next:   "finish that one, add --delta to turn it into this one, or choose an empty --to",
		}
	}
	return &dr.Failure{
		What:   what + " is not empty",
		Reason: fmt.Sprintf("it has %q and %d more entries; a recovery never mixes with what it finds", names[0].Name(), len(names)-1),
		Next:   "choose an empty --to; for a stopped cluster, --delta re-uses what it has right and replaces the rest",
	}
}

// checkCluster refuses a directory that is no copy of the cluster: Delta removes what it does not know.
func checkCluster(ctx context.Context, what, to string, p *points.Plan) error {
	if _, err := os.Stat(filepath.Join(to, "PG_VERSION")); err != nil {
		return &dr.Failure{
			What:   what + " is no data directory",
			Reason: "it has no PG_VERSION, and --delta removes every file that the snapshot does not have",
			Next:   "choose the cluster's data directory, or an empty directory without --delta",
		}
	}
	have, _, err := control.Read(ctx, to)
	if err != nil || have.SystemID == p.Snapshot.Facts.SystemID {
		return nil //nolint:nilerr // a broken pg_control is a reason to restore
	}
	return &dr.Failure{
		What:   what + " belongs to another cluster",
		Reason: fmt.Sprintf("its system identifier is %d, that of %s is %d", have.SystemID, p.System, p.Snapshot.Facts.SystemID),
		Next:   "choose that system's own data directory, or an empty one",
	}
}

// Ended tells whether a process has ended, also where its parent has not heard of it yet.
func Ended(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// Its name comes in brackets, and may hold some itself; the state follows (proc_pid_stat(5)).
	_, after, ok := bytes.Cut(b[bytes.LastIndexByte(b, ')')+1:], []byte(" "))
	return err == nil && ok && bytes.HasPrefix(after, []byte("Z"))
}

// RunningServer returns the process that postmaster.pid names, where it lives and may be a server of this
// directory; otherwise 0. A number that the kernel has given to another program since is told by its working
// directory, which is the data directory for every server process.
func RunningServer(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	pid, err := strconv.Atoi(strings.TrimSpace(string(line)))
	if err != nil || pid <= 0 {
		return 0
	}
	if Ended(pid) {
		return 0
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return pid // it cannot be asked: believe the file
	}
	here, err := os.Stat(dir)
	there, err2 := os.Stat(cwd)
	if err == nil && err2 == nil && !os.SameFile(here, there) {
		return 0
	}
	return pid
}
