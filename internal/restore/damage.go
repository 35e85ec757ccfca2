package restore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
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

// LostPaths is a part of the snapshot's tree that the repository has lost: all files and directories whose paths sort
// behind After up to To, and To itself.
type LostPaths struct {
	After  string `json:"after"`
	To     string `json:"to"`
	Reason string `json:"reason"`
}

func (l LostPaths) String() string { return repo.LostPaths{After: l.After, To: l.To}.String() }

// DamageError says which files, and which parts of files, could not be restored. Everything else was.
type DamageError struct {
	Snapshot  repo.SnapshotID
	To        string
	Ranges    []DamagedRange // by file and offset
	Lost      []LostPaths    // in the tree's order
	Rescued   int64          // files of Lost that are there all the same, as Result says
	Old       []string       // files of Lost that are of the cluster before, as Result says
	Startable bool           // KeepDamage: the directory was finished all the same
}

func (e *DamageError) Error() string {
	var what, reason []string
	if n := len(e.Lost); n > 0 {
		what, reason = append(what, "of its tree "+e.Lost[0].String()+" is lost"), append(reason, e.Lost[0].Reason)
		if n > 1 {
			what = append(what, fmt.Sprintf("%d more parts of it are", n-1))
		}
		if e.Rescued > 0 {
			what = append(what, rescued(e.Rescued))
		}
		if len(e.Old) > 0 {
			what = append(what, e.oldFiles())
		}
	}
	if len(e.Ranges) > 0 {
		what, reason = append(what, e.damagedFiles()), append(reason, e.Ranges[0].Reason)
	}
	absent := "are not there"
	if len(e.Old) > 0 {
		absent = "are not there, or of another moment"
	}
	next := "everything else was restored; mend the repository from another replica and run this again, or choose another snapshot"
	if e.Startable {
		next = "everything else was restored; damaged parts are zeros, and lost files " + absent + ": dump what can be read, and look at the other files with pg_amcheck"
	}
	return fmt.Sprintf("restore snapshot %s to %q: %s\n  reason: %s\n  next:   %s", e.Snapshot, e.To, strings.Join(what, "; "), strings.Join(reason, "; "), next)
}

func (e *DamageError) oldFiles() string {
	if n := len(e.Old); n > 1 {
		return fmt.Sprintf("%d files of it, the first is %s, were left as they were in the cluster before", n, e.Old[0])
	}
	return e.Old[0] + " was left as it was in the cluster before"
}

func (e *DamageError) damagedFiles() string {
	first, files := e.Ranges[0], 0
	for i, r := range e.Ranges {
		if i == 0 || r.File != e.Ranges[i-1].File {
			files++
		}
	}
	if files == 1 {
		return fmt.Sprintf("%s is damaged at byte %d", first.File, first.Offset)
	}
	return fmt.Sprintf("%d files are damaged, the first is %s at byte %d", files, first.File, first.Offset)
}

func (x *run) damaged() bool { return len(x.result.Damaged) > 0 || len(x.result.Lost) > 0 }

// startable tells whether the directory may be finished.
func (x *run) startable() bool {
	return x.control != nil && (!x.damaged() || x.opts.Damage == KeepDamage)
}

// losePaths notes a part of the tree that is lost. The tree is walked more than once.
func (x *run) losePaths(l repo.LostPaths) error {
	if !IsDamage(l.Err) {
		return l.Err
	}
	if lost := (LostPaths{l.After, l.To, l.Err.Error()}); !slices.Contains(x.result.Lost, lost) {
		x.result.Lost = append(x.result.Lost, lost)
	}
	return nil
}

// isLost tells whether a path may have been in a part of the tree that is lost.
func (x *run) isLost(path string) bool {
	return slices.ContainsFunc(x.result.Lost, func(l LostPaths) bool { return path > l.After && (path <= l.To || l.To == "") })
}

// mayHoldLost tells whether a path below a directory may have been in a part of the tree that is lost.
func (x *run) mayHoldLost(dir string) bool {
	first, behind := dir+"/", dir+"0" // 0 follows the slash
	return slices.ContainsFunc(x.result.Lost, func(l LostPaths) bool { return l.After < behind && (first <= l.To || l.To == "") })
}

// rescue keeps a file of a lost part of the tree, if the journal says that an earlier run has restored it when the tree
// was whole: it may be the last copy.
func (x *run) rescue(path string, a *area, rel string) bool {
	fi, err := a.root.Lstat(rel)
	if err != nil || !fi.Mode().IsRegular() || !x.journal.has(path, fi.Size()) {
		return false
	}
	x.result.Rescued++
	x.haveConf(path)
	return true
}

// leaveOld leaves a file of the cluster before in its place, if a snapshot may have had it: its better copy is lost.
// Without KeepDamage no Delta comes here; refuseDelta is asked before.
func (x *run) leaveOld(path string) bool {
	if !x.state.hasCluster() || leftOut[path] || !cluster.MayHold(path) {
		return false
	}
	x.result.Old = append(x.result.Old, path)
	x.haveConf(path)
	return true
}

// haveConf notes the files of which a minimal one would be written otherwise.
func (x *run) haveConf(path string) {
	x.conf = x.conf || path == "postgresql.conf"
	x.hba = x.hba || path == "pg_hba.conf"
}

func rescued(n int64) string {
	if n == 1 {
		return "1 file of what is lost had been restored by an earlier run, and was kept"
	}
	return fmt.Sprintf("%d files of what is lost had been restored by an earlier run, and were kept", n)
}

// refuseDelta keeps an existing cluster from a restore that would remove files from it whose better copies are lost.
func (x *run) refuseDelta() error {
	if len(x.result.Lost) == 0 || !x.state.hasCluster() || x.opts.Damage == KeepDamage {
		return nil
	}
	f := &dr.Failure{
		What:   fmt.Sprintf("restore %s onto the cluster in %q: of the snapshot's tree %s is lost", x.plan.System, x.opts.To, x.result.Lost[0]),
		Reason: x.result.Lost[0].Reason + "; these files would be removed from the cluster, and nothing put in their place",
		Next:   "nothing was changed: mend the repository from another replica, choose another snapshot, or restore into an empty directory",
	}
	if x.state == targetOurDelta {
		f.Next = "nothing was removed: mend the repository from another replica, and run this again; with --keep-damaged these files stay as they are"
	}
	return f
}

// IsDamage tells what the repository has lost, a chunk or an object of the log, from a store that does not answer: the latter is no property of
// the snapshot, and repeating helps.
func IsDamage(err error) bool {
	var ce *repo.ChunkError
	if !errors.As(err, &ce) {
		return false
	}
	var se *store.Error
	if errors.As(err, &se) {
		return se.Kind == store.Gone || se.Kind == store.Damaged
	}
	var de *seal.DamagedError
	return ce.Pack == "" || errors.As(err, &de) || errors.Is(err, seal.ErrUnknownEpoch) || ce.Pack == "list" || ce.Pack == "tree"
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
