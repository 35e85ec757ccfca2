package standby

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// place is the private directory of a system's standby on this host: sockets, who may connect, and what must be known
// without the process that keeps it.
type place struct {
	dir  string
	lock *os.File
}

const (
	placeName = "standby" // within the system's directory
	stateName = "standby.json"
	feedName  = "feed" // the directory of the socket at which the log is served
	askName   = "ask"  // of the one at which this process is asked
	mostPath  = 107    // bytes of a socket's path (unix(7))
	feedPort  = "5432" // part of the socket's name

	ourName = "application_name=holdfast_standby" // in the primary_conninfo of a directory that is ours
)

// record is what is kept of a standby.
type record struct {
	Settings
	Promoted time.Time      `json:"promoted,omitzero"`  // when it became a primary
	Timeline wal.TimelineID `json:"timeline,omitempty"` // that it began then
}

// openPlace makes the directory, and refuses a second process.
func openPlace(dir string) (place, error) {
	p := place{dir: dir}
	if n := len(filepath.Join(dir, feedName, ".s.PGSQL."+feedPort)); n > mostPath {
		return p, &dr.Failure{
			What: fmt.Sprintf("keep a standby with its sockets in %q", dir), Reason: fmt.Sprintf("the path of a socket has at most %d bytes, and it would have %d", mostPath, n),
			Next: "set agent.state to a directory with a shorter path",
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, feedName), 0o700); err != nil {
		return p, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return p, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return p, errors.Join(dr.Fail("keep a standby here", errors.New("another process does so already"), "see holdfast standby status; one standby of a system is kept for each agent.state"), lock.Close())
	}
	p.lock = lock
	return p, nil
}

func (p place) close() { _ = p.lock.Close() }

// readRecord returns what is kept of a standby; ok is false where nobody has kept one here.
func readRecord(dir string) (r record, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err == nil, err
}

func (p place) write(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(p.dir, stateName), append(b, '\n'))
}

// ErrNoStandby is found in the error of a Run whose directory holds a database that is, or may be, somebody's: one that was promoted,
// an old primary, another server's standby. Another try changes nothing; a person does.
var ErrNoStandby = errors.New("it is no standby of ours")

// mayRun refuses a standby that was promoted: what was written there since is nowhere else.
func (p place) mayRun(o Options) error {
	old, ok, err := readRecord(p.dir)
	if err != nil {
		return err
	}
	if ok && !old.Promoted.IsZero() && old.Dir == o.Dir && o.Rebuild == KeepOthers {
		return &dr.Failure{
			What:   fmt.Sprintf("keep a standby of %s in %q: it was promoted", o.System, o.Dir),
			Reason: fmt.Sprintf("since %s UTC it has written on timeline %d, and what it wrote may be nowhere else", old.Promoted.UTC().Format("2006-01-02 15:04:05"), old.Timeline),
			Next:   "protect it, and disable the service that kept the standby; to give it up and make it a standby again, stop its server and add --rebuild",
			Err:    ErrNoStandby,
		}
	}
	return nil
}

// conninfo is what the server connects to.
func (p place) conninfo() string {
	me := "holdfast"
	if u, err := user.Current(); err == nil {
		me = u.Username
	}
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return fmt.Sprintf("host='%s' port=%s user='%s' "+ourName+" sslmode=disable gssencmode=disable channel_binding=disable",
		quote.Replace(filepath.Join(p.dir, feedName)), feedPort, quote.Replace(me))
}

// listen opens the socket at which the log is served, in place of one that a killed process left.
func (p place) listen() (net.Listener, error) {
	path := filepath.Join(p.dir, feedName, ".s.PGSQL."+feedPort)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// replaceFile replaces a file whole, durably.
func replaceFile(path string, content []byte) error {
	tmp := path + ".holdfast"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// setUpstream makes a stopped directory's server follow us at the place where we are now.
func setUpstream(dir, conninfo string) error {
	content, last, err := upstream(dir)
	if err != nil {
		return err
	}
	want := "primary_conninfo = '" + strings.ReplaceAll(strings.ReplaceAll(conninfo, `\`, `\\`), "'", "''") + "'\n"
	if last == want {
		return nil
	}
	if n := len(content); n > 0 && content[n-1] != '\n' {
		content = append(content, '\n')
	}
	return replaceFile(filepath.Join(dir, autoConf), append(content, want...))
}

const autoConf = "postgresql.auto.conf"

// upstream returns the settings that a directory's server reads last, and of them the line that says whom it follows.
func upstream(dir string) (content []byte, line string, err error) {
	content, err = os.ReadFile(filepath.Join(dir, autoConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	for l := range strings.Lines(string(content)) {
		if strings.HasPrefix(strings.TrimSpace(l), "primary_conninfo") {
			line = l
		}
	}
	return content, line, nil
}

// isOurs tells whether a directory's server would start as a standby of ours, wherever our directory was then. One of another server
// is somebody's, and so is one that was made a standby of another since.
func isOurs(dir string) (bool, error) {
	_, line, err := upstream(dir)
	return isStandby(dir) && strings.Contains(line, ourName), err
}

func readControl(ctx context.Context, dir string) (control.Data, error) {
	d, _, err := control.Read(ctx, dir)
	return d, err
}
