package capture

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/store/local"
)

const (
	crashDir   = "HOLDFAST_TEST_CRASH_DIR"
	crashStep  = "HOLDFAST_TEST_CRASH_STEP"
	crashSpool = "HOLDFAST_TEST_CRASH_SPOOL"
	crashBegin = wal.LSN(14 * mib)
	crashEnd   = wal.LSN(19*mib + 12345)
)

// crashLog writes the invented log to its end, beginning where a run before was killed, and prints what it
// acknowledges. With a step it kills itself before that change of the directory.
func crashLog(t *testing.T, dir string, step int64, ackSpool bool, out *os.File) {
	var steps atomic.Int64
	before := func() {
		if steps.Add(1) == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // nothing happens after the step, not even in another goroutine's name
		}
	}
	st, err := local.Open(filepath.Join(dir, "store"), local.Options{Before: func(local.Step) error { before(); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	r, log := openTestLog(t, st)
	spool, err := OpenSpool(filepath.Join(dir, "spool"), r.Keys(), "orders-db", dr.Bytes(1<<30))
	if err != nil {
		t.Fatal(err)
	}
	spool.step = func(spoolStep) error { before(); return nil }
	if err := UploadSpool(t.Context(), log, spool); err != nil {
		t.Fatal(err)
	}
	h, ok, err := readHeld(t.Context(), log, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		h.end = crashBegin
	}
	w := NewLogWriter(log, LogOptions{
		Interval: 5 * time.Millisecond, Spool: spool, AckSpool: ackSpool,
		Durable: func(_ wal.TimelineID, l wal.LSN) { _, _ = fmt.Fprintf(out, "acked %d\n", uint64(l)) },
	})
	finish := runWriter(context.Background(), w)
	if err := w.Begin(t.Context(), 1, h.end, h.data, h.pieces); err != nil {
		t.Fatal(err)
	}
	for at := h.end; at < crashEnd; at += 512 << 10 {
		if err := writeTestLog(t.Context(), w, at, min(at+512<<10, crashEnd)); err != nil {
			t.Fatal(err)
		}
		for w.Status().Acknowledged < min(at+512<<10, crashEnd) {
			time.Sleep(time.Millisecond) // the pace of a source, so that there are many pieces
		}
	}
	if err := errors.Join(finish(), spool.Close()); err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintln(out, "finished")
}

func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("it is the child of TestWriterKilledAtEveryStep")
	}
	step, err := strconv.ParseInt(os.Getenv(crashStep), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	crashLog(t, dir, step, os.Getenv(crashSpool) != "", os.Stdout)
}

var crashStride = flag.Int("crash.stride", 7, "die before every n-th change on disk; 1 tries all, in minutes")

// The process kills itself before the changes that it makes on disk, one after the other. What it acknowledged is
// stored after the next run, and nothing has other bytes than were written.
func TestWriterKilledAtEveryStep(t *testing.T) {
	for _, ackSpool := range []bool{false, true} {
		t.Run(fmt.Sprintf("spool=%v", ackSpool), func(t *testing.T) {
			t.Parallel()
			for step := 1; ; step += *crashStride {
				if killedAt(t, step, ackSpool) {
					t.Logf("%d steps", step)
					return
				}
				if t.Failed() || step > 5000 {
					t.Fatalf("stopped at step %d", step)
				}
			}
		})
	}
}

// killedAt runs a child that is killed at a step, then another one that is not, and tells whether the first one
// finished because it has no such step.
func killedAt(t *testing.T, step int, ackSpool bool) bool {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"store", "spool"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	st, err := local.Open(filepath.Join(dir, "store"), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rep, log := openTestLog(t, st)
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$") //nolint:gosec // ourselves
	cmd.Env = append(os.Environ(), crashDir+"="+dir, fmt.Sprintf("%s=%d", crashStep, step))
	if ackSpool {
		cmd.Env = append(cmd.Env, crashSpool+"=1")
	}
	out, err := cmd.Output()
	acked, finished := crashBegin, false
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		if s, ok := strings.CutPrefix(lines.Text(), "acked "); ok {
			n, err := strconv.ParseUint(s, 10, 64)
			if err == nil {
				acked = max(acked, wal.LSN(n))
			}
		}
		finished = finished || lines.Text() == "finished"
	}
	if finished {
		checkTestLog(t, log, crashBegin, crashEnd)
		return true
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("step %d: the child ended with %v\n%s", step, err, out)
	}
	r, err := OpenSpool(filepath.Join(dir, "spool"), rep.Keys(), "orders-db", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(UploadSpool(t.Context(), log, r), r.Close()); err != nil {
		t.Fatalf("step %d: %v", step, err)
	}
	if acked > crashBegin {
		checkTestLog(t, log, crashBegin, acked)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close() //nolint:errcheck // nothing was kept
	crashLog(t, dir, 0, ackSpool, null)
	checkTestLog(t, log, crashBegin, crashEnd)
	return false
}
