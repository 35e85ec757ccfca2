package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/pg/control"
)

// WalkOptions may be zero.
type WalkOptions struct {
	// Skipped is told of what lies in the data directory and is in no backup, though PostgreSQL did not put it
	// there: sockets, devices, symbolic links other than those of tablespaces.
	Skipped func(path, why string)
	// Relations, where it is not nil, tells of which databases the relations are wanted. Of the folder of another one
	// only the files that every database has are handed over (Own), and the folder is not listed.
	Relations func(tablespace, database uint32) bool
}

// Own are the files that a database's folder holds beside its relations, in ascending order.
var Own = []string{"PG_VERSION", "pg_filenode.map"}

// Walk calls fn for everything that a base backup of a data directory holds, except ControlFile, in ascending
// order of the paths' bytes, without opening a file. What vanishes meanwhile was dropped, and is left out. It
// needs memory for some ten megabytes of names at most. An error of fn ends it and is returned as it is.
//
// A backup holds everything, except: what a starting server makes anew, temporary files and relations, the log,
// and all forks but init of unlogged relations (backup/basebackup.c). It follows the links of tablespaces, into
// the folder of this version there.
func Walk(ctx context.Context, dataDir string, o WalkOptions, fn func(Entry) error) error {
	w, err := newWalker(ctx, dataDir, o, fn)
	if err != nil {
		return err
	}
	return w.dir(ctx, "", w.root)
}

type walker struct {
	root    string
	o       WalkOptions
	fn      func(Entry) error
	version string          // the folder of this server in a tablespace
	inside  map[string]bool // folders within the data directory that are tablespaces: walked over their link only
	limit   int             // names in memory
	last    unloggedAnswer
}

// unloggedAnswer remembers the last relation that was asked about: its forks and segments come one after another.
type unloggedAnswer struct {
	dir      string
	number   uint32
	unlogged bool
}

func newWalker(ctx context.Context, dataDir string, o WalkOptions, fn func(Entry) error) (*walker, error) {
	root, err := filepath.EvalSymlinks(dataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	c, _, err := control.Read(ctx, root)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if c.Major() == 0 {
		return nil, fmt.Errorf("%s is of no supported version of PostgreSQL (catalog version %d)", dataDir, c.CatalogVersion)
	}
	w := &walker{root: root, o: o, fn: fn, limit: maxNames, inside: map[string]bool{}}
	w.version = tablespaceDir(c.Major(), c.CatalogVersion)
	links, err := os.ReadDir(filepath.Join(root, "pg_tblspc"))
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		target, err := filepath.EvalSymlinks(filepath.Join(root, "pg_tblspc", l.Name()))
		if rel, ok := strings.CutPrefix(target, root+"/"); err == nil && ok && l.Type()&fs.ModeSymlink != 0 {
			w.inside[rel] = true
		}
	}
	return w, nil
}

// dir walks a folder: rel is its path in the backup, source where it is.
func (w *walker) dir(ctx context.Context, rel, source string) error {
	descend := func(e fs.DirEntry) bool {
		isLink := e.Type()&fs.ModeSymlink != 0 && (rel == "pg_tblspc" || rel == "" && e.Name() == "pg_wal")
		return e.IsDir() || isLink
	}
	tablespace, oid, database := ParseDatabaseDir(rel)
	if database && w.o.Relations != nil && !w.o.Relations(tablespace, oid) {
		for _, name := range Own {
			if err := w.entry(join(rel, name), filepath.Join(source, name)); err != nil {
				return err
			}
		}
		return nil
	}
	return sortedNames(ctx, source, w.limit, descend, func(key string) error {
		name, isDescent := strings.CutSuffix(key, "/")
		path := join(rel, name)
		if isOmitted(name) || path == ControlFile || (isTablespace(rel) && name != w.version) {
			return nil
		}
		if database {
			if omit, err := w.omitRelation(rel, source, name); omit || err != nil {
				return err
			}
		}
		if isDescent {
			return w.descend(ctx, path, filepath.Join(source, name))
		}
		return w.entry(path, filepath.Join(source, name))
	})
}

func join(rel, name string) string {
	if rel == "" {
		return name
	}
	return rel + "/" + name
}

// isTablespace tells whether a path is pg_tblspc/<oid>: in a tablespace's location may be folders of other
// versions and of other servers.
func isTablespace(rel string) bool {
	oid, ok := strings.CutPrefix(rel, "pg_tblspc/")
	_, isOID := parseOID(oid)
	return ok && isOID
}

// omitRelation tells whether a file in a database's folder is temporary or of an unlogged relation.
func (w *walker) omitRelation(rel, source, name string) (bool, error) {
	if isTemporary(name) {
		return true, nil
	}
	number, fork, _, ok := parseFileName(name)
	if !ok || fork == Init {
		return false, nil
	}
	if w.last.dir != rel || w.last.number != number {
		_, err := os.Lstat(filepath.Join(source, strconv.FormatUint(uint64(number), 10)+"_init"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		w.last = unloggedAnswer{rel, number, err == nil}
	}
	return w.last.unlogged, nil
}

// entry hands over one thing, if it is still there.
func (w *walker) entry(path, source string) error {
	fi, err := os.Lstat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	e := Entry{Path: path, Source: source, Mode: fi.Mode().Perm(), ModTime: fi.ModTime()}
	switch {
	case fi.Mode().IsRegular():
		e.Type, e.Size = File, fi.Size()
		e.Relation, e.IsRelation = ParsePath(path)
	case fi.IsDir(), isEmptiedLink(path, fi):
		e.Type = Dir
		if !fi.IsDir() {
			e.Mode = 0o700
		}
	case isTablespace(path) && fi.Mode()&fs.ModeSymlink != 0:
		e.Type, e.Mode = TablespaceLink, 0o700
		e.Target, err = os.Readlink(source)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	default:
		w.skip(path, "it is neither a file nor a folder: "+fi.Mode().Type().String())
		return nil
	}
	return w.fn(e)
}

// isEmptiedLink tells a link that stands for one of PostgreSQL's own folders, such as a pg_wal on another disk:
// the backup holds a folder.
func isEmptiedLink(path string, fi fs.FileInfo) bool {
	return fi.Mode()&fs.ModeSymlink != 0 && (path == "pg_wal" || emptied[path])
}

func (w *walker) skip(path, why string) {
	if w.o.Skipped != nil {
		w.o.Skipped(path, why)
	}
}

// descend walks what lies beneath a folder or a tablespace's link.
func (w *walker) descend(ctx context.Context, path, source string) error {
	switch {
	case path == "pg_wal":
		return w.walFolders(source)
	case emptied[filepath.Base(path)]:
		return nil
	case w.inside[path]:
		return nil
	case isTablespace(path):
		target, err := filepath.EvalSymlinks(source)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return w.dir(ctx, path, target)
	}
	return w.dir(ctx, path, source)
}

// walFolders hands over the folders in pg_wal, which a server does not make anew in every version.
func (w *walker) walFolders(source string) error {
	for _, name := range []string{"archive_status", "summaries"} {
		if err := w.entry("pg_wal/"+name, filepath.Join(source, name)); err != nil {
			return err
		}
	}
	return nil
}
