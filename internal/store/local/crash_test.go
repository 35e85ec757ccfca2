package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// The child process of TestKilled is this test binary with these variables.
const (
	envDir  = "HOLDFAST_TEST_KILL_DIR"
	envStep = "HOLDFAST_TEST_KILL_STEP"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		killed(dir, os.Getenv(envStep))
		return
	}
	m.Run()
}

// op is one write of the history that the crash tests run.
type op struct {
	call, name string
	body       []byte
}

func history() []op {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<15)
	return []op{
		{"put", "data/ab/one", []byte("one")},
		{"put", "top", []byte("top")},
		{"put", "data/ab/one", []byte("another one")},
		{"create", "intents/x", []byte("first")},
		{"create", "intents/x", []byte("second")}, // ErrExists
		{"put", "data/cd/big", big},
		{"delete", "data/ab/one", nil},
		{"delete", "data/ab/absent", nil},
		{"create", "data/ab/one", []byte("again")},
	}
}

func do(ctx context.Context, s store.Store, o op) error {
	switch o.call {
	case "put":
		return s.Put(ctx, o.name, o.body)
	case "create":
		if err := s.Create(ctx, o.name, o.body); !errors.Is(err, store.ErrExists) {
			return err
		}
		return nil
	}
	return s.Delete(ctx, o.name)
}

// apply makes o in a model of the store's content.
func apply(model map[string][]byte, o op) {
	switch _, there := model[o.name]; {
	case o.call == "delete":
		delete(model, o.name)
	case o.call == "put" || !there:
		model[o.name] = o.body
	}
}

// killed runs the history and kills its own process before the nth step; it prints each operation that returned.
func killed(dir, step string) {
	n, err := strconv.Atoi(step)
	if err != nil {
		panic(err)
	}
	s, err := local.Open(dir, local.Options{Before: func(local.Step) error {
		if n--; n == 0 {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}})
	if err != nil {
		panic(err)
	}
	for i, o := range history() {
		if err := do(context.Background(), s, o); err != nil {
			panic(err)
		}
		fmt.Println("done", i+1)
	}
}

// wantOneOf checks that the directory holds what it held after done operations, or what the next one makes of it.
func wantOneOf(t *testing.T, dir string, done int) {
	t.Helper()
	model := map[string][]byte{}
	for _, o := range history()[:done] {
		apply(model, o)
	}
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first := differs(t, s, model)
	if first == "" {
		return
	}
	if done < len(history()) {
		apply(model, history()[done])
		if differs(t, s, model) == "" {
			return
		}
	}
	t.Errorf("after %d operations: %s", done, first)
}

// differs says how the objects differ from the model.
func differs(t *testing.T, s store.Store, model map[string][]byte) string {
	t.Helper()
	n := 0
	err := s.List(t.Context(), "", "", func(store.Info) error { n++; return nil })
	if err != nil || n != len(model) {
		return fmt.Sprintf("%d objects are listed (%v), want %d", n, err, len(model))
	}
	for name, want := range model {
		got, err := s.Get(t.Context(), name, 1<<20)
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Sprintf("%s has %d bytes (%v), want %d", name, len(got), err, len(want))
		}
	}
	return ""
}

func temporaries(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, ".tmp~"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestKilled kills a writer before each of its steps.
func TestKilled(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for step := 1; ; step++ {
		dir := t.TempDir()
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), envDir+"="+dir, envStep+"="+strconv.Itoa(step))
		out, err := cmd.CombinedOutput()
		if err == nil {
			if step < 40 {
				t.Errorf("the history has only %d steps: the hook is not called", step-1)
			}
			return
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL { //nolint:forcetypeassert // Linux
			t.Fatalf("step %d: %v\n%s", step, err, out)
		}
		wantOneOf(t, dir, strings.Count(string(out), "done"))
		if left := temporaries(t, dir); len(left) > 0 {
			t.Errorf("step %d: the dead writer's temporary files are there after Open: %q", step, left)
		}
	}
}

// TestPowerLoss loses power before each step of the history, with the worst fates and some random ones.
func TestPowerLoss(t *testing.T) {
	p := storetest.NewPowerLoss()
	s := open(t, local.Options{Before: p.Record})
	var promised []int // steps recorded when operation i returned
	for _, o := range history() {
		if err := do(t.Context(), s, o); err != nil {
			t.Fatal(err)
		}
		promised = append(promised, p.Len())
	}
	fates := map[string]storetest.Fate{"lose all": storetest.LoseAll, "names only": storetest.NamesOnly}
	for seed := range uint64(5) {
		fates[fmt.Sprintf("seed %d", seed)] = storetest.RandomFate(seed)
	}
	for fate, f := range fates {
		t.Run(fate, func(t *testing.T) {
			for n := range p.Len() + 1 {
				dir := t.TempDir()
				if err := p.Leave(dir, n, f); err != nil {
					t.Fatal(err)
				}
				done, _ := slices.BinarySearch(promised, n+1) // operations that had returned before step n
				wantOneOf(t, dir, done)
				if t.Failed() {
					t.Fatalf("power lost before step %d of %d", n, p.Len())
				}
			}
		})
	}
}

// TestFailingSteps fails each step once, with a full disk: the error says so, what was there stays, and the
// same call then succeeds.
func TestFailingSteps(t *testing.T) {
	for n := 1; ; n++ {
		left := n
		s := open(t, local.Options{Before: func(local.Step) error {
			if left--; left == 0 {
				return syscall.ENOSPC
			}
			return nil
		}})
		model := map[string][]byte{}
		failures := 0
		for i, o := range history() {
			if err := do(t.Context(), s, o); err != nil {
				failures++
				if store.KindOf(err) != store.Full || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("step %d: got %v (kind %d), want Full", n, err, store.KindOf(err))
				}
				wantOneOf(t, s.String(), i)
				if err := do(t.Context(), s, o); err != nil {
					t.Errorf("step %d: again: %v", n, err)
				}
			}
			apply(model, o)
		}
		if text := differs(t, s, model); text != "" {
			t.Errorf("step %d: %s", n, text)
		}
		if left > 0 {
			return
		}
		if failures > 1 {
			t.Errorf("step %d: %d calls failed, want at most 1", n, failures)
		}
	}
}
