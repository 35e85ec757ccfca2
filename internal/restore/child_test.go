package restore_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

const (
	toEnv   = "HOLDFAST_TEST_TO"
	killEnv = "HOLDFAST_TEST_KILL" // the step at which the child kills itself
	modeEnv = "HOLDFAST_TEST_MODE"
	binEnv  = "HOLDFAST_TEST_BIN" // of PostgreSQL's programs
)

// restoreMain is a restore that kills itself at the nth piece of progress: every phase's beginning and every
// chunk that was written is one.
func restoreMain() int {
	ctx := context.Background()
	n, err := strconv.Atoi(os.Getenv(killEnv))
	if err != nil {
		return 2
	}
	r, err := openRepository(ctx, os.Getenv(repoEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	v, err := points.Load(ctx, r, system)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	p, err := v.Plan(ctx, points.Target{}, points.Timeline{}, points.RefuseLoss)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var step atomic.Int64
	o := restore.Options{
		To: os.Getenv(toEnv), Mode: restore.Mode(os.Getenv(modeEnv)), Workers: 2,
		Settings: unserved, Changes: changes(r, p),
		Progress: func(dr.Progress) {
			if step.Add(1) == int64(n) {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		},
	}
	if _, err := restore.Run(ctx, r, p, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// digest lists a directory: names and contents.
func digest(dir string) (map[string]string, error) {
	return digestOf(dir, func(b []byte) string { return string(b) })
}

// short is a content for digestOf that tells what is large from all else, and can be printed.
func short(b []byte) string {
	if len(b) <= 100 {
		return string(b)
	}
	return fmt.Sprintf("%s… %d bytes, %x", b[:100], len(b), sha256.Sum256(b))
}

func digestOf(dir string, content func([]byte) string) (map[string]string, error) {
	out := map[string]string{}
	return out, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		switch {
		case err != nil:
			return err
		case d.IsDir():
			out[rel+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			out[rel] = "-> " + strings.ReplaceAll(link, dir, "DIR")
			return err
		default:
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			out[rel] = content(b)
			return err
		}
		return nil
	})
}
