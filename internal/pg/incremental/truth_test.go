package incremental

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
)

// truth demands that the blocks that differ from the server's are those that are proven to be wrong.
func (c chain) truth(t *testing.T, s *pgtest.Server, r *Report) {
	t.Helper()
	differ, proven, _ := c.compare(t, s, r)
	if diff := cmp.Diff(differ, proven); diff != "" {
		t.Errorf("blocks that differ from the server, and those that are proven to (-differ +proven):\n%s\n%s", diff, text(r.Findings))
	}
	t.Logf("%d files with wrong blocks", len(differ))
}

// compare compares what the chain restores to with a full backup taken right after its last one, on a server where
// nobody wrote. It returns for each file how many blocks differ, are proven to be wrong, and are suspects.
func (c chain) compare(t *testing.T, s *pgtest.Server, r *Report) (differ, proven, suspected map[string]int) {
	t.Helper()
	full := filepath.Join(t.TempDir(), "truth")
	s.BaseBackup(full, "")
	a := &audit{report: &Report{}}
	for _, dir := range c.dirs {
		b, err := openBackup(t.Context(), dir, dir)
		if err != nil {
			t.Fatal(err)
		}
		a.backups, a.segmentBlocks = append(a.backups, b), b.control.SegmentBlocks
	}
	differ = map[string]int{}
	last := len(c.dirs) - 1
	for _, root := range relationRoots {
		err := a.backups[last].files(t.Context(), root, func(p string) error {
			bare, rel, _, ok := relationPath(p)
			if !ok || rel.Fork == cluster.FSM {
				return nil
			}
			want, err := os.ReadFile(filepath.Join(full, bare))
			if err != nil {
				return err
			}
			seg, err := a.openSegment(last, bare, rel)
			if err != nil {
				return err
			}
			defer seg.close()
			if int(seg.length)*page.Size != len(want) {
				return fmt.Errorf("%s has %d blocks, on the server %d", bare, seg.length, len(want)/page.Size)
			}
			buf := make([]byte, page.Size)
			for i := range seg.length {
				if _, err := seg.page(i, buf); err != nil {
					return err
				}
				if !bytes.Equal(buf, want[int(i)*page.Size:int(i+1)*page.Size]) {
					differ[bare]++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	proven, suspected = map[string]int{}, map[string]int{}
	for _, f := range r.Findings {
		if f.Backup != c.dirs[last] {
			continue
		}
		if f.Proof {
			proven[f.Path] += f.Count
		} else {
			suspected[f.Path] += f.Count
		}
	}
	return differ, proven, suspected
}
