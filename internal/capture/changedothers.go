package capture

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// errSkip ends a walk over a part of the tree.
var errSkip = errors.New("the rest of this folder is passed over")

// readKnown reads what the snapshot before has beside relations. It jumps over the folders of databases.
func (c *changedFiles) readKnown(ctx context.Context) error {
	c.known = map[string]*repo.Entry{}
	for from := ""; ; {
		next := ""
		err := c.reader.Walk(ctx, c.root, from, func(path string, e *repo.Entry) error {
			if _, _, ok := cluster.ParseDatabaseDir(dirOf(path)); ok && !isOwn(path) {
				next = dirOf(path) + "/:" // behind all names that begin with a digit
				return errSkip
			}
			c.known[path] = e
			return nil
		})
		if !errors.Is(err, errSkip) {
			return err
		}
		from = next
	}
}

func dirOf(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return ""
}

// others reads what is no relation, and the folders of databases that were made anew.
func (c *changedFiles) others(ctx context.Context) error {
	known := func(path string) bool { return c.known[path] != nil }
	skipped := func(path, why string) { c.s.report.Skipped = append(c.s.report.Skipped, path+": "+why) }
	seen := map[string]bool{}
	err := c.s.files.walk(ctx, cluster.WalkOptions{Skipped: skipped, Relations: c.walked}, known, func(e cluster.Entry) error {
		if before := c.known[e.Path]; before != nil && c.s.cfg.DataDir == "" {
			e.Mode = fs.FileMode(before.Mode)
		}
		seen[e.Path] = true
		if e.Type == cluster.TablespaceLink {
			c.s.links = append(c.s.links, e.Path)
		}
		return c.other(ctx, e)
	})
	if err != nil {
		return err
	}
	for d := range c.whole {
		if err := c.removeUnseen(ctx, cluster.DatabaseDir(d.tablespace, d.oid, c.s.info.TablespaceDir()), seen); err != nil {
			return err
		}
	}
	for path, e := range c.known {
		if seen[path] || path == cluster.ControlFile || c.replaced(path) {
			continue
		}
		// A file of a database's folder that is none of its own, and whose folder was not listed.
		dir := dirOf(path)
		if t, oid, ok := cluster.ParseDatabaseDir(dir); ok && e.Type == repo.TypeFile && seen[dir] && !c.walked(t, oid) {
			if again, err := c.again(ctx, path); err != nil || again {
				if err != nil {
					return err
				}
				continue
			}
		}
		c.edit(repo.TreeEdit{Path: path, Below: e.Type == repo.TypeDir})
	}
	return nil
}

// removeUnseen removes what the snapshot before has in a folder that was walked, or is gone.
func (c *changedFiles) removeUnseen(ctx context.Context, dir string, seen map[string]bool) error {
	if !seen[dir] {
		c.edit(repo.TreeEdit{Path: dir, Below: true})
		return nil
	}
	err := c.reader.Walk(ctx, c.root, dir+"/", func(path string, _ *repo.Entry) error {
		if !strings.HasPrefix(path, dir+"/") {
			return errSkip
		}
		if !seen[path] {
			c.edit(repo.TreeEdit{Path: path})
		}
		return nil
	})
	if errors.Is(err, errSkip) {
		return nil
	}
	return err
}

// replaced tells whether a path lies in a folder that is removed or written anew as a whole.
func (c *changedFiles) replaced(path string) bool {
	t, oid, ok := cluster.ParseDatabaseDir(dirOf(path))
	return ok && c.whole[database{t, oid}]
}

// again reads a file which a database's folder had before beside relations, if it is still there.
func (c *changedFiles) again(ctx context.Context, path string) (bool, error) {
	now, err := c.stat(ctx, path)
	if err != nil || now == nil || now.dir {
		return false, err
	}
	return true, c.other(ctx, cluster.Entry{Path: path, Type: cluster.File, Mode: c.mode(now, c.known[path]), Size: now.size, ModTime: now.modTime})
}

// other takes something that the walk met.
func (c *changedFiles) other(ctx context.Context, e cluster.Entry) error {
	before := c.known[e.Path]
	if c.replaced(e.Path) {
		before = nil
	}
	if e.Type != cluster.File || e.Size == 0 {
		now := newEntry(e)
		if before != nil && before.Type == now.Type && before.Mode == now.Mode && before.Size == 0 {
			return nil
		}
		c.edit(repo.TreeEdit{Path: e.Path, Entry: now})
		return nil
	}
	if before != nil && c.untouched(e, before) {
		return nil
	}
	return c.send(ctx, &changedFile{localFile: localFile{Entry: e}, before: before, read: true}, nil, 0)
}

// statusDirs have a file for each million transactions, of which the server writes the last: together they may be gigabytes.
var statusDirs = []string{"pg_xact", "pg_commit_ts", "pg_multixact/members", "pg_multixact/offsets"}

func isStatus(path string) bool { return slices.Contains(statusDirs, dirOf(path)) }

// settled is how long before the snapshot before a file must have been written last, so that its time tells all later
// writes: file systems keep times in steps of milliseconds, some in steps of two seconds.
const settled = time.Minute

// untouched tells whether a file of transaction status was not written since the snapshot before, by the time that the file
// system keeps of it. Who sets times cannot be told, so it is believed of these files alone, which only the server writes.
// Over SQL times have no fraction: there they are read.
func (c *changedFiles) untouched(e cluster.Entry, before *repo.Entry) bool {
	return c.s.cfg.DataDir != "" && isStatus(e.Path) && before.Type == repo.TypeFile &&
		before.Size == e.Size && before.Mode == newEntry(e).Mode && before.ModTime.Equal(e.ModTime) &&
		e.ModTime.Before(c.base.manifest.Started.Add(-settled))
}
