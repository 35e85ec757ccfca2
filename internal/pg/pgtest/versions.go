package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// The versions that Holdfast supports.
const (
	oldest = 13
	newest = 18
)

// moreVersions is the variable that names more directories in which versions lie, as below /usr/lib/postgresql.
const moreVersions = "HOLDFAST_TEST_PG"

// installation is one set of binaries.
type installation struct {
	version string // "15.18"
	major   int
	bin     string
}

// Versions returns the major versions that can be started here, ascending: "13", "15", "18". Where there is
// none, the test is skipped.
func Versions(t testing.TB) []string {
	t.Helper()
	var vs []string
	for _, in := range installations() {
		if v := strconv.Itoa(in.major); !slices.Contains(vs, v) {
			vs = append(vs, v)
		}
	}
	if len(vs) == 0 {
		t.Skip("no PostgreSQL is installed: apt-get install postgresql, or scripts/pg-versions.sh")
	}
	return vs
}

// find returns the installation of a major version; an empty version means any, a complete one (Debian's, with
// client programs) before a cached one.
func find(t testing.TB, version string) installation {
	t.Helper()
	var best installation
	for _, in := range installations() {
		if version != "" && version != strconv.Itoa(in.major) {
			continue
		}
		if best.bin == "" || in.complete() && (!best.complete() || in.major > best.major) {
			best = in
		}
	}
	if best.bin == "" {
		t.Skipf("PostgreSQL %s is not installed: scripts/pg-versions.sh fetches it, or apt-get install postgresql-%s", version, version)
	}
	return best
}

func (in installation) complete() bool {
	_, err := os.Stat(filepath.Join(in.bin, "psql"))
	return err == nil
}

// installations looks once per process; ascending by major version.
var installations = sync.OnceValue(func() []installation {
	roots := []string{"/usr/lib/postgresql"}
	if cache, err := os.UserCacheDir(); err == nil {
		roots = append(roots, filepath.Join(cache, "holdfast-test", "pg"))
	}
	var dirs []string
	for _, root := range append(roots, filepath.SplitList(os.Getenv(moreVersions))...) {
		if root == "" {
			continue
		}
		more, _ := filepath.Glob(filepath.Join(root, "*", "bin"))
		dirs = append(dirs, more...)
	}
	var ins []installation
	for _, dir := range dirs {
		if in, err := inspect(dir); err == nil && in.major >= oldest && in.major <= newest {
			ins = append(ins, in)
		}
	}
	slices.SortStableFunc(ins, func(a, b installation) int { return a.major - b.major })
	return ins
})

var versionLine = regexp.MustCompile(`PostgreSQL\) ((\d+)\.\d+)`)

func inspect(bin string) (installation, error) {
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return installation{}, err
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return installation{}, fmt.Errorf("%s/postgres --version says %q", bin, out)
	}
	major, err := strconv.Atoi(string(m[2]))
	return installation{version: string(m[1]), major: major, bin: bin}, err
}
