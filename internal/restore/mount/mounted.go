package mount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/fusefs"
)

// Mounted is a directory that something of ours is mounted over.
type Mounted struct {
	Dir     string
	Control string // where the process that serves it is asked
	Dead    bool   // nobody serves it: what is read there fails
}

// nameIs is how the source of a mount begins; then come the process that serves it and its descriptor of the data directory.
const nameIs = "holdfast:"

// All returns what of ours is mounted on this machine.
func All() ([]Mounted, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	var all []Mounted
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// proc_pid_mountinfo(5): the fifth field is the mount point, the type stands behind " - ".
		at, kind, ok := strings.Cut(sc.Text(), " - ")
		fields := strings.Fields(at)
		if !ok || len(fields) < 5 || !strings.HasPrefix(kind, "fuse.holdfast "+nameIs) {
			continue
		}
		dir := unescape(fields[4])
		var st unix.Statfs_t // which nobody remembers
		m := Mounted{Dir: dir, Dead: errors.Is(unix.Statfs(dir, &st), unix.ENOTCONN)}
		var pid, fd int
		if n, err := fmt.Sscanf(strings.Fields(kind)[1], nameIs+"%d:%d", &pid, &fd); n == 2 && err == nil {
			m.Control = control(pid, fd)
		}
		all = append(all, m)
	}
	return all, sc.Err()
}

// unescape undoes what the kernel does to spaces and their like: a backslash and three octal digits.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Clear takes dead mounts away from a directory, and ends what runs on them: nothing that it does reaches a file any more. What is
// served is left alone, and is an error.
func Clear(ctx context.Context, dir string) (notes []string, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	all, err := All()
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		switch {
		case m.Dir != dir && !within(dir, m.Dir):
		case !m.Dead:
			return nil, &dr.Failure{
				What: fmt.Sprintf("mount over %q", dir), Reason: "it is mounted, and served by a running process",
				Next: "holdfast mount list shows it; holdfast mount finish or abort end it",
			}
		default:
			n, err := endServers(ctx, m.Dir)
			if err != nil {
				return notes, err
			}
			if n > 0 {
				notes = append(notes, fmt.Sprintf("%d processes of a server were ended that still ran on the mount over %s, which was dead", n, m.Dir))
			}
			if err := fusefs.Detach(m.Dir); err != nil {
				return notes, fmt.Errorf("unmount %s, which nobody serves: %w", m.Dir, err)
			}
		}
	}
	return notes, nil
}

// within tells whether a mount point is one of a directory's tablespaces.
func within(dir, point string) bool { return strings.HasPrefix(point, dir+"_tablespaces/") }

// endServers kills the processes of PostgreSQL whose working directory is a dead mount, as every server's is, and waits for their end.
func endServers(ctx context.Context, dir string) (n int, err error) {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	killed := map[int]bool{}
	for {
		left, err := serversIn(dir)
		if err != nil {
			return len(killed), err
		}
		ending := false // it lets its directory go before it has ended
		for pid := range killed {
			ending = ending || !restore.Ended(pid)
		}
		if len(left) == 0 && !ending {
			return len(killed), nil
		}
		for _, pid := range left {
			killed[pid] = true
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return len(killed), fmt.Errorf("end process %d, which runs on the dead mount over %s: %w", pid, dir, err)
			}
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return len(killed), fmt.Errorf("processes on the dead mount over %s do not end: %w", dir, err)
		}
	}
}

func serversIn(dir string) (pids []int, err error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cwd, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err != nil || cwd != dir {
			continue
		}
		name, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		if errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(string(name), "postgres") {
			continue
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
