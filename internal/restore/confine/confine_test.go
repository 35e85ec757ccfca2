package confine

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const roleEnv = "HOLDFAST_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) == "starter" {
		starter(os.Args[1])
	}
	os.Exit(m.Run())
}

// starter starts a program that would never end, tells its number, and waits to be killed.
func starter(dir string) {
	s, err := Start(Options{Dirs: []string{dir}, Name: "holdfast-test-" + filepath.Base(dir)}, nil, func() *exec.Cmd {
		return exec.Command("sh", "-c", "sleep 600 & exec sleep 600")
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Process.Pid, s.Walls.Processes)
	select {}
}

// A confined program has no network, sees nobody, and writes nowhere but in its directory. What it lacks of that is said.
func TestWalls(t *testing.T) {
	dir, out := t.TempDir(), new(bytes.Buffer)
	outside := filepath.Join(t.TempDir(), "outside")
	script := `echo "net $(tail -n +3 /proc/self/net/dev | grep -cv lo:)"; echo "pid $$"
		echo x > ` + outside + ` 2>/dev/null && echo "wrote outside"; echo x > ` + dir + `/inside && echo "wrote inside"`
	s, err := Start(Options{Dirs: []string{dir}, Name: "holdfast-test-walls"}, nil, func() *exec.Cmd {
		cmd := exec.Command("sh", "-c", script)
		cmd.Stdout = out
		return cmd
	})
	if err != nil {
		t.Fatal(err)
	}
	<-s.Exited
	got := out.String()
	t.Logf("%+v\n%s", *s.Walls, got)
	if s.Walls.Processes && !strings.HasPrefix(got, "net 0\npid 1\n") {
		t.Error("it has a network, or is not the first process of a namespace")
	}
	if s.Walls.Files == strings.Contains(got, "wrote outside") || !strings.Contains(got, "wrote inside") {
		t.Errorf("with the walls %+v: %s", s.Walls, got)
	}
	for _, wall := range []bool{s.Walls.Network, s.Walls.Processes, s.Walls.Files} {
		if !wall && len(s.Walls.Missing) == 0 {
			t.Errorf("a wall is missing, and nobody says so: %+v", s.Walls)
		}
	}
	if s.Walls.Group != "" {
		if _, err := os.Stat(s.Walls.Group); err == nil {
			t.Errorf("the group %s is left", s.Walls.Group)
		}
	}
}

// Whoever started a confined program is killed: the program ends, and what it has started.
func TestStarterKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), roleEnv+"=starter")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var namespace bool
	if _, err := fmt.Fscan(out, &pid, &namespace); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	defer RemoveGroup("holdfast-test-" + filepath.Base(dir))
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	again := time.NewTicker(5 * time.Millisecond) // it is nobody's child here: ask
	defer again.Stop()
	for p.Signal(syscall.Signal(0)) == nil && !zombie(pid) {
		select {
		case <-again.C:
		case <-t.Context().Done():
			t.Fatal("it goes on")
		}
	}
}

// zombie tells whether a process has ended, and nobody has asked for it.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(b), ") ")
	return err != nil || strings.HasPrefix(after, "Z")
}
