package walserve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Source finds files of the log in a repository. Its methods may be called from several goroutines. What it
// listed it remembers, and lists again before it says that something is not there.
type Source struct {
	// DataDir is the recovering cluster's data directory. With it, log whose replay would take over a directory
	// that holds somebody else's files is not served; see guard.go.
	DataDir string
	// Owner is the user whose server recovers, where that is another one and this process root's: files are made, and
	// directories looked at, with his rights. nil: this process's user.
	Owner *syscall.Credential

	log    *repo.Log
	policy Policy
	size   wal.SegmentSize

	mu      sync.Mutex // guards extents. Not held during I/O
	extents map[wal.TimelineID]listing
}

// listing is what was last seen of a timeline's log, at or after a position.
type listing struct {
	from    wal.LSN
	extents []repo.Extent
}

// NewSource returns a source of the log of the policy's system.
func NewSource(r *repo.Repository, p Policy) *Source {
	return &Source{log: r.Log(p.System), policy: p, size: wal.SegmentSize(p.SegmentSize), extents: map[wal.TimelineID]listing{}}
}

// file is a request's answer.
type file struct {
	Result
	whole bool // served, and nothing was missing: the answer will not change
}

// assembler builds files for one goroutine. Its memory is that of one repo.LogReader: segments are written as
// their extents come, however large they are.
type assembler struct {
	s        *Source
	reader   *repo.LogReader
	out      *os.File
	reserved bool                     // out has its blocks
	head     [wal.LongHeaderSize]byte // the beginning of what was written
	scan     *wal.Scanner             // of what was written; nil where nobody looks
	spaces   []wal.Event              // tablespaces that the segment creates
}

func (s *Source) assembler() *assembler {
	a := &assembler{s: s, reader: s.log.Reader()}
	if s.DataDir != "" {
		a.scan = wal.NewScanner(0, s.size, func(e wal.Event) { a.spaces = append(a.spaces, e) }, wal.TablespaceCreate)
	}
	return a
}

// haste says how hard is looked for what seems not to be there.
type haste bool

const (
	asked haste = false // a recovery waits, and may end by the answer: look again
	ahead haste = true  // nobody waits: what is not whole at first sight is left for later
)

// get answers the request for a file by name. Where it is served it then is at path in a place, whole; otherwise
// nothing is.
func (a *assembler) get(ctx context.Context, name string, in *place, path string, h haste) file {
	part := path + ".part"
	out, err := in.create(part)
	if err != nil {
		return file{Result: failed(name, err)}
	}
	a.out, a.reserved, a.head = out, false, [wal.LongHeaderSize]byte{}
	f := a.build(ctx, name, h)
	err = out.Close()
	if err == nil && f.Outcome == Served {
		err = in.rename(part, path)
	}
	if err != nil {
		f = file{Result: failed(name, err)}
	}
	if f.Outcome != Served {
		in.remove(part) //nolint:errcheck // nobody looks at it, and the next request writes over it
	}
	return f
}

func (a *assembler) build(ctx context.Context, name string, h haste) file {
	n, err := wal.ParseName(name, a.s.size)
	if err != nil {
		return file{Result: Result{Outcome: BadRequest, Name: name, Reason: err.Error()}}
	}
	switch n.Kind {
	case wal.History:
		return a.history(ctx, name, n.Timeline)
	case wal.Backup:
		return file{Result: Result{Outcome: NotThere, Name: name}} // for people; no recovery reads it
	}
	return a.segment(ctx, name, n, h)
}

// history serves a timeline's history. Where it is missing while its log is there, PostgreSQL would take the
// number for a new timeline, and two histories would share one name: that is a failure, not an absence.
func (a *assembler) history(ctx context.Context, name string, tl wal.TimelineID) file {
	b, err := a.s.log.File(ctx, pg.HistoryFile(tl))
	if err == nil {
		if _, err = wal.ParseHistory(tl, b); err == nil {
			_, err = a.out.Write(b)
		}
		if err == nil {
			return file{Result: Result{Outcome: Served, Name: name}, whole: true}
		}
	}
	if !errors.Is(err, store.ErrNotExist) {
		return file{Result: failed(name, err)}
	}
	streams, err := a.s.log.Streams(ctx)
	if err != nil {
		return file{Result: failed(name, err)}
	}
	if slices.Contains(streams, repo.StreamID(tl)) && tl > 1 {
		return file{Result: failed(name, fmt.Errorf("the repository holds log of timeline %d, but not its history", tl))}
	}
	return file{Result: Result{Outcome: NotThere, Name: name}}
}

// span is a part of a segment that one timeline's log has to fill.
type span struct {
	timeline wal.TimelineID
	from, to wal.LSN
}

// spans returns who fills a segment of timeline tl, ascending: tl from where it began, and before that the
// timelines that led to it.
func (a *assembler) spans(ctx context.Context, tl wal.TimelineID, start wal.LSN) ([]span, *wal.Timelines, error) {
	way, err := a.way(ctx, tl)
	if err != nil {
		return nil, nil, err
	}
	end := start + wal.LSN(a.s.size)
	var out []span
	for _, id := range append(ancestors(way), tl) {
		b, e, ok := way.Range(id)
		if ok && max(b, start) < min(e, end) {
			out = append(out, span{id, max(b, start), min(e, end)})
		}
	}
	return out, way, nil
}

func ancestors(way *wal.Timelines) []wal.TimelineID {
	var out []wal.TimelineID
	for _, a := range way.Ancestors {
		out = append(out, a.Timeline)
	}
	return out
}

func (a *assembler) way(ctx context.Context, tl wal.TimelineID) (*wal.Timelines, error) {
	if tl == 1 {
		return &wal.Timelines{Timeline: 1}, nil
	}
	b, err := a.s.log.File(ctx, pg.HistoryFile(tl))
	if errors.Is(err, store.ErrNotExist) {
		// Without a history the timeline's own log is all that can be said about it.
		return &wal.Timelines{Timeline: tl}, nil
	}
	if err != nil {
		return nil, err
	}
	return wal.ParseHistory(tl, b)
}

// segment serves a segment, padded with zeros behind the end of the log. What is in the repository may change
// while it is read (pieces give way to a finished extent), so an extent that is gone means: look again.
func (a *assembler) segment(ctx context.Context, name string, n wal.Name, h haste) file {
	if f, beside := a.beside(ctx, name, n); beside {
		return f
	}
	spans, way, err := a.spans(ctx, n.Timeline, n.Start)
	if err != nil {
		return file{Result: failed(name, err)}
	}
	var got wal.LSN
	for try := range 4 {
		if got, err = a.fill(ctx, n, spans, try > 0); err == nil && got == n.Start+wal.LSN(a.s.size) {
			if err = a.scanOn(ctx, n, got); err == nil {
				return a.proven(name, n, got)
			}
		}
		if err != nil && !errors.Is(err, store.ErrNotExist) {
			return file{Result: failed(name, err)}
		}
		if h == ahead {
			return file{Result: Result{Outcome: EndOfLog, Name: name, From: got}}
		}
		if err == nil && try > 0 {
			break
		}
	}
	if err != nil {
		return file{Result: failed(name, err)}
	}
	return a.end(ctx, name, n, way, got)
}

// beside answers for segments of an older timeline behind the point where the recovery's way leaves it.
// PostgreSQL asks for them when a newer timeline has no more; what lies there is another branch's.
func (a *assembler) beside(ctx context.Context, name string, n wal.Name) (file, bool) {
	target := a.s.policy.Timeline
	if target == 0 || target == n.Timeline {
		return file{}, false
	}
	way, err := a.way(ctx, target)
	if err != nil {
		return file{Result: failed(name, err)}, true
	}
	if _, end, ok := way.Range(n.Timeline); ok && n.Start < end {
		return file{}, false
	}
	return file{Result: Result{Outcome: EndOfLog, Name: name, From: n.Start}}, true
}

// fill writes what the repository has of the segment, from its start on without a gap, and returns
// where that ends.
func (a *assembler) fill(ctx context.Context, n wal.Name, spans []span, fresh bool) (wal.LSN, error) {
	at := n.Start
	a.beginScan(n.Start)
	// Where the new timeline's log holds the whole segment (as an archived file does), it is all that is needed.
	own := span{n.Timeline, n.Start, n.Start + wal.LSN(a.s.size)}
	for _, sp := range append([]span{own}, spans...) {
		if sp.to <= at || sp.from > at {
			continue
		}
		extents, err := a.s.list(ctx, sp.timeline, n.Start, fresh)
		if err != nil {
			return at, err
		}
		if at, err = a.copy(ctx, extents, at, sp.to, n.Start); err != nil {
			return at, err
		}
	}
	return at, nil
}

// copy writes the segment that begins at start from at on, as far as the extents reach without a gap.
func (a *assembler) copy(ctx context.Context, extents []repo.Extent, at, to, start wal.LSN) (wal.LSN, error) {
	for at < to {
		best := -1
		for i, e := range extents {
			if wal.LSN(e.Start) > at {
				break
			}
			if wal.LSN(e.End) > at && (best < 0 || e.End > extents[best].End) {
				best = i
			}
		}
		if best < 0 {
			return at, nil
		}
		upto := min(to, wal.LSN(extents[best].End))
		if err := a.write(ctx, extents[best], at, upto, start); err != nil {
			return at, err
		}
		at = upto
	}
	return at, nil
}

// write writes a part of an extent to its place in the segment that begins at start. Each piece is looked at and written
// while it is in the processor's cache.
func (a *assembler) write(ctx context.Context, e repo.Extent, from, to, start wal.LSN) error {
	off := from - start
	return a.reader.Each(ctx, e, uint64(from), uint64(to), func(piece []byte) error {
		if off < wal.LongHeaderSize {
			copy(a.head[off:], piece)
		}
		if !a.reserved {
			reserve(a.out, int64(a.s.size))
			a.reserved = true
		}
		if a.scan != nil {
			a.scan.Write(piece) //nolint:errcheck // it never fails
		}
		_, err := a.out.WriteAt(piece, int64(off))
		off += wal.LSN(len(piece))
		return err
	})
}

// list returns a timeline's extents from a position on, as they are remembered or, with fresh, anew.
func (s *Source) list(ctx context.Context, tl wal.TimelineID, from wal.LSN, fresh bool) ([]repo.Extent, error) {
	s.mu.Lock()
	l, ok := s.extents[tl]
	s.mu.Unlock()
	if !ok || fresh || from < l.from {
		extents, err := s.log.Extents(ctx, repo.StreamID(tl), uint64(from))
		if err != nil {
			return nil, err
		}
		l = listing{from, extents}
		s.mu.Lock()
		s.extents[tl] = l
		s.mu.Unlock()
	}
	// Extents are sorted by their start, and none is longer than MaxExtent.
	first, _ := slices.BinarySearchFunc(l.extents, int64(from)-repo.MaxExtent, func(e repo.Extent, at int64) int {
		return int(int64(e.Start) - at)
	})
	return l.extents[first:], nil
}

// proven checks that the bytes begin the segment that was asked for, and pads them.
func (a *assembler) proven(name string, n wal.Name, got wal.LSN) file {
	if err := a.out.Truncate(int64(a.s.size)); err != nil { // what is missing reads as zeros
		return file{Result: failed(name, err)}
	}
	if got-n.Start >= wal.LongHeaderSize {
		if _, err := wal.CheckSegment(a.head[:], n, a.s.size, a.s.policy.SystemID); err != nil {
			return file{Result: Result{
				Outcome: StoreFailed, Name: name, Reason: "the stored log is not what it should be: " + err.Error(),
				Next: "look for this log in another replica",
			}}
		}
	}
	if r, refused := a.guard(name, n); refused {
		if !a.s.policy.Bounded {
			return file{Result: r}
		}
		// PostgreSQL itself refuses to end before its target: what lies before the record can be recovered.
		if err := a.cutAt(r.From - n.Start); err != nil {
			return file{Result: failed(name, err)}
		}
	}
	return file{Result: Result{Outcome: Served, Name: name, From: got}, whole: got == n.Start+wal.LSN(a.s.size)}
}
