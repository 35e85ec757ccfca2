package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
)

const tablespaceDir = "pg_tblspc"

// area is a directory that is written: the data directory or a tablespace. Writing goes through root, which
// lets no path and no link lead out of it: a snapshot is hostile input.
type area struct {
	dir  string
	root *os.Root // opened by begin, which sets maxFolders too
	need int64    // bytes that it will take
	have int64    // of these, bytes that lie there already

	buffered atomic.Bool // its file system does not write past the page cache

	maxFolders int
	mu         sync.Mutex // guards folders
	folders    map[string]*os.Root
}

// maxFolders is how many directories are kept open, of all areas together.
const maxFolders = 128

// folder returns the directory in which a file is, which stays open, since a root looks up each element of a path on its
// own, and the file's name in it.
func (a *area) folder(rel string) (*os.Root, string) {
	dir, base := path.Split(rel)
	if dir == "" {
		return a.root, rel
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.folders[dir]; r != nil {
		return r, base
	}
	if len(a.folders) >= a.maxFolders {
		return a.root, rel
	}
	r, err := a.root.OpenRoot(path.Clean(dir))
	if err != nil {
		return a.root, rel // which tells what is wrong
	}
	if a.folders == nil {
		a.folders = map[string]*os.Root{}
	}
	a.folders[dir] = r
	return r, base
}

// has tells whether a file of this size is there. A journal alone does not know what was removed since.
func (a *area) has(rel string, size int64) bool {
	fi, err := a.root.Lstat(rel)
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size
}

// layout says where the paths of a tree go.
type layout struct {
	data   *area
	spaces map[uint32]*area // tablespaces outside of the data directory, by OID
}

func (l *layout) areas() []*area {
	all := []*area{l.data}
	for _, a := range l.spaces {
		all = append(all, a)
	}
	return all
}

func (l *layout) close() error {
	var errs []error
	for _, a := range l.areas() {
		for _, r := range a.folders {
			errs = append(errs, r.Close())
		}
		if a.root != nil {
			errs = append(errs, a.root.Close())
		}
	}
	return errors.Join(errs...)
}

// place returns where a tree's path goes; rel is "." for an area itself.
func (l *layout) place(path string) (a *area, rel string, err error) {
	if !fs.ValidPath(path) || path == "." || strings.ContainsRune(path, 0) {
		return nil, "", fmt.Errorf("the snapshot has the path %q, which is not within a data directory", path)
	}
	rest, ok := strings.CutPrefix(path, tablespaceDir+"/")
	if !ok {
		return l.data, path, nil
	}
	id, rel, below := strings.Cut(rest, "/")
	oid, err := strconv.ParseUint(id, 10, 32)
	if err != nil || l.spaces[uint32(oid)] == nil {
		return l.data, path, nil
	}
	if !below {
		rel = "."
	}
	return l.spaces[uint32(oid)], rel, nil
}

// planLayout decides where tablespaces go, and refuses what is not ours to write.
func (x *run) planLayout() (*layout, error) {
	facts := x.plan.Snapshot.Facts
	l := &layout{data: &area{dir: x.opts.To}, spaces: map[uint32]*area{}}
	used := map[string]bool{}
	taken := map[string]uint32{}
	x.result.Tablespaces = map[string]string{}
	for _, t := range facts.Tablespaces {
		if !filepath.IsAbs(t.Location) {
			continue // one in place: an ordinary directory below pg_tblspc
		}
		dir, explicit := mapped(x.opts.Tablespaces, t, used)
		if !explicit {
			dir = x.defaultLocation(t)
		}
		dir, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		if err := x.checkTablespace(t, dir); err != nil {
			return nil, err
		}
		if other, ok := taken[dir]; ok {
			return nil, fmt.Errorf("tablespaces %d and %d are both to go to %s", other, t.OID, dir)
		}
		taken[dir] = t.OID
		l.spaces[t.OID] = &area{dir: dir}
		x.result.Tablespaces[tablespaceName(t)] = dir
	}
	for key := range x.opts.Tablespaces {
		if !used[key] {
			return nil, unknownTablespace(x.plan.System, key, facts.Tablespaces)
		}
	}
	return l, nil
}

func mapped(m map[string]string, t pg.Tablespace, used map[string]bool) (dir string, ok bool) {
	for _, key := range []string{t.Name, strconv.FormatUint(uint64(t.OID), 10), t.Location} {
		if d, found := m[key]; found && key != "" {
			used[key] = true
			dir, ok = d, true
		}
	}
	return dir, ok
}

func unknownTablespace(system, key string, all []pg.Tablespace) error {
	var names []string
	for _, t := range all {
		names = append(names, fmt.Sprintf("%s at %s", tablespaceName(t), t.Location))
	}
	reason := "the snapshot has no tablespaces outside of its data directory"
	if len(names) > 0 {
		reason = "it has " + strings.Join(names, ", ")
	}
	return &dr.Failure{
		What:   fmt.Sprintf("restore %s: the snapshot has no tablespace %q", system, key),
		Reason: reason,
		Next:   "correct --tablespace NAME=DIR",
	}
}

func tablespaceName(t pg.Tablespace) string {
	if t.Name != "" {
		return t.Name
	}
	return strconv.FormatUint(uint64(t.OID), 10)
}

// defaultLocation is beside the data directory. Delta keeps the directory that the target's own link names,
// unless that is the source's: a copied data directory's links still point to the live cluster's files. Only
// where the target is the source's own data directory, its tablespaces are the target's own.
func (x *run) defaultLocation(t pg.Tablespace) string {
	beside := filepath.Join(x.opts.To+"_tablespaces", strconv.FormatUint(uint64(t.OID), 10))
	if x.state == targetEmpty {
		return beside
	}
	link, err := os.Readlink(x.link(t.OID))
	if err != nil || (link == t.Location && x.opts.To != x.plan.Snapshot.Facts.DataDir) {
		return beside
	}
	return link
}

func (x *run) link(oid uint32) string {
	return filepath.Join(x.opts.To, tablespaceDir, strconv.FormatUint(uint64(oid), 10))
}

// checkTablespace refuses a location that holds anything, unless it is the target's own.
func (x *run) checkTablespace(t pg.Tablespace, dir string) error {
	what := fmt.Sprintf("restore %s: tablespace %s to %q", x.plan.System, tablespaceName(t), dir)
	if within(dir, x.opts.To) || within(x.opts.To, dir) {
		return &dr.Failure{What: what, Reason: "it lies within the data directory, or holds it", Next: "choose a directory beside the data directory"}
	}
	names, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(names) == 0:
		return nil
	case err != nil:
		return dr.Fail(what, err, "choose another directory: --tablespace "+tablespaceName(t)+"=DIR")
	}
	// The links are made before a tablespace's first file is written, so an interrupted restore has them.
	own, err := os.Readlink(x.link(t.OID))
	if err == nil && own == dir && x.state != targetEmpty && (dir != t.Location || x.opts.To == x.plan.Snapshot.Facts.DataDir) {
		return nil
	}
	f := &dr.Failure{
		What:   what,
		Reason: fmt.Sprintf("the directory is not empty: it has %q", names[0].Name()),
		Next:   "choose an empty directory: --tablespace " + tablespaceName(t) + "=DIR",
	}
	if dir == t.Location {
		f.Reason += "; it is where the source keeps this tablespace"
	}
	return f
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
