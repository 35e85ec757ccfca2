package pgtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// account is who runs the servers: nil credentials mean the test's own user. PostgreSQL refuses to run as root.
type account struct {
	name string
	cred *syscall.Credential
}

var serverAccount = sync.OnceValues(func() (account, error) {
	me, err := user.Current()
	if err != nil {
		return account{}, err
	}
	if me.Uid != "0" {
		return account{name: me.Username}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return account{name: name, cred: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
		}
	}
	return account{}, fmt.Errorf("the test runs as root, and there is no user postgres to run the server as")
})

func theAccount(t testing.TB) account {
	t.Helper()
	a, err := serverAccount()
	if err != nil {
		t.Skip(err)
	}
	return a
}

// Chown gives path and everything below it to the user that runs the servers, so that a data directory that a
// test made as root can be started. For other users it does nothing.
func Chown(t testing.TB, path string) {
	t.Helper()
	a := theAccount(t)
	if a.cred == nil {
		return
	}
	err := filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(a.cred.Uid), int(a.cred.Gid))
	})
	if err != nil {
		t.Fatalf("give %s to %s: %v", path, a.name, err)
	}
}

// TempDir returns a new directory that the server's user owns and can reach (t.TempDir's cannot be reached by
// another user), with a path short enough for a Unix socket. It is removed when the test ends.
func TempDir(t testing.TB) string {
	t.Helper()
	base := os.TempDir()
	if len(base) > 40 { // a socket's path has at most 107 bytes
		base = "/tmp"
	}
	dir, err := os.MkdirTemp(base, "hfpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's directory: %v", err)
		}
	})
	Chown(t, dir)
	return dir
}

// command prepares a program to run as the server's user. Should the test process die, even by SIGKILL, the
// program gets deathSignal: no server outlives its test.
func command(a account, deathSignal syscall.Signal, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "PGTZ=UTC")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: a.cred,
		Pdeathsig:  deathSignal,
		Setpgid:    true, // an interrupt at the terminal is for the test, which then stops its servers
	}
	return cmd
}

// start starts cmd from a thread that lives as long as the process: the kernel sends the death signal when the
// *thread* that started the program ends, and Go may end threads.
func start(cmd *exec.Cmd) error {
	starter.Do(func() {
		go func() {
			runtime.LockOSThread() // never unlocked, and the goroutine never ends: the thread stays
			for job := range startJobs {
				job.done <- job.cmd.Start()
			}
		}()
	})
	job := startJob{cmd, make(chan error, 1)}
	startJobs <- job
	return <-job.done
}

type startJob struct {
	cmd  *exec.Cmd
	done chan error
}

var (
	starter   sync.Once
	startJobs = make(chan startJob)
)

// reachable returns bin itself, or a copy of its installation where the server's user cannot reach it: a cache
// below /root is closed to everybody else. The copy is shared by all test processes.
func reachable(t testing.TB, in installation) string {
	t.Helper()
	a := theAccount(t)
	if a.cred == nil || open(in.bin) {
		return in.bin
	}
	copyMu.Lock()
	defer copyMu.Unlock()
	base := filepath.Join(os.TempDir(), "holdfast-test-pg")
	target := filepath.Join(base, in.version)
	if _, err := os.Stat(filepath.Join(target, "bin", "postgres")); err == nil && ownedByRoot(base) {
		return filepath.Join(target, "bin")
	}
	if err := os.Mkdir(base, 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	if !ownedByRoot(base) {
		t.Fatalf("%s belongs to somebody else: nothing from there is run", base)
	}
	tmp, err := os.MkdirTemp(base, "copy")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // gone already after the rename
	if out, err := exec.Command("cp", "-a", filepath.Dir(in.bin)+"/.", tmp).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", in.bin, err, out)
	}
	if err := os.Chmod(tmp, 0o755); err != nil { //nolint:gosec // programs, for everybody to run
		t.Fatal(err)
	}
	// Another process may have been faster; its copy is as good.
	if err := os.Rename(tmp, target); err != nil && !os.IsExist(err) {
		if _, serr := os.Stat(filepath.Join(target, "bin", "postgres")); serr != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(target, "bin")
}

// copyMu serialises copies of binaries within this process.
var copyMu sync.Mutex

// open tells whether everybody may pass every directory on the way to dir.
func open(dir string) bool {
	for {
		fi, err := os.Stat(dir)
		if err != nil || fi.Mode()&0o001 == 0 {
			return false
		}
		if dir == "/" {
			return true
		}
		dir = filepath.Dir(dir)
	}
}

func ownedByRoot(dir string) bool {
	fi, err := os.Lstat(dir)
	if err != nil || !fi.IsDir() || fi.Mode()&0o022 != 0 {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0
}
