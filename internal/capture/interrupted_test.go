package capture_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// A server that goes away in the middle is told with reason and next step, however it went and however it was read;
// and nothing that looks like a snapshot is left.
func TestServerGoesAwayInTheMiddleOfASnapshot(t *testing.T) {
	t.Parallel()
	for _, how := range []struct {
		name string
		end  func(*pgtest.Server)
	}{
		{"shut down", func(s *pgtest.Server) { s.Stop(pgtest.Fast) }},
		{"crashed", func(s *pgtest.Server) { s.Stop(pgtest.Immediate) }},
		{"killed", func(s *pgtest.Server) { s.Kill9() }},
	} {
		for _, local := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, local=%v", how.name, local), func(t *testing.T) {
				t.Parallel()
				s := pgtest.Start(t, pgtest.Options{})
				r := newRepository(t)
				cfg := snapshotConfig(s, local)
				var once sync.Once
				cfg.Progress = func(dr.Progress) { once.Do(func() { how.end(s) }) }
				_, err := capture.Snapshot(t.Context(), r, cfg)
				var f *dr.Failure
				if !errors.As(err, &f) || f.What != "the server went away in the middle of the backup" || f.Reason == "" || f.Next == "" {
					t.Fatalf("the error is %v", err)
				}
				if !strings.HasPrefix(err.Error(), "snapshot of orders-db: the server went away") {
					t.Errorf("the error begins with %q", err)
				}
				if list, err := r.Snapshots(t.Context(), "orders-db"); err != nil || len(list) > 0 {
					t.Errorf("%d snapshots, %v", len(list), err)
				}
				t.Log(err)
			})
		}
	}
}
