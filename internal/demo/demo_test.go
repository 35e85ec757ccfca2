package demo_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/demo"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// run runs the demonstration with the program that is built from here.
func run(t *testing.T, args ...string) (r demo.Result, said string) {
	t.Helper()
	pgtest.Versions(t) // skips where there is no server at all
	program := filepath.Join(pgtest.TempDir(t), "holdfast")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/holdfast").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(program, append([]string{"demo", "-o", "json", "--rows", "20000", "--load", "3s"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("holdfast demo: %v\n%s", err, stderr.Bytes())
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Acknowledged == 0 || r.Recovered == 0 || r.Recovered+r.Lost+r.Wrong != r.Acknowledged || r.Wrong != 0 || r.RTO <= 0 {
		t.Errorf("the demonstration's result does not add up: %+v\n%s", r, stderr.Bytes())
	}
	return r, stderr.String()
}

// The demonstration does what it says: it kills a server under load, and what comes back adds up.
func TestDemo(t *testing.T) {
	t.Parallel()
	run(t)
}

// The one with regions loses the first of three sites, says what the others hold, and recovers from one of them.
func TestDemoWithRegions(t *testing.T) {
	t.Parallel()
	r, said := run(t, "--regions")
	if len(r.Sites) != 3 || r.From == "" || r.From == "here" {
		t.Fatalf("it recovers from %q, of %+v\n%s", r.From, r.Sites, said)
	}
	for _, s := range r.Sites {
		if gone := s.Name == "here"; gone != (s.Problem != "") || gone != s.Point.IsZero() {
			t.Errorf("site %s: %+v", s.Name, s)
		}
	}
}
