package capture

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

var spoolSeed = flag.Uint64("spool.seed", 0, "repeat the random fates of the run that printed this seed")

const spoolHistory = "00000002.history"

// spoolScript takes log over the border of a block into a spool, in pieces of which some go to one file, drops what
// is old, and keeps a history. It tries again what fails, as the writer does, and tells after each step what the spool
// must hold from then on.
func spoolScript(s *Spool, holds func(start, end wal.LSN, history bool)) error {
	const border = wal.LSN(repo.MaxExtent)
	start, at, history := border-300<<10, border-300<<10, false
	again := func(what func() error) error {
		err := what()
		for n := 0; err != nil && n < 3; n++ {
			err = what()
		}
		return err
	}
	take := func(n wal.LSN) error {
		return again(func() error {
			for from := at; from < at+n; { // each block by itself
				to := min(at+n, logBlockStart(from)+border)
				if _, err := s.Append(1, from, testLog(from, to), time.Unix(1e9, 0)); err != nil {
					_ = s.Sync() // of what was taken; the writer counts on none of it
					return err
				}
				from = to
			}
			if err := s.Sync(); err != nil {
				return err
			}
			at += n
			holds(start, at, history)
			return nil
		})
	}
	steps := []func() error{
		func() error { return take(100 << 10) }, func() error { return take(50) },
		func() error {
			return again(func() error {
				err := s.PutFile(spoolHistory, []byte("1\t0/3000000\tpromoted\n"))
				if history = err == nil; history {
					holds(start, at, history)
				}
				return err
			})
		},
		func() error { return take(1200 << 10) }, func() error { return take(64) },
		func() error { // what is dropped has to be nowhere
			start = border
			holds(start, at, history)
			return again(func() error { return s.Drop(1, border) })
		},
		func() error { return take(2000) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// The power fails before every step that changes the spool's directory: what was synced comes back, with its names, and
// what comes back has the bytes that were written.
func TestSpoolOutlivesPowerLoss(t *testing.T) {
	r, _ := openTestLog(t, storetest.NewMemory())
	s := openTestSpool(t, r, 0)
	power := storetest.NewPowerLoss()
	s.step = func(st spoolStep) error {
		return power.Record(local.Step{Op: local.Op(st.op), Path: st.path, To: st.to, Data: st.data})
	}
	type promise struct {
		from       int
		start, end wal.LSN
		history    bool
	}
	var promises []promise
	err := spoolScript(s, func(start, end wal.LSN, history bool) {
		promises = append(promises, promise{power.Len(), start, end, history})
	})
	if err != nil {
		t.Fatal(err)
	}
	seed := *spoolSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("%d steps, %d promises; repeat with -spool.seed %d", power.Len(), len(promises), seed)
	if power.Len() < 20 {
		t.Errorf("only %d steps", power.Len())
	}
	for n := range power.Len() + 1 {
		var now promise
		for _, p := range promises {
			if p.from <= n {
				now = p
			}
		}
		for i, fate := range []storetest.Fate{storetest.LoseAll, storetest.NamesOnly, storetest.RandomFate(seed + uint64(n)), storetest.RandomFate(seed + uint64(n) + 1<<32)} {
			dir := filepath.Join(t.TempDir(), "spool")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := power.Leave(dir, n, fate); err != nil {
				t.Fatal(err)
			}
			again, err := OpenSpool(dir, r.Keys(), "orders-db", 0)
			if err != nil {
				t.Fatalf("power lost before step %d, fate %d: %v", n, i, err)
			}
			wantSpooled(t, fmt.Sprintf("power lost before step %d, fate %d", n, i), again, now.start, now.end, now.history)
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Every step that changes the spool's directory fails once for want of room, before its effect or, of a write, in its
// middle: what the spool then says it holds it holds, also for the next process.
func TestSpoolOnAFullDisk(t *testing.T) {
	t.Parallel()
	r, _ := openTestLog(t, storetest.NewMemory())
	for step := 1; ; step++ {
		for _, middle := range []bool{false, true} {
			s := openTestSpool(t, r, 0)
			n, failed, power := 0, false, storetest.NewPowerLoss()
			s.step = func(st spoolStep) error {
				if n++; n != step || (middle && st.op != "write") {
					return power.Record(local.Step{Op: local.Op(st.op), Path: st.path, To: st.to, Data: st.data})
				}
				failed = true
				if middle {
					if err := appendTo(filepath.Join(s.dir, st.path), st.data[:len(st.data)/2]); err != nil {
						return err
					}
				}
				return unix.ENOSPC
			}
			var start, end wal.LSN
			var history bool
			err := spoolScript(s, func(from, to wal.LSN, h bool) {
				start, end, history = from, to, h
				if step%3 == 0 {
					wantSpooled(t, fmt.Sprintf("step %d failed", step), s, start, end, history)
				}
			})
			if err != nil {
				t.Fatalf("step %d failed: %v", step, err)
			}
			s = reopenSpool(t, s)
			wantSpooled(t, fmt.Sprintf("step %d failed, and the spool was opened again", step), s, start, end, history)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			wantAfterPowerLoss(t, fmt.Sprintf("step %d failed, and then the power", step), s, power, start, end, history)
			if !failed && !middle {
				if step < 20 {
					t.Errorf("only %d steps", step)
				}
				return
			}
		}
	}
}

func wantAfterPowerLoss(t *testing.T, when string, s *Spool, power *storetest.PowerLoss, start, end wal.LSN, history bool) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "spool")
	if err := errors.Join(os.Mkdir(dir, 0o700), power.Leave(dir, power.Len(), storetest.LoseAll)); err != nil {
		t.Fatal(err)
	}
	again, err := OpenSpool(dir, s.keys, "orders-db", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close() //nolint:errcheck // only read
	wantSpooled(t, when, again, start, end, history)
}

func appendTo(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// wantSpooled wants the spool to hold the log from start to end, and nothing that is not of the log.
func wantSpooled(t *testing.T, when string, s *Spool, start, end wal.LSN, history bool) {
	t.Helper()
	for _, r := range s.Ranges() {
		got := make([]byte, r.End-r.Start)
		if err := s.Read(r.Timeline, r.Start, got); err != nil {
			t.Errorf("%s: %v", when, err)
			return
		}
		if string(got) != string(testLog(r.Start, r.End)) {
			t.Errorf("%s: %s to %s comes back with other bytes", when, r.Start, r.End)
		}
		if start >= r.Start && start < r.End {
			start = min(r.End, end)
		}
	}
	if start < end {
		t.Errorf("%s: the spool does not hold the log from %s to %s, which it had promised", when, start, end)
	}
	files, err := s.Files()
	if err != nil || history && len(files[spoolHistory]) == 0 {
		t.Errorf("%s: files are %q, %v", when, files, err)
	}
}
