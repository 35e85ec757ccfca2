package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/verify"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// A test by the agent is kept, tells of damage, and puts the next one off until it is due; one that cannot be run is tried again.
func TestTester(t *testing.T) {
	s := newSite(t, "hourly")
	c, err := config.Load(s.path)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	w := workspace.New(c, log)
	defer w.Close()
	sys, err := w.System(t.Context(), testSystem)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Snapshot(t.Context(), sys, workspace.SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	weekly, err := dr.ParseSchedule("weekly")
	if err != nil {
		t.Fatal(err)
	}
	policy := c.PolicyOf(sys.System)
	policy.Verify.Sample = 1
	te := &tester{
		open: func() *workspace.Workspace { return workspace.New(c, log) }, system: sys.System, policy: policy, dir: t.TempDir(), log: log,
		timing: dr.Timing{Schedule: weekly}, retry: time.Minute, command: func(string) (string, error) { return "false %f %p", nil },
	}
	now := wallClock()
	if due := te.due(now, now.AddDate(-1, 0, 0)); due.After(now) {
		t.Errorf("the first test is due at %s", due)
	}
	te.try(t.Context())
	st := te.status()
	if st.Last == nil || st.Last.Outcome != verify.Passed || st.Last.Proven != verify.Pages || len(st.Proven) != 2 || len(st.illness()) > 0 {
		t.Fatalf("%+v", st)
	}
	if due := te.due(wallClock(), now.AddDate(-1, 0, 0)); !due.After(now) {
		t.Errorf("after a test the next one is due at %s", due)
	}

	// A pack loses its middle.
	err = filepath.WalkDir(filepath.Join(s.dir, "repository", "packs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		return errors.Join(err, os.Chmod(path, 0o600), os.Truncate(path, info.Size()/2))
	})
	if err != nil {
		t.Fatal(err)
	}
	te.try(t.Context())
	if st = te.status(); st.Last.Outcome != verify.Failed || st.Last.Problems == 0 || len(st.Proven) != 2 ||
		!strings.Contains(strings.Join(st.illness(), " "), "failed: ") {
		t.Errorf("%+v", st)
	}

	te.command = func(string) (string, error) { return "", context.DeadlineExceeded }
	te.try(t.Context())
	now = wallClock()
	if due := te.due(now, now.AddDate(-1, 0, 0)); te.status().Failures != 1 || !due.After(now) {
		t.Errorf("after a failure it is due at %s: %+v", due, te.status())
	}
	if all, err := verify.Tests(te.dir); err != nil || len(all) != 2 {
		t.Errorf("%d tests are kept: %v", len(all), err)
	}
}
