package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Options say how a program is confined.
type Options struct {
	Dirs   []string // below these the program may write
	Name   string   // of its control group, where it gets one: of letters that a file's name may have
	Memory dr.Bytes // that it may take, where control groups are; 0: no bound
}

// Walls say what keeps a program from everything else.
type Walls struct {
	Network   bool     `json:"network"`           // it has none
	Processes bool     `json:"processes"`         // it sees its own only, and they end with it
	Files     bool     `json:"files"`             // it writes below its directory only
	User      string   `json:"user"`              // whose rights it has
	Group     string   `json:"group,omitempty"`   // its control group; empty: its memory and processes have no bound
	Missing   []string `json:"missing,omitempty"` // what could not be done, and why
	OwnUser   bool     `json:"ownUser"`           // nobody else's processes and files are of that user
	Bounds    []string `json:"bounds,omitempty"`  // of the control group
}

// Started is a program that runs.
type Started struct {
	Process *os.Process
	Walls   *Walls
	Exited  <-chan struct{} // closed when it has ended
}

// namespaces that are asked for; with a user namespace an ordinary user may.
const (
	spaces   = unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC
	withUser = spaces | unix.CLONE_NEWUSER
)

// Start runs the command that prepare makes, which is asked anew for each try, with its SysProcAttr filled in. The program is
// killed when this process dies. As user it has the credential, or, where that is nil, those of this process.
func Start(o Options, user *syscall.Credential, prepare func() *exec.Cmd) (*Started, error) {
	w := &Walls{User: fmt.Sprint(os.Geteuid())}
	if user != nil {
		w.User = fmt.Sprint(user.Uid)
	}
	g := makeGroup(o, w)
	started, ended, exited := make(chan error), make(chan struct{}), make(chan struct{})
	var cmd *exec.Cmd
	go func() {
		<-ended
		g.remove() // not by the other one, which may write nowhere
		close(exited)
	}()
	go func() {
		defer close(ended)
		// The death of the thread that started it kills the program (prctl(2), PR_SET_PDEATHSIG), and what is laid down here is the
		// thread's alone: it ends with this goroutine, which never gives it back.
		runtime.LockOSThread()
		err := restrictThread(o.Dirs, w)
		if err == nil {
			cmd, err = try(user, g, w, prepare)
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // why it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		<-exited
		return nil, err
	}
	lower(cmd.Process.Pid)
	return &Started{cmd.Process, w, exited}, nil
}

// try starts the program in namespaces, and without them where that is not allowed.
func try(user *syscall.Credential, g *group, w *Walls, prepare func() *exec.Cmd) (*exec.Cmd, error) {
	var why error
	for _, flags := range ladder() {
		cmd := prepare()
		attr := &syscall.SysProcAttr{Setsid: true, Credential: user, Cloneflags: uintptr(flags), Pdeathsig: syscall.SIGQUIT}
		if flags != 0 {
			attr.Pdeathsig = syscall.SIGKILL // the kernel kills the rest of the namespace with its first process
		}
		if flags&unix.CLONE_NEWUSER != 0 {
			mapUsers(attr, user)
		}
		g.place(attr)
		cmd.SysProcAttr = attr
		err := cmd.Start()
		if err != nil && attr.UseCgroupFD { // its group may be what is not allowed
			g.leave(w, err)
			cmd = prepare()
			attr.UseCgroupFD = false
			cmd.SysProcAttr = attr
			err = cmd.Start()
		}
		switch {
		case err == nil:
			w.Network, w.Processes = w.Network || flags != 0, flags != 0
			if flags == 0 {
				w.Missing = append(w.Missing, "namespaces of its own: "+reason(why))
			}
			return cmd, nil
		case !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.ENOSYS):
			return nil, fmt.Errorf("run %s: %w", cmd.Path, err)
		}
		why = errors.Join(why, err)
	}
	return nil, fmt.Errorf("run it: %w", why)
}

func reason(err error) string {
	if err == nil {
		return "not asked for"
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// ladder returns what is tried, the best first.
func ladder() []int {
	if os.Geteuid() == 0 {
		return []int{spaces, withUser, 0}
	}
	return []int{withUser, 0}
}

// mapUsers makes the users of the namespace those outside of it: root has no rights there, and whoever the program runs as is
// who he is.
func mapUsers(attr *syscall.SysProcAttr, user *syscall.Credential) {
	one := func(id int) syscall.SysProcIDMap { return syscall.SysProcIDMap{ContainerID: id, HostID: id, Size: 1} }
	uid, gid := os.Geteuid(), os.Getegid()
	attr.UidMappings, attr.GidMappings = []syscall.SysProcIDMap{one(uid)}, []syscall.SysProcIDMap{one(gid)}
	if user != nil && int(user.Uid) != uid {
		attr.UidMappings = append(attr.UidMappings, one(int(user.Uid)))
		attr.GidMappings = append(attr.GidMappings, one(int(user.Gid)))
		attr.GidMappingsEnableSetgroups = true
	}
}

// lower lets everything else go first, and lets it be what is killed where memory is short. What the program starts has it from it.
func lower(pid int) {
	_ = unix.Setpriority(unix.PRIO_PROCESS, pid, 10)                                    // a favour; where it is refused nothing is lost
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0o600) //nolint:gosec // as above
}
