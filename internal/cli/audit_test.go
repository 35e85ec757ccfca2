package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// A real backup: nothing is found and the code is 0; a page is damaged and the code is 3, in both formats.
func TestAuditSaysWhatItFound(t *testing.T) {
	versions := slices.DeleteFunc(pgtest.Versions(t), func(v string) bool { n, _ := strconv.Atoi(v); return n < 17 })
	if len(versions) == 0 {
		t.Skip("no PostgreSQL 17 or 18 is installed: scripts/pg-versions.sh")
	}
	s := pgtest.Start(t, pgtest.Options{Version: versions[0], Checksums: true})
	dir := filepath.Join(t.TempDir(), "full")
	s.BaseBackup(dir, "")

	audit := func(want int, more ...string) (stdout, stderr string) {
		t.Helper()
		var out, err bytes.Buffer
		if code := Main(t.Context(), append([]string{"audit", "pg-incremental", dir}, more...), nil, &out, &err); code != want {
			t.Errorf("exit code %d, want %d\n%s%s", code, want, &out, &err)
		}
		return out.String(), err.String()
	}
	out, _ := audit(exitDone)
	for _, want := range []string{"backup " + dir + ": full", "looked for: vm-clear", "\n0 findings\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}

	file := filepath.Join(dir, "base", "5", "1255")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[8192*3-50] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, errText := audit(exitMissed)
	for _, want := range []string{"DAMAGED: file: " + dir + ": base/5/1255", "DAMAGED: page: " + dir + ": base/5/1255, 1 block: 2\n  reason: page 2 has checksum"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if !strings.Contains(errText, "2 findings in this chain\n  next:   do not trust it") {
		t.Error(errText)
	}
	out, _ = audit(exitMissed, "-o", "json")
	var v struct {
		Findings []struct {
			Kind  string
			Proof bool
		}
		NotCovered []string
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || len(v.Findings) != 2 || v.Findings[1].Kind != "page" || !v.Findings[1].Proof {
		t.Errorf("%v: %s", err, out)
	}
}
