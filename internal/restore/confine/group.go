package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// group is the control group of a program (cgroup v2); nil where there is none.
type group struct {
	dir string
	f   *os.File
}

// mostProcesses is how many processes a server of a test may have.
const mostProcesses = "1000"

// makeGroup makes a control group beside or below our own, with what bounds there are.
func makeGroup(o Options, w *Walls) *group {
	for _, parent := range groupParents() {
		// What is enabled for the children of a group bounds them; a group that has processes of its own may not enable anything.
		_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+memory +pids +cpu"), 0o600)
		dir := filepath.Join(parent, o.Name)
		if os.Mkdir(dir, 0o755) != nil { //nolint:gosec // what is in it is the kernel's
			continue
		}
		f, err := os.Open(dir)
		if err != nil {
			_ = os.Remove(dir)
			continue
		}
		g := &group{dir, f}
		g.bound("pids.max", mostProcesses, w)
		g.bound("cpu.weight", "20", w) // of 100 that everybody else has
		if o.Memory > 0 {
			g.bound("memory.max", fmt.Sprint(int64(o.Memory)), w)
		}
		if len(w.Bounds) == 0 {
			w.Missing = append(w.Missing, "bounds: no controller is given to its control group")
		}
		w.Group = dir
		return g
	}
	w.Missing = append(w.Missing, "bounds: no control group can be made for it")
	return nil
}

func (g *group) bound(file, value string, w *Walls) {
	if os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0o600) == nil {
		w.Bounds = append(w.Bounds, file+"="+value)
	}
}

// groupParents returns the directories in which a group may be made: beside our own first, since ours has processes.
func groupParents() []string {
	mounts, err1 := os.ReadFile("/proc/self/mountinfo")
	own, err2 := os.ReadFile("/proc/self/cgroup")
	if err1 != nil || err2 != nil {
		return nil
	}
	path := ""
	for line := range strings.Lines(string(own)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = p
		}
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 && path != "" {
			ours := filepath.Join(fields[4], path)
			if path == "/" {
				return []string{ours}
			}
			return []string{filepath.Dir(ours), ours}
		}
	}
	return nil
}

// place lets the program begin in the group.
func (g *group) place(attr *syscall.SysProcAttr) {
	if g != nil && g.f != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(g.f.Fd())
	}
}

// leave goes on without the group.
func (g *group) leave(w *Walls, err error) {
	w.Missing = append(w.Missing, "bounds: "+err.Error())
	w.Group, w.Bounds = "", nil
	_ = g.f.Close()
	g.f = nil
}

// remove kills what may be left in the group, and removes it.
func (g *group) remove() {
	if g == nil {
		return
	}
	if g.f != nil {
		_ = g.f.Close()
	}
	_ = removeGroup(g.dir)
}

func removeGroup(dir string) error {
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o600)
	again := time.NewTicker(10 * time.Millisecond) // the kernel tells nobody when they are gone: ask
	defer again.Stop()
	for tries := 0; ; tries++ {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) || tries == 500 {
			return err
		}
		<-again.C
	}
}

// RemoveGroup removes the control group that a program of this name has left when its starter was killed.
func RemoveGroup(name string) {
	for _, parent := range groupParents() {
		dir := filepath.Join(parent, name)
		if _, err := os.Stat(dir); err == nil {
			_ = removeGroup(dir)
		}
	}
}
