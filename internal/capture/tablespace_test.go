package capture_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// The log makes it anew; files where it makes the link would end the recovery.
func TestSnapshotLeavesOutATablespaceThatIsNewerThanIt(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{Version: "15"})
	fill(t, s)
	space := pgtest.TempDir(t)
	var once sync.Once
	cfg := snapshotConfig(s, true)
	cfg.Progress = func(dr.Progress) { // base/ is being read, pg_tblspc/ comes after it
		once.Do(func() {
			s.Exec("", "CREATE TABLESPACE late LOCATION '"+space+"'", "CREATE TABLE late TABLESPACE late AS SELECT generate_series(1, 1000) AS i")
		})
	}
	r := newRepository(t)
	report, err := capture.Snapshot(t.Context(), r, cfg)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := pg.ParseFacts(report.Snapshot.Engine, report.Snapshot.Facts)
	if err != nil {
		t.Fatal(err)
	}
	late := s.Query("", "SELECT oid FROM pg_tablespace WHERE spcname = 'late'")
	far := s.Query("", "SELECT oid FROM pg_tablespace WHERE spcname = 'far'")
	if len(facts.Tablespaces) != 1 || facts.Tablespaces[0].Name != "far" {
		t.Errorf("the facts have %+v, want only far", facts.Tablespaces)
	}
	found := false
	for path := range tree(t, r, report.Snapshot) {
		found = found || strings.HasPrefix(path, "pg_tblspc/"+far+"/")
		if strings.HasPrefix(path, "pg_tblspc/"+late) {
			t.Errorf("the snapshot has %s of a tablespace that is newer", path)
		}
	}
	if !found {
		t.Error("the snapshot has nothing of the tablespace that was there")
	}
}
