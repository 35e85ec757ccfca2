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

const ourModule = "module github.com/holdfast-dr/holdfast"

// tool is a program that a test needs, in a module of its own so that ours has nothing of it.
type tool struct{ name, module, pkg string } // module: a folder below tools/

var (
	versitygw = tool{"versitygw", ".", "github.com/versity/versitygw/cmd/versitygw"}
	fakeGCS   = tool{"fake-gcs-server", "fakegcs", "github.com/fsouza/fake-gcs-server"}
)

// cacheDir is where what tests need is kept from one run to the next.
func cacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory: %w", err)
	}
	cache = filepath.Join(cache, "holdfast-test")
	return cache, os.MkdirAll(cache, 0o700)
}

// buildTool returns the path of a program, built once for each state of its module's go.mod and go.sum and each
// version of Go, and kept in the user's cache directory. Test binaries that run at the same time build it once: the
// others wait.
func buildTool(ctx context.Context, t tool) (string, error) {
	tools, err := toolsDir()
	if err != nil {
		return "", err
	}
	tools = filepath.Join(tools, t.module)
	cache, err := cacheDir()
	if err != nil {
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
	binary := filepath.Join(cache, fmt.Sprintf("%s-%x", t.name, sum.Sum(nil)[:8]))
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
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary+".new", t.pkg) //nolint:gosec // constants
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
