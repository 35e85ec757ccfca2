package rights

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestAs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to lay down")
	}
	const uid, gid = 65534, 65534
	user := &syscall.Credential{Uid: uid, Gid: gid}
	base := t.TempDir()
	for dir := base; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	his, ours := filepath.Join(base, "his"), filepath.Join(base, "ours")
	for _, dir := range []string{his, ours} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(his, uid, gid); err != nil {
		t.Fatal(err)
	}
	write := func(path string) error {
		return As(user, func() error { return os.WriteFile(path, nil, 0o600) })
	}
	if err := write(filepath.Join(ours, "file")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("wrote into root's directory: %v", err)
	}
	file := filepath.Join(his, "file")
	if err := write(file); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(file, &st); err != nil || st.Uid != uid || st.Gid != gid {
		t.Errorf("the file belongs to %d:%d (%v), want %d:%d", st.Uid, st.Gid, err, uid, gid)
	}
	if err := os.WriteFile(filepath.Join(ours, "file"), nil, 0o600); err != nil {
		t.Errorf("root did not get his rights back: %v", err)
	}
	if err := As(nil, func() error { return os.WriteFile(filepath.Join(ours, "file"), nil, 0o600) }); err != nil {
		t.Errorf("nobody else's rights: %v", err)
	}
}

// groupsEnv marks the child of TestGroups, whose process is in root's supplementary groups.
const groupsEnv = "HOLDFAST_TEST_GROUPS"

// What only one of root's supplementary groups may open is closed to the user, and what one of his may open is not. Nobody
// but this thread loses groups meanwhile, and it has them back afterwards.
func TestGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to lay down")
	}
	if os.Getenv(groupsEnv) == "" {
		// In a process of its own: Setgroups is for all threads, and so for all tests.
		cmd := exec.Command(os.Args[0], "-test.run=^TestGroups$", "-test.v")
		cmd.Env = append(os.Environ(), groupsEnv+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestGroups") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	const uid, his = 65534, 4711
	if err := syscall.Setgroups([]int{0, 27}); err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	for dir := base; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	of := func(gid int) string {
		path := filepath.Join(base, fmt.Sprint(gid))
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 0, gid), os.Chmod(path, 0o660)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	runtime.LockOSThread() // so that it can be asked afterwards
	defer runtime.UnlockOSThread()
	open := func(path string, groups ...uint32) error {
		return As(&syscall.Credential{Uid: uid, Gid: uid, Groups: groups}, func() error {
			if n := threadsWith(t, "0 27"); n == 0 {
				t.Error("the other threads have lost their groups too")
			}
			return os.WriteFile(path, nil, 0o600)
		})
	}
	for _, gid := range []int{0, 27} {
		if err := open(of(gid)); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("wrote a file of root's group %d: %v", gid, err)
		}
		if err := open(of(gid), his); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("wrote a file of root's group %d with a group of the user's: %v", gid, err)
		}
	}
	if err := open(of(his), his); err != nil {
		t.Errorf("did not write a file of the user's group: %v", err)
	}
	if got, err := groups(); err != nil || !slices.Equal(got, []uint32{0, 27}) {
		t.Errorf("afterwards the thread has the groups %d (%v), want 0 and 27", got, err)
	}
	if n := threadsWith(t, "0 27"); n != threadsWith(t, "") {
		t.Errorf("afterwards %d threads have their groups, of %d", n, threadsWith(t, ""))
	}
}

// threadsWith counts this process's threads that have these supplementary groups; "": all.
func threadsWith(t *testing.T, groups string) (n int) {
	paths, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, line, _ := strings.Cut(string(b), "\nGroups:")
		line, _, _ = strings.Cut(line, "\n")
		if groups == "" || strings.TrimSpace(line) == groups {
			n++
		}
	}
	return n
}
