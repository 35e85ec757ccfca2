package changed

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Fork is one fork of a relation.
type Fork struct {
	Tablespace uint32
	Database   uint32 // zero in the global tablespace
	Relation   uint32 // the file number; zero, with fork main, stands for all relations of the database in the tablespace
	Fork       cluster.Fork
}

// NoLimit is the limit of a fork that was neither created, dropped nor truncated.
const NoLimit uint32 = math.MaxUint32

// Map says what the log from Start to End changed. It is used by one goroutine at a time.
type Map struct {
	Timeline wal.TimelineID // on whose way from the first timeline the range lies
	Start    wal.LSN        // the first record starts here
	End      wal.LSN        // the first record behind the range starts here
	Doubts   []Doubt        // the first of each kind and reason

	forks map[key]*fork
	// recent is a cache of forks. Most records refer to the forks of few relations.
	recent [64]struct {
		key  key
		fork *fork
	}
}

// key is a Fork in the order of its fields, so that sorting and hashing are cheap.
type key struct{ high, low uint64 }

type fork struct {
	limit  uint32
	last   uint32 // the block marked last, NoLimit for none: records on one block come in rows
	blocks blockSet
}

// DoubtKind sorts doubts by what may be missing in the Map.
type DoubtKind uint8

// The kinds of doubts.
const (
	Unknown          DoubtKind = iota + 1 // a record that is not understood: anything may be missing
	Minimal                               // wal_level is minimal: whole relations were written without the log
	NoFullPageWrites                      // full_page_writes is off: nothing is missing, but a page that was read while it was written is not mended by replay
)

// Doubt is a place in the log at which the Map may be incomplete.
type Doubt struct {
	Kind   DoubtKind
	At     wal.LSN // start of the record
	Reason string
}

// Change says what changed in a fork.
type Change struct {
	// Limit is the least number of blocks that the fork had. Nothing is known of the blocks from Limit on, and none
	// of them is the one that an older image has: whatever the file holds there counts as changed.
	Limit  uint32
	blocks *blockSet
}

// Has tells whether a block may have changed.
func (c Change) Has(block uint32) bool {
	return block >= c.Limit || c.blocks != nil && c.blocks.has(block)
}

// Runs yields the changed blocks below Limit, as first block and number of blocks, ascending and as long as can be
// within each 65,536.
func (c Change) Runs() iter.Seq2[uint32, uint32] {
	return func(yield func(uint32, uint32) bool) {
		if c.blocks == nil {
			return
		}
		for i := range c.blocks.chunks {
			ch := &c.blocks.chunks[i]
			for r := range ch.each() {
				first, n := uint32(ch.index)<<16|uint32(r.first), uint32(r.last-r.first)+1
				if first >= c.Limit || !yield(first, min(n, c.Limit-first)) {
					return
				}
			}
		}
	}
}

// Count returns how many blocks below Limit changed.
func (c Change) Count() uint64 {
	var n uint64
	for _, count := range c.Runs() {
		n += uint64(count)
	}
	return n
}

// Lookup returns what changed in a fork; what was done to its whole database is counted in.
func (m *Map) Lookup(f Fork) Change {
	c := Change{Limit: NoLimit}
	if e := m.forks[f.key()]; e != nil {
		c.Limit, c.blocks = e.limit, &e.blocks
	}
	if m.forks[Fork{Tablespace: f.Tablespace, Database: f.Database}.key()] != nil {
		c.Limit = 0
	}
	return c
}

// Forks yields the forks that changed, ascending, databases as a whole among them (see Fork.Relation).
func (m *Map) Forks() iter.Seq2[Fork, Change] {
	return func(yield func(Fork, Change) bool) {
		for _, k := range m.keys() {
			e := m.forks[k]
			if !yield(k.fork(), Change{Limit: e.limit, blocks: &e.blocks}) {
				return
			}
		}
	}
}

func (m *Map) keys() []key {
	keys := make([]key, 0, len(m.forks))
	for k := range m.forks {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.high, b.high), cmp.Compare(a.low, b.low))
	})
	return keys
}

func (f Fork) key() key {
	return key{uint64(f.Tablespace)<<32 | uint64(f.Database), uint64(f.Relation)<<32 | uint64(f.Fork)}
}

func (k key) fork() Fork {
	return Fork{uint32(k.high >> 32), uint32(k.high), uint32(k.low >> 32), cluster.Fork(k.low)}
}

func newMap(tl wal.TimelineID, start wal.LSN) *Map {
	return &Map{Timeline: tl, Start: start, End: start, forks: map[key]*fork{}}
}

func (m *Map) fork(f Fork) *fork {
	k := f.key()
	slot := &m.recent[(k.low>>32^k.low<<4^k.high>>32)%uint64(len(m.recent))]
	if slot.key == k && slot.fork != nil {
		return slot.fork
	}
	e := m.forks[k]
	if e == nil {
		e = &fork{limit: NoLimit, last: NoLimit}
		m.forks[k] = e
	}
	slot.key, slot.fork = k, e
	return e
}

// mark notes that a block changed.
func (m *Map) mark(f Fork, block uint32) {
	e := m.fork(f)
	if block == e.last || block >= e.limit {
		return
	}
	e.last = block
	e.blocks.add(block)
}

// limit notes that a fork had only n blocks at some time.
func (m *Map) limit(f Fork, n uint32) {
	if e := m.fork(f); n < e.limit {
		e.limit, e.last = n, NoLimit
		e.blocks.cutAt(n)
	}
}

// maxDoubts bounds the list: the first of them decides, the others help to understand.
const maxDoubts = 64

func (m *Map) doubt(d Doubt) {
	for _, known := range m.Doubts {
		if known.Kind == d.Kind && known.Reason == d.Reason {
			return
		}
	}
	if len(m.Doubts) < maxDoubts {
		m.Doubts = append(m.Doubts, d)
	}
}

// Join returns what a row of maps says together. Each begins where the one before ended, or earlier, and lies on
// the way: a map of another branch, or a gap, is an error.
func Join(way *wal.Timelines, maps ...*Map) (*Map, error) {
	if len(maps) == 0 {
		return nil, fmt.Errorf("no maps of changed blocks to join")
	}
	all := newMap(way.Timeline, maps[0].Start)
	for _, m := range maps {
		if err := all.Extend(way, m); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Extend counts in a map that Join would take behind m. m.Timeline must be where the way ends.
func (m *Map) Extend(way *wal.Timelines, later *Map) error {
	_, end, ok := way.Range(later.Timeline)
	switch {
	case !ok:
		return fmt.Errorf("timeline %d of the changes from %s to %s is no ancestor of timeline %d", later.Timeline, later.Start, later.End, way.Timeline)
	case later.End > end:
		return fmt.Errorf("timeline %d was left at %s, the changes reach from %s to %s", later.Timeline, end, later.Start, later.End)
	case later.Start > m.End:
		return fmt.Errorf("the changes from %s to %s are not known", m.End, later.Start)
	}
	m.add(later)
	return nil
}

// add counts in a map of what came later.
func (m *Map) add(later *Map) {
	m.End = max(m.End, later.End)
	for k, e := range later.forks {
		f := k.fork()
		m.limit(f, e.limit)
		own := m.fork(f)
		if own.limit == e.limit {
			own.blocks.union(&e.blocks)
			continue
		}
		blocks := e.blocks.clone()
		blocks.cutAt(own.limit)
		own.blocks.union(&blocks)
	}
	for _, d := range later.Doubts {
		m.doubt(d)
	}
}
