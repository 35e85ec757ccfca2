package capture

import (
	"context"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// changedFiles brings the files of a cluster from one snapshot to the next: it gathers what is to be edited in the
// tree, and sends the parts of files that have to be read to workers.
//
//	for each fork in the map              its segments on disk and in the snapshot before → parts with changed pages
//	for each database made anew           everything in its folder
//	everything that is no relation        read whole: no log describes it, and it is little
//	what is gone from the disk            removed
type changedFiles struct {
	s      *snapshot
	base   *base
	m      *changed.Map
	reader *repo.Reader // of this goroutine
	open   fileReader   // of this goroutine
	root   seal.ChunkID

	sampled pageChecker // of pages that the log did not name
	reread  int64       // pages of the snapshot before that are read, or are gone: counted by this goroutine

	parts    chan []*changedPart
	batch    []*changedPart // not sent yet
	pages    int            // of batch
	whole    map[database]bool
	known    map[string]*repo.Entry // what the snapshot before has beside relations
	mu       sync.Mutex             // guards edits, stored by the workers too
	edits    map[string]repo.TreeEdit
	examined map[relation]bool     // of which all forks were looked at
	facts    map[string]*fileFacts // of the files that are looked at next
}

type database struct{ tablespace, oid uint32 }

type relation struct{ tablespace, database, number uint32 }

// save reads what changed and stores it. The edits are complete when it returns nil.
func (c *changedFiles) save(ctx context.Context) error {
	var err error
	if c.root, err = c.base.manifest.RootID(); err != nil {
		return err
	}
	c.edits, c.whole, c.examined = map[string]repo.TreeEdit{}, map[database]bool{}, map[relation]bool{}
	c.parts = make(chan []*changedPart)
	c.open = c.s.files.reader()
	eg, ctx := errgroup.WithContext(ctx)
	checkers := make([]pageChecker, c.s.workers())
	for i := range checkers {
		checkers[i] = pageChecker{checksums: c.s.info.Checksums, segmentBlocks: c.s.info.SegmentBlocks}
		w := newChangedWorker(c, c.s.files.reader(), &checkers[i])
		eg.Go(func() error { return w.run(ctx) })
	}
	eg.Go(func() error {
		defer close(c.parts)
		for _, step := range []func(context.Context) error{c.readKnown, c.forks, c.others, c.audit, c.flush} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	err = eg.Wait()
	for i := range checkers {
		c.s.report.add(&checkers[i])
	}
	c.s.report.add(&c.sampled)
	return err
}

func (c *changedFiles) edit(e repo.TreeEdit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.edits[e.Path] = e
}

// forks looks at every fork that the log names.
func (c *changedFiles) forks(ctx context.Context) error {
	var group []changedFork
	for f, change := range c.m.Forks() {
		if f.Relation == 0 {
			c.whole[database{f.Tablespace, f.Database}] = true // others walks its folder
		}
		if c.walked(f.Tablespace, f.Database) {
			continue // databases come before their relations
		}
		group = append(group, changedFork{f, change})
		// Free space maps are hardly logged, so they are read whole wherever their relation changed.
		r := relation{f.Tablespace, f.Database, f.Relation}
		if !c.examined[r] {
			c.examined[r] = true
			f.Fork = cluster.FSM
			group = append(group, changedFork{f, changed.Change{}})
		}
		if len(group) >= forksOfGroup {
			if err := c.forkGroup(ctx, group); err != nil {
				return err
			}
			group = group[:0]
		}
	}
	return c.forkGroup(ctx, group)
}

type changedFork struct {
	changed.Fork
	changed.Change
}

// forksOfGroup is of how many forks the files are looked for with one question.
const forksOfGroup = 256

func (c *changedFiles) forkGroup(ctx context.Context, group []changedFork) error {
	var paths []string
	for _, f := range group {
		r := cluster.Relation{Tablespace: f.Tablespace, Database: f.Database, Number: f.Relation, Fork: f.Fork.Fork}
		runs, last := c.bySegment(f.Change)
		if f.Limit != changed.NoLimit {
			last = f.Limit/c.s.info.SegmentBlocks + 1
		}
		for seg := range runs {
			r.Segment = seg
			paths = append(paths, r.Path(c.s.info.TablespaceDir()))
		}
		for r.Segment = last - min(last, 1); r.Segment <= last; r.Segment++ {
			paths = append(paths, r.Path(c.s.info.TablespaceDir()))
		}
		paths = append(paths, initFork(r).Path(c.s.info.TablespaceDir()))
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	facts, err := c.s.files.stat(ctx, paths)
	if err != nil {
		return err
	}
	c.facts = map[string]*fileFacts{}
	for i, path := range paths {
		c.facts[path] = facts[i]
	}
	for _, f := range group {
		if err := c.fork(ctx, f.Fork, f.Change); err != nil {
			return err
		}
	}
	return nil
}

// initFork returns the first segment of a relation's init fork.
func initFork(r cluster.Relation) cluster.Relation {
	r.Fork, r.Segment = cluster.Init, 0
	return r
}

// stat returns nil where there is no such file.
func (c *changedFiles) stat(ctx context.Context, path string) (*fileFacts, error) {
	if f, ok := c.facts[path]; ok {
		return f, nil
	}
	f, err := c.s.files.stat(ctx, []string{path})
	if err != nil {
		return nil, err
	}
	return f[0], nil
}

// walked tells whether everything in a database's folder is read: its relations have no use for the map.
func (c *changedFiles) walked(tablespace, oid uint32) bool {
	return c.whole[database{tablespace, oid}] || c.known[cluster.DatabaseDir(tablespace, oid, c.s.info.TablespaceDir())] == nil
}

// fork looks at the segments of a fork that may have changed.
func (c *changedFiles) fork(ctx context.Context, f changed.Fork, change changed.Change) error {
	r := cluster.Relation{Tablespace: f.Tablespace, Database: f.Database, Number: f.Relation, Fork: f.Fork}
	unlogged, err := c.unlogged(ctx, r)
	if err != nil {
		return err
	}
	runs, last := c.bySegment(change)
	first := last
	if change.Limit != changed.NoLimit {
		first = change.Limit / c.s.info.SegmentBlocks
	} else if len(runs) == 0 {
		return nil
	}
	// The segment that was the last one before may have grown without a word in the log, up to the last one now.
	if first, err = c.nearest(ctx, r, first); err != nil {
		return err
	}
	for _, seg := range slices.Sorted(maps.Keys(runs)) {
		if r.Segment = seg; seg >= first {
			break
		}
		if _, err := c.segment(ctx, r, runs[seg], noLimit, unlogged); err != nil {
			return err
		}
	}
	for seg := first; ; seg++ {
		r.Segment = seg
		limit := noLimit
		if change.Limit != changed.NoLimit {
			limit = max(change.Limit, seg*c.s.info.SegmentBlocks) - seg*c.s.info.SegmentBlocks
		}
		there, err := c.segment(ctx, r, runs[seg], limit, unlogged)
		// Behind the last change of a fork that was not cut off lie only segments that are as they were, and such as
		// hold nothing but zeros that nobody has used.
		if err != nil || !there && change.Limit != changed.NoLimit || seg >= last && change.Limit == changed.NoLimit {
			return err
		}
	}
}

// bySegment returns the changed blocks below the limit for each segment, counted from its beginning, and the last
// segment that has any.
func (c *changedFiles) bySegment(change changed.Change) (runs map[uint32][]blockRun, last uint32) {
	blocks := c.s.info.SegmentBlocks
	runs = map[uint32][]blockRun{}
	for from, n := range change.Runs() {
		for n > 0 { // a run may cross the border of segments
			seg := from / blocks
			take := min(n, (seg+1)*blocks-from)
			runs[seg] = append(runs[seg], blockRun{from % blocks, take})
			last = max(last, seg)
			from, n = from+take, n-take
		}
	}
	return runs, last
}

// nearest returns the last segment up to one that the snapshot before has, 0 where it has none.
func (c *changedFiles) nearest(ctx context.Context, r cluster.Relation, last uint32) (uint32, error) {
	for ; last > 0; last-- {
		r.Segment = last
		if e, err := c.reader.Lookup(ctx, c.root, r.Path(c.s.info.TablespaceDir())); err != nil || e != nil {
			return last, err
		}
	}
	return 0, nil
}

// unlogged tells whether the files of a fork are in no snapshot: all but the init fork of an unlogged relation.
func (c *changedFiles) unlogged(ctx context.Context, r cluster.Relation) (bool, error) {
	if r.Fork == cluster.Init {
		return false, nil
	}
	f, err := c.stat(ctx, initFork(r).Path(c.s.info.TablespaceDir()))
	return f != nil, err
}

type blockRun struct{ first, n uint32 }

// noLimit is the limit of a segment that was not cut off.
const noLimit uint32 = changed.NoLimit

// segment compares one segment's file with what the snapshot before has of it, and sends the parts with changes. Of the
// blocks from limit on nothing is taken from before. It is false where there is neither a file nor an entry.
func (c *changedFiles) segment(ctx context.Context, r cluster.Relation, runs []blockRun, limit uint32, unlogged bool) (there bool, err error) {
	path := r.Path(c.s.info.TablespaceDir())
	before, err := c.reader.Lookup(ctx, c.root, path)
	if err != nil {
		return false, err
	}
	now, err := c.stat(ctx, path)
	if err != nil {
		return false, err
	}
	if now == nil || unlogged {
		if before != nil {
			c.reread += before.Size / repo.PageSize
			c.edit(repo.TreeEdit{Path: path})
		}
		return now != nil || before != nil, nil
	}
	f := &changedFile{localFile: localFile{Entry: cluster.Entry{
		Path: path, Type: cluster.File, Mode: c.mode(now, before), Size: now.size - now.size%repo.PageSize, ModTime: now.modTime,
		Relation: r, IsRelation: true,
	}}, before: before, read: r.Fork == cluster.FSM}
	return true, c.send(ctx, f, runs, limit)
}

// mode returns the mode of a file; where nobody tells it, the one that it had, or that the server gives.
func (c *changedFiles) mode(now *fileFacts, before *repo.Entry) fs.FileMode {
	switch {
	case now.mode != 0:
		return now.mode
	case before != nil:
		return fs.FileMode(before.Mode)
	case c.known["PG_VERSION"] != nil:
		return fs.FileMode(c.known["PG_VERSION"].Mode)
	}
	return 0o600
}

// sameContent tells whether two entries differ in nothing but the time of the last change.
func sameContent(a, b *repo.Entry) bool {
	return a != nil && a.Type == b.Type && a.Mode == b.Mode && a.Size == b.Size && slices.Equal(a.Chunks, b.Chunks) && slices.Equal(a.Lists, b.Lists)
}

// ended notes a file all of whose parts are saved.
func (c *changedFiles) ended(f *changedFile) {
	e := newEntry(f.Entry)
	var size int64
	for _, n := range f.sizes {
		size += n
	}
	if size > 0 {
		e.SetContent(size, f.lists)
	}
	if f.read && sameContent(f.before, e) && (!isStatus(f.Path) || f.before.ModTime.Equal(f.ModTime)) {
		return
	}
	c.edit(repo.TreeEdit{Path: f.Path, Entry: e})
}
