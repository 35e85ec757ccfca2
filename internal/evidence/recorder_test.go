package evidence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

const testSystem = "orders-db"

// host is a host with a signer and a state of its own.
type host struct {
	state  string
	signer *seal.Signer
	repo   *repo.Repository
}

func newHost(t testing.TB, st store.Store, first *repo.Repository) host {
	t.Helper()
	signer, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	h := host{state: t.TempDir(), signer: signer}
	h.repo = h.open(t, st, first)
	return h
}

// open opens a replica, which is made where there is no first one.
func (h host) open(t testing.TB, st store.Store, first *repo.Repository) *repo.Repository {
	t.Helper()
	o := repo.Options{Signer: h.signer, CacheDir: t.TempDir(), Host: "host"}
	if first == nil {
		return repotest.Init(t, st, o)
	}
	r, err := first.Beside(t.Context(), st, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func (h host) recorder() *Recorder {
	return New(Config{State: h.state, Signer: h.signer, Host: "db1", User: "postgres", Program: "holdfast test"})
}

func statement(system string, n int) Statement {
	now := time.Date(2026, 11, 26, 10, 0, n, 0, time.UTC)
	return Statement{
		Subjects: []Subject{SHA256(fmt.Sprintf("snapshot %d", n), [32]byte{byte(n)})}, Kind: Snapshot, System: system, Outcome: Succeeded,
		Started: now, Finished: now.Add(time.Second), NotCovered: []string{"nobody has restored it"},
	}
}

func (h host) record(t testing.TB, system string, n ...int) {
	t.Helper()
	for _, i := range n {
		if err := h.recorder().Record(t.Context(), h.repo, statement(system, i)); err != nil {
			t.Fatal(err)
		}
	}
}

func verified(t testing.TB, seen []Sighting, all ...*repo.Repository) Verified {
	t.Helper()
	var from []Source
	for i, r := range all {
		from = append(from, Source{fmt.Sprintf("site%d", i), r})
	}
	b, err := Read(t.Context(), from, nil, Everywhere)
	if err != nil {
		t.Fatal(err)
	}
	return b.Verify(seen)
}

// subjects returns the names of what the records of the only log are about.
func subjects(t testing.TB, r *repo.Repository) (out []string) {
	t.Helper()
	b, err := Read(t.Context(), []Source{{"here", r}}, nil, Once)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Logs) != 1 || len(b.Findings) > 0 {
		t.Fatalf("%d logs, findings %v", len(b.Logs), b.Findings)
	}
	for _, rec := range b.Logs[0].Records {
		out = append(out, rec.Statement.Subjects[0].Name)
	}
	return out
}

func TestRecordIsReadAndVerified(t *testing.T) {
	for _, server := range []struct {
		name string
		open func(t *testing.T) store.Store
	}{
		{"local", func(t *testing.T) store.Store {
			st, err := local.Create(t.TempDir(), local.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return st
		}},
		{"s3", func(t *testing.T) store.Store { return storetest.S3(t).Open(t, "evidence") }},
	} {
		t.Run(server.name, func(t *testing.T) {
			t.Parallel()
			st := server.open(t)
			h := newHost(t, st, nil)
			h.record(t, testSystem, 1, 2, 3)
			h.record(t, "", 4)
			other := newHost(t, st, h.repo)
			other.record(t, testSystem, 5)
			v := verified(t, nil, h.repo)
			if len(v.Findings) > 0 || len(v.Logs) != 3 || v.Logs[0].System != "" || v.Logs[0].Size != 1 || v.Logs[1].Size != 3 || v.Logs[2].Size != 1 {
				t.Errorf("%+v", v)
			}
			b, err := Read(t.Context(), []Source{{"here", h.repo}}, []string{testSystem}, Once)
			if err != nil || len(b.Logs) != 2 {
				t.Fatalf("%+v, %v", b, err)
			}
			if s := b.Logs[0].Records[1].Statement; s.System != testSystem || s.By.Host != "db1" || s.Subjects[0].Digest["sha256"][:2] != "02" || s.ID == "" {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Each step of recording fails in turn, as if the process had died there: the next one finishes, and each record is there once.
func TestRecordDiesAtEveryStep(t *testing.T) {
	died := errors.New("died")
	for n := 1; ; n++ {
		h := newHost(t, storetest.NewMemory(), nil)
		h.record(t, testSystem, 1)
		r, steps := h.recorder(), 0
		r.before = func(string) error {
			if steps++; steps == n {
				return died
			}
			return nil
		}
		err := r.Record(t.Context(), h.repo, statement(testSystem, 2))
		if steps < n {
			if n < 8 {
				t.Fatalf("there are only %d steps", steps)
			}
			return
		}
		if !errors.Is(err, died) && err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		kept := errors.Is(err, ErrWaits) || err == nil
		h.record(t, testSystem, 3)
		got := strings.Join(subjects(t, h.repo), ", ")
		want := "snapshot 1, snapshot 2, snapshot 3"
		if got != want && (kept || got != "snapshot 1, snapshot 3") {
			t.Errorf("died at step %d: %s (told: %v)", n, got, err)
		}
		if waits, err := AllWaiting(h.state); len(waits) > 0 || err != nil {
			t.Errorf("died at step %d: %v wait, %v", n, waits, err)
		}
		if v := verified(t, nil, h.repo); len(v.Findings) > 0 {
			t.Errorf("died at step %d: %v", n, v.Findings)
		}
	}
}

const killedAt = "EVIDENCE_TEST_KILLED_AT"

// TestMain lets the test binary be a process that records, and is killed at a step.
func TestMain(m *testing.M) {
	if at := os.Getenv(killedAt); at != "" {
		recordAndDie(at, os.Args[1], os.Args[2])
		return
	}
	os.Exit(m.Run())
}

func recordAndDie(at, dir, state string) {
	n, _ := strconv.Atoi(at)
	seed, err := os.ReadFile(filepath.Join(state, "signing.key"))
	if err != nil {
		panic(err)
	}
	signer, err := seal.SignerFromSeed(seed)
	if err != nil {
		panic(err)
	}
	st, err := local.Open(dir, local.Options{})
	if err != nil {
		panic(err)
	}
	r, err := repo.Open(context.Background(), st, seal.Credentials{Passphrase: repotest.Passphrase}, repo.Options{Signer: signer})
	if err != nil {
		panic(err)
	}
	rec, steps := (host{state: state, signer: signer, repo: r}).recorder(), 0
	rec.before = func(string) error {
		if steps++; steps == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
	if err := rec.Record(context.Background(), r, statement(testSystem, n)); err != nil {
		panic(err)
	}
}

// Processes are killed one after the other, each at a later step, with one state: what each had kept is in the log, once.
func TestRecordIsKilled(t *testing.T) {
	dir := t.TempDir()
	st, err := local.Create(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, st, nil)
	if err := os.WriteFile(filepath.Join(h.state, "signing.key"), h.signer.Seed(), 0o600); err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		c := exec.Command(os.Args[0], dir, h.state)
		c.Env = append(os.Environ(), killedAt+"="+strconv.Itoa(n))
		out, err := c.CombinedOutput()
		if err == nil {
			break // there are fewer steps
		}
		if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || n > 50 {
			t.Fatalf("step %d: %v: %s", n, err, out)
		}
	}
	got := subjects(t, h.repo)
	seen := map[string]int{}
	for _, s := range got {
		seen[s]++
	}
	// Before the second step is over nothing is kept: the file has not its name yet.
	for n := 3; n <= 8; n++ {
		if seen[fmt.Sprintf("snapshot %d", n)] != 1 {
			t.Errorf("the record of the process that was killed at step %d is there %d times: %v", n, seen[fmt.Sprintf("snapshot %d", n)], got)
		}
	}
	if v := verified(t, nil, h.repo); len(v.Findings) > 0 {
		t.Error(v.Findings)
	}
}

// Processes of one host record at the same time; one of them cannot write its state.
func TestRecordersOfOneHost(t *testing.T) {
	h := newHost(t, storetest.NewMemory(), nil)
	var g sync.WaitGroup
	const each = 10
	for i := range 4 {
		g.Go(func() {
			for n := range each {
				if err := h.recorder().Record(t.Context(), h.repo, statement(testSystem, each*i+n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	if got := subjects(t, h.repo); len(got) != 4*each {
		t.Errorf("%d records of %d: %v", len(got), 4*each, got)
	}
	blind := h
	blind.state = filepath.Join(h.state, "file")
	if err := os.WriteFile(blind.state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	blind.record(t, testSystem, 41)
	h.record(t, testSystem, 42)
	if got := subjects(t, h.repo); len(got) != 4*each+2 {
		t.Errorf("%d records: %v", len(got), got)
	}
	if v := verified(t, nil, h.repo); len(v.Findings) > 0 {
		t.Error(v.Findings)
	}
}

// A host that has lost its state, or was put back to an earlier one, goes on where the repository is.
func TestRecordAfterTheStateWasLost(t *testing.T) {
	h := newHost(t, storetest.NewMemory(), nil)
	h.record(t, testSystem, 1, 2)
	earlier := t.TempDir()
	if err := os.CopyFS(filepath.Join(earlier, spoolName), os.DirFS(filepath.Join(h.state, spoolName))); err != nil {
		t.Fatal(err)
	}
	for n := 3; n < 30; n++ {
		h.record(t, testSystem, n)
	}
	for i, state := range []string{earlier, t.TempDir()} {
		h.state = state
		h.record(t, testSystem, 30+i)
	}
	if got := subjects(t, h.repo); len(got) != 31 {
		t.Errorf("%d records: %v", len(got), got)
	}
	if v := verified(t, nil, h.repo); len(v.Findings) > 0 {
		t.Error(v.Findings)
	}
}

// A store that fails keeps nothing from being recorded: it waits here, is told of, and comes when the store is back.
func TestRecordWaitsForTheStore(t *testing.T) {
	st := storetest.NewFaulty(storetest.NewMemory())
	h := newHost(t, st, nil)
	st.SetFaults(storetest.Fault{Op: "create", When: storetest.Before, Kind: store.Busy})
	for n := 1; n <= 2; n++ {
		if err := h.recorder().Record(t.Context(), h.repo, statement(testSystem, n)); !errors.Is(err, ErrWaits) {
			t.Fatalf("%v", err)
		}
	}
	waits, err := AllWaiting(h.state)
	if err != nil || len(waits) != 2 || waits[0].System != testSystem || waits[0].Repository != h.repo.ID() || waits[0].Kind != Snapshot {
		t.Fatalf("%+v, %v", waits, err)
	}
	st.SetFaults()
	if n, err := h.recorder().Deliver(t.Context(), h.repo); n != 2 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if got := strings.Join(subjects(t, h.repo), ", "); got != "snapshot 1, snapshot 2" {
		t.Error(got)
	}
}

func TestStatementsThatSayTooLittleAreRefused(t *testing.T) {
	h := newHost(t, storetest.NewMemory(), nil)
	for name, spoil := range map[string]func(*Statement){
		"no subject":           func(s *Statement) { s.Subjects = nil },
		"nothing is uncovered": func(s *Statement) { s.NotCovered = nil },
		"no reason":            func(s *Statement) { s.Outcome = Failed },
		"no outcome":           func(s *Statement) { s.Outcome = "" },
		"no kind":              func(s *Statement) { s.Kind = "a b" },
		"times":                func(s *Statement) { s.Finished = s.Started.Add(-1) },
	} {
		s := statement(testSystem, 1)
		spoil(&s)
		if err := h.recorder().Record(t.Context(), h.repo, s); err == nil || errors.Is(err, ErrWaits) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := statement(testSystem, 1)
	s.Outcome, s.Reason = Failed, strings.Repeat("long ", 1000)
	for range 3 * maxSubjects {
		s.Subjects = append(s.Subjects, SHA256(strings.Repeat("x", 60), [32]byte{}))
	}
	if err := h.recorder().Record(t.Context(), h.repo, s); err != nil {
		t.Errorf("what is long is not cut: %v", err)
	}
}
