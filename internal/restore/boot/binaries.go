package boot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

var versionLine = regexp.MustCompile(`PostgreSQL\) (\d+)`)

// FindBinaries returns the directory that holds PostgreSQL's programs of a major version: dir where it is
// given, else where packages put them, else on the PATH. A cluster can only be started by its own major version.
func FindBinaries(major int, dir string) (string, error) {
	candidates := []string{dir}
	if dir == "" {
		candidates = []string{fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), fmt.Sprintf("/usr/pgsql-%d/bin", major)}
		if p, err := exec.LookPath("postgres"); err == nil {
			candidates = append(candidates, filepath.Dir(p))
		}
	}
	var found []string
	for _, c := range candidates {
		have, err := majorOf(filepath.Join(c, "postgres"))
		if err != nil {
			continue
		}
		if have == major {
			return c, nil
		}
		found = append(found, fmt.Sprintf("version %d in %s", have, c))
	}
	f := &dr.Failure{
		What:   fmt.Sprintf("start PostgreSQL %d: its programs are not there", major),
		Reason: "looked for postgres in " + strings.Join(candidates, ", "),
		Next:   fmt.Sprintf("apt-get install postgresql-%d, or name the directory of its programs with --bin-dir", major),
	}
	if len(found) > 0 {
		f.Reason = fmt.Sprintf("a cluster is started by its own major version, and there is only %s", strings.Join(found, " and "))
	}
	return "", f
}

func majorOf(postgres string) (int, error) {
	if _, err := os.Stat(postgres); err != nil {
		return 0, err
	}
	out, err := exec.Command(postgres, "--version").Output()
	if err != nil {
		return 0, err
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s --version says %q", postgres, out)
	}
	return strconv.Atoi(string(m[1]))
}
