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

// The demonstration does what it says: it kills a server under load, and what comes back adds up.
func TestDemo(t *testing.T) {
	pgtest.Versions(t) // skips where there is no server at all
	program := filepath.Join(pgtest.TempDir(t), "holdfast")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/holdfast").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(program, "demo", "-o", "json", "--rows", "20000", "--load", "3s")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("holdfast demo: %v\n%s", err, stderr.Bytes())
	}
	var r demo.Result
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Acknowledged == 0 || r.Recovered == 0 || r.Recovered+r.Lost+r.Wrong != r.Acknowledged || r.Wrong != 0 || r.RTO <= 0 {
		t.Errorf("the demonstration's result does not add up: %+v\n%s", r, stderr.Bytes())
	}
}
