package restore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// DamagedRange is a part of a file whose chunk the repository has lost.
type DamagedRange struct {
	File   string `json:"file"` // path in the tree
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	Reason string `json:"reason"`
}

// DamageError says which parts of which files could not be restored. Everything else was.
type DamageError struct {
	Snapshot  repo.SnapshotID
	To        string
	Ranges    []DamagedRange // by file and offset
	Startable bool           // KeepDamage: the directory was finished all the same
}

func (e *DamageError) Error() string {
	first, files := e.Ranges[0], 0
	for i, r := range e.Ranges {
		if i == 0 || r.File != e.Ranges[i-1].File {
			files++
		}
	}
	s := fmt.Sprintf("restore snapshot %s to %q: %d files are damaged, the first is %s at byte %d", e.Snapshot, e.To, files, first.File, first.Offset)
	if files == 1 {
		s = fmt.Sprintf("restore snapshot %s to %q: %s is damaged at byte %d", e.Snapshot, e.To, first.File, first.Offset)
	}
	s += "\n  reason: " + first.Reason
	if e.Startable {
		return s + "\n  next:   everything else was restored; the damaged parts are zeros: dump what can be read, and look at the other files with pg_amcheck"
	}
	return s + "\n  next:   everything else was restored; mend the repository from another replica and run this again, or choose another snapshot"
}

// isDamage tells what the repository has lost from a store that does not answer: the latter is no property of
// the snapshot, and repeating helps.
func isDamage(err error) bool {
	var ce *repo.ChunkError
	if !errors.As(err, &ce) {
		return false
	}
	var se *store.Error
	if errors.As(err, &se) {
		return se.Kind == store.Gone || se.Kind == store.Damaged
	}
	var de *seal.DamagedError
	return ce.Pack == "" || errors.As(err, &de) || errors.Is(err, seal.ErrUnknownEpoch) || ce.Pack == "list"
}

// damageList collects damage from several workers.
type damageList struct {
	mu     sync.Mutex // guards ranges
	ranges []DamagedRange
}

func (d *damageList) add(r DamagedRange) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ranges = append(d.ranges, r)
}

func (d *damageList) sorted() []DamagedRange {
	slices.SortFunc(d.ranges, func(a, b DamagedRange) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset))
	})
	return d.ranges
}
