package layer

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
)

// Sizes of the unit of locality and of what is fetched together; those of the repository's grid.
const (
	PageSize      = 8 << 10
	PagesPerChunk = 64
	ChunkSize     = PageSize * PagesPerChunk
)

// worthAll is how many pages of a chunk are asked for by themselves: whoever needs as many needs most of it, and all of it comes in the
// time of a few.
const worthAll = 12

// Backing is the local file. Its Sync makes its content and size durable.
type Backing interface {
	ReadAt(b []byte, off int64) (int, error)
	WriteAt(b []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Size() (int64, error)
	Close() error
}

// Ident says which of the snapshot's files a backing is of.
type Ident struct {
	ID   uint32 // unique in the layer
	Size int64  // in the snapshot
	Path string // in the snapshot; for the source, and for errors
}

// Source has the content of the snapshot's files.
type Source interface {
	// Fetch calls put for at least the wanted pages of a chunk of a file, a bit for each; for neighbours together where it can. first is the number of
	// the first page in the chunk. All pages but the file's last are whole, and proven to be the snapshot's. put may be called
	// for more than was wanted. An error says that some could not be had.
	Fetch(ctx context.Context, file Ident, chunk int, want uint64, put func(first int, plain []byte) error) error
}

// Layer is the files of one snapshot. Its methods may be called by several goroutines.
type Layer struct {
	source  Source
	journal *Journal // nil: nothing is durable, and nobody wants that

	mu    sync.Mutex // guards files, and the counts of their users
	files map[uint32]*File

	flights flights
	locks   [256]sync.Mutex // of chunks, by a hash: who writes pages that were not local

	fetched atomic.Int64 // bytes that came from the source

	// Ahead is told when a chunk of a file was fetched for somebody right after the one before it. It must not wait. May be nil, and is not
	// changed once files are attached.
	Ahead func(f *File, chunk int)
}

// New returns a layer over a source. journal may be nil: then a sync promises nothing.
func New(source Source, journal *Journal) *Layer {
	return &Layer{source: source, journal: journal, files: map[uint32]*File{}, flights: flights{at: map[place]*flight{}}}
}

// Fetched returns how many bytes of files have come from the source.
func (l *Layer) Fetched() int64 { return l.fetched.Load() }

// Whole tells whether a file of the snapshot is known to be whole: its backing is an ordinary file. One whose sync has failed is not.
func (l *Layer) Whole(id uint32) bool {
	l.mu.Lock()
	f := l.files[id]
	l.mu.Unlock()
	if f != nil {
		return f.Whole() && f.usable() == nil
	}
	return l.journal.file(id).whole
}

// Attach returns the file of a backing, which open opens if nobody has the file open already. Each Attach needs a Detach.
func (l *Layer) Attach(id Ident, open func() (Backing, error)) (*File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.files[id.ID]
	if f == nil {
		f = newFile(l, id)
		l.files[id.ID] = f
	}
	if f.backing == nil {
		b, err := open()
		if err != nil {
			return nil, err
		}
		f.backing = b
	}
	f.users++
	return f, nil
}

// Hold is one more use of a file, where somebody uses it; false where nobody does.
func (l *Layer) Hold(f *File) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.users == 0 {
		return false
	}
	f.users++
	return true
}

// Detach ends a use. What is not durable of the file remains known.
func (l *Layer) Detach(f *File) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.users--; f.users > 0 {
		return nil
	}
	b := f.backing
	f.backing = nil
	if l.journal != nil && (f.Whole() && f.usable() == nil || f.untouched()) {
		delete(l.files, f.id.ID) // the journal tells all there is
	}
	return b.Close()
}

// place is a chunk of a file.
type place struct {
	file  uint32
	chunk int
}

// flight is a chunk that is being fetched.
type flight struct {
	done chan struct{}
	err  error
}

// flights are all of them: whoever needs pages of a chunk that is under way waits for it.
type flights struct {
	mu sync.Mutex // guards at
	at map[place]*flight
}

func (s *flights) join(p place) (*flight, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.at[p]; f != nil {
		return f, false
	}
	f := &flight{done: make(chan struct{})}
	s.at[p] = f
	return f, true
}

func (s *flights) land(p place, f *flight, err error) {
	s.mu.Lock()
	delete(s.at, p)
	s.mu.Unlock()
	f.err = err
	close(f.done)
}

// lock returns the lock of a chunk.
func (l *Layer) lock(f *File, chunk int) *sync.Mutex {
	return &l.locks[(int(f.id.ID)*31+chunk)%len(l.locks)]
}

// ensure makes pages of a chunk local.
func (l *Layer) ensure(ctx context.Context, f *File, chunk int, want uint64) error {
	p := place{f.id.ID, chunk}
	for {
		missing := f.missing(chunk, want)
		if missing == 0 {
			return nil
		}
		fl, mine := l.flights.join(p)
		if !mine {
			select {
			case <-fl.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if fl.err != nil && f.missing(chunk, missing) == missing {
				return fl.err // it will not be otherwise for us
			}
			continue
		}
		missing = f.missing(chunk, want) // somebody may have brought them meanwhile
		if missing != 0 && f.here(chunk) >= worthAll {
			missing = f.Missing(chunk)
		}
		var err error
		if missing != 0 {
			err = l.fetch(ctx, f, chunk, missing)
		}
		l.flights.land(p, fl, err)
		if err != nil {
			return err
		}
	}
}

func (l *Layer) fetch(ctx context.Context, f *File, chunk int, missing uint64) error {
	err := l.source.Fetch(ctx, f.id, chunk, missing, func(first int, plain []byte) error {
		l.fetched.Add(int64(len(plain)))
		return f.install(chunk, first, plain)
	})
	if err == nil && f.missing(chunk, missing) != 0 {
		err = errors.New("the source did not bring all of it")
	}
	if last := f.last.Swap(int64(chunk)); err == nil && l.Ahead != nil && last == int64(chunk)-1 {
		l.Ahead(f, chunk)
	}
	if err != nil {
		return fmt.Errorf("%s, %d bytes from byte %d on: %w", f.id.Path, bits.OnesCount64(missing)*PageSize, int64(chunk)*ChunkSize, err)
	}
	return nil
}

// mask returns the bits of pages [from, to) of a chunk.
func mask(from, to int) uint64 {
	if to-from >= PagesPerChunk {
		return ^uint64(0)
	}
	return (uint64(1)<<(to-from) - 1) << from
}
