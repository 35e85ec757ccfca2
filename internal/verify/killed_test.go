package verify

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/local"
)

// verifyMain is a test of a repository that waits for ever in a phase, to be killed there: args are the repository, the directory of
// sandboxes, the restore command, the server's programs, the phase and the way.
func verifyMain(repository, sandboxes, command, bin, phase, way string) error {
	ctx := context.Background()
	st, err := local.Open(repository, local.Options{})
	if err != nil {
		return err
	}
	signer, err := seal.NewSigner()
	if err != nil {
		return err
	}
	r, err := repo.Open(ctx, st, seal.Credentials{Passphrase: passphrase}, repo.Options{Codecs: []repo.Codec{page.NewCodec()}, Signer: signer})
	if err != nil {
		return err
	}
	c, err := Choose(ctx, r, system, "latest")
	if err != nil {
		return err
	}
	var opener Opener = FullRestore{}
	if way == "mount" {
		opener = Mount{Log: slog.New(slog.DiscardHandler)}
	}
	_, err = Run(ctx, r, c.Plan, Options{Depth: Boot, Sample: 0.5, Opener: opener, Sandbox: sandboxes, RestoreCommand: command, BinDir: bin, Progress: func(p dr.Progress) {
		if p.Phase == phase && p.Done > 0 {
			fmt.Println("here")
			select {}
		}
	}})
	return err
}

// A test that is killed with SIGKILL, while it restores or while its server runs, leaves no process; the next one removes the rest.
func TestKilledTest(t *testing.T) {
	w := newWorld(t, pgtest.Options{Version: "15"})
	w.s.Exec("", "CREATE TABLE orders AS SELECT generate_series(1, 1000) AS i")
	w.snapshot()
	w.s.Exec("", "INSERT INTO orders SELECT generate_series(1, 1000)")
	w.archive()
	for _, c := range []struct{ phase, way string }{{"writing files", "restore"}, {"replaying the log", "restore"}, {"replaying the log", "mount"}} {
		if c.way == "mount" && !mountable() {
			continue
		}
		phase := c.phase
		cmd := exec.Command(w.binary(), w.dir, w.base, w.restoreCommand(), w.s.BinDir, c.phase, c.way)
		cmd.Env, cmd.Stderr = append(os.Environ(), roleEnv+"=verify"), os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "here\n" {
			t.Fatalf("%s: the test says %q: %v", phase, line, err)
		}
		boxes, err := filepath.Glob(filepath.Join(w.base, sandboxPrefix+"*"))
		if err != nil || len(boxes) != 1 {
			t.Fatalf("%s: sandboxes %v, %v", phase, boxes, err)
		}
		if notes := Cleanup(t.Context(), w.base); len(notes) > 0 {
			t.Errorf("%s: a test that runs was cleaned up: %q", phase, notes)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() //nolint:errcheck // it was killed
		awaitNobodyIn(t, boxes[0])
		if notes := Cleanup(t.Context(), w.base); len(notes) != 1 || !strings.Contains(notes[0], "was removed") {
			t.Errorf("%s: %q", phase, notes)
		}
		nothingLeft(t, w)
	}
}

// awaitNobodyIn waits until no process works in a sandbox: nobody but the kernel ends them.
func awaitNobodyIn(t *testing.T, dir string) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		left := ""
		procs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range procs {
			if cwd, err := os.Readlink(filepath.Join(p, "cwd")); err == nil && strings.HasPrefix(cwd, dir) {
				left = p
			}
		}
		if left == "" {
			return
		}
		select {
		case <-again.C:
		case <-t.Context().Done():
			t.Fatalf("%s goes on", left)
		}
	}
}
