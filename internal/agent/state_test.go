package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// childState saves a second state and kills its own process at the nth step; "0" never.
func childState(arg string) int {
	step, path, _ := strings.Cut(arg, ":")
	n, err := strconv.Atoi(step)
	if err != nil {
		return 2
	}
	f := &stateFile{path: path, before: func(string) error {
		if n--; n == 0 {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}}
	if err := f.save(stateNumber(2)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func stateNumber(n int) State {
	at := time.Date(2026, 3, n, 0, 0, 0, 0, time.UTC)
	return State{
		Version: stateVersion, Since: at, Snapshot: TaskRun{Started: at, Error: strings.Repeat("x", n*100)},
		Last: &LastSnapshot{ID: "20260301t000000z-00000000", Started: at, Finished: at, Bytes: int64(n)},
	}
}

func TestStateSurvivesAKillAtEveryStep(t *testing.T) {
	for step := 1; ; step++ {
		path := filepath.Join(t.TempDir(), "agent.json")
		f := &stateFile{path: path}
		if err := f.save(stateNumber(1)); err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), fmt.Sprintf("%s=%d:%s", envState, step, path))
		out, err := child.CombinedOutput()
		got, loadErr := f.load()
		if loadErr != nil {
			t.Fatalf("killed at step %d: %v", step, loadErr)
		}
		old := cmp.Diff(stateNumber(1), got)
		renewed := cmp.Diff(stateNumber(2), got)
		if old != "" && renewed != "" {
			t.Errorf("killed at step %d: the state is neither the old nor the new one (-old +got):\n%s", step, old)
		}
		if err := f.save(stateNumber(3)); err != nil {
			t.Errorf("killed at step %d: the next save: %v", step, err)
		}
		if err == nil {
			if renewed != "" || step < 6 {
				t.Errorf("after %d steps without a kill the state is (-want +got):\n%s", step, renewed)
			}
			return
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: %v\n%s", step, err, out)
		}
	}
}

func TestStateThatCannotBeSavedStays(t *testing.T) {
	f := &stateFile{path: filepath.Join(t.TempDir(), "agent.json")}
	if err := f.save(stateNumber(1)); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left")
	for _, step := range []string{"create", "write", "sync", "rename"} {
		f.before = func(s string) error {
			if s == step {
				return full
			}
			return nil
		}
		if err := f.save(stateNumber(2)); !errors.Is(err, full) {
			t.Errorf("%s fails: save says %v", step, err)
		}
		if got, err := f.load(); err != nil || cmp.Diff(stateNumber(1), got) != "" {
			t.Errorf("%s failed: the state is %+v, %v", step, got, err)
		}
	}
}

func TestDamagedStateIsReplaced(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "whole")
	if err := (&stateFile{path: whole}).save(stateNumber(1)); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]byte{{}, []byte("{"), []byte(`{"version": 9}`), []byte(`{"version": "x"}`), bytes.Repeat([]byte{0}, 100), content[:len(content)/2]} {
		f := &stateFile{path: filepath.Join(t.TempDir(), "agent.json")}
		if err := os.WriteFile(f.path, c, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := f.load()
		if !errors.Is(err, errState) || cmp.Diff(State{Version: stateVersion}, got) != "" {
			t.Errorf("%q: load gives %+v, %v", c, got, err)
		}
		aside, readErr := os.ReadFile(f.path + ".damaged")
		if readErr != nil || !bytes.Equal(aside, c) {
			t.Errorf("%q: set aside is %q, %v", c, aside, readErr)
		}
		if err := f.save(got); err != nil {
			t.Error(err)
		}
		if _, err := f.load(); err != nil {
			t.Errorf("%q: after it was replaced: %v", c, err)
		}
	}
}

func TestLockRefusesASecondAgent(t *testing.T) {
	dir := t.TempDir()
	first, err := lockSystem(dir, "orders-db")
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockSystem(dir, "orders-db")
	if !errors.Is(err, ErrSecondAgent) {
		t.Fatalf("the second lock: %v", err)
	}
	want := fmt.Sprintf(`agent: orders-db is protected by another agent on this host
  reason: process %d holds %s/agent.lock
  next:   leave the system to it, or stop it first: systemctl stop holdfast-agent`, os.Getpid(), dir)
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockSystem(dir, "orders-db")
	if err != nil {
		t.Fatalf("after the first agent's end: %v", err)
	}
	again.Close()
}
