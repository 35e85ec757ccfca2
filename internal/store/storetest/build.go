package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	ourModule    = "module github.com/holdfast-dr/holdfast"
	versitygwCmd = "github.com/versity/versitygw/cmd/versitygw"
)

// buildVersitygw returns the path of the S3 server, built once for each state of tools/go.mod and tools/go.sum
// and each version of Go, and kept in the user's cache directory. Test binaries that run at the same time build
// it once: the others wait.
func buildVersitygw(ctx context.Context) (string, error) {
	tools, err := toolsDir()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory: %w", err)
	}
	cache = filepath.Join(cache, "holdfast-test")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	sum := sha256.New()
	_, _ = fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(tools, name))
		if err != nil {
			return "", err
		}
		_, _ = sum.Write(text)
	}
	binary := filepath.Join(cache, fmt.Sprintf("versitygw-%x", sum.Sum(nil)[:8]))
	lock, err := os.OpenFile(binary+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close() // and with it the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(binary); !errors.Is(err, fs.ErrNotExist) {
		return binary, err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary+".new", versitygwCmd) //nolint:gosec // constants
	cmd.Dir = tools
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s in %s: %w\n%s", cmd, tools, err, out)
	}
	return binary, os.Rename(binary+".new", binary)
}

// toolsDir finds the module of the tools, beside the root of ours, upwards from the working directory of the test.
func toolsDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), ourModule+"\n") {
			return filepath.Join(dir, "tools"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod of holdfast above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}
