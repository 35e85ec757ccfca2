package mount

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/mount/layer"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

const (
	demandReaders = 8 // reads that are fetched at once
	groupPages    = 4 // of a chunk's pages, those that are sealed together
	// fewPages is up to how many pages are fetched by themselves, where the store is near: else their whole chunk comes, which costs one
	// answer as well.
	fewPages = 16
	// keptParts is how many parts of files are remembered: what a list of 128 MiB of a file says, up to a megabyte where much is patched.
	keptParts = 48
)

// source fetches what files of a snapshot hold.
type source struct {
	repo    *repo.Repository
	root    seal.ChunkID
	readers chan *repo.Reader
	wait    time.Duration // how long a read waits for a store that does not answer
	closed  chan struct{}

	demand atomic.Int64 // reads that are waited for

	mu    sync.Mutex // guards parts and order
	parts map[partKey]*repo.FilePart
	order []partKey // the oldest first
}

type partKey struct {
	file uint32
	n    int
}

var _ layer.Source = (*source)(nil)

func newSource(r *repo.Repository, root seal.ChunkID, wait time.Duration) *source {
	s := &source{repo: r, root: root, wait: wait, readers: make(chan *repo.Reader, demandReaders), closed: make(chan struct{}), parts: map[partKey]*repo.FilePart{}}
	for range demandReaders {
		s.readers <- r.Reader()
	}
	return s
}

// part returns a part of a file.
func (s *source) part(ctx context.Context, rd *repo.Reader, id layer.Ident, n int) (*repo.FilePart, error) {
	key := partKey{id.ID, n}
	s.mu.Lock()
	p := s.parts[key]
	s.mu.Unlock()
	if p != nil {
		return p, nil
	}
	e, err := rd.Lookup(ctx, s.root, id.Path)
	if err == nil && (e == nil || e.Type != repo.TypeFile || e.Size != id.Size) {
		err = fmt.Errorf("the snapshot has no file %s of %d bytes", id.Path, id.Size)
	}
	if err != nil {
		return nil, err
	}
	if p, err = rd.FilePart(ctx, e, n); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts[key] == nil {
		if len(s.order) == keptParts {
			delete(s.parts, s.order[0])
			s.order = s.order[1:]
		}
		s.parts[key], s.order = p, append(s.order, key)
	}
	return p, nil
}

// Fetch implements layer.Source. It waits for a store that does not answer, up to a bound; what is damaged is told at once.
func (s *source) Fetch(ctx context.Context, id layer.Ident, chunk int, want uint64, put func(int, []byte) error) error {
	s.demand.Add(1)
	defer s.demand.Add(-1)
	ctx, stop := context.WithTimeoutCause(ctx, s.wait, fmt.Errorf("the store has not answered for %s", s.wait))
	defer stop()
	pause := 50 * time.Millisecond
	for {
		err := s.try(ctx, id, chunk, want, put)
		if err == nil {
			return nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return errors.Join(cause, err)
		}
		if store.KindOf(err) != store.Busy {
			return err
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return errors.Join(context.Cause(ctx), err)
		case <-s.closed:
			again.Stop()
			return errors.Join(errClosed, err)
		}
		pause = min(2*pause, time.Second)
	}
}

var errClosed = errors.New("the mount is being closed")

func (s *source) try(ctx context.Context, id layer.Ident, chunk int, want uint64, put func(int, []byte) error) error {
	var rd *repo.Reader
	select {
	case rd = <-s.readers:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return errClosed
	}
	defer func() { s.readers <- rd }()
	p, err := s.part(ctx, rd, id, chunk/repo.ListLen)
	if err != nil {
		return err
	}
	within := chunk % repo.ListLen
	if s.repo.Far() || bits.OnesCount64(want) > fewPages {
		return rd.PartPieces(ctx, p, []int{within}, putPieces(put), nil)
	}
	return fetchPages(ctx, rd, p, within, grouped(want)&inFile(id, chunk), put)
}

// putPieces hands a chunk over.
func putPieces(put func(first int, plain []byte) error) func(int, [][]byte) error {
	return func(_ int, pieces [][]byte) error {
		first := 0
		for _, b := range pieces {
			if err := put(first, b); err != nil {
				return err
			}
			first += len(b) / layer.PageSize
		}
		return nil
	}
}

// fetchPages reads some pages of a chunk, and hands neighbours over together.
func fetchPages(ctx context.Context, rd *repo.Reader, p *repo.FilePart, within int, want uint64, put func(int, []byte) error) error {
	var pages []uint16
	for m := want; m != 0; m &= m - 1 {
		pages = append(pages, uint16(within*layer.PagesPerChunk+bits.TrailingZeros64(m)))
	}
	var run []byte
	first := -1
	flush := func() error {
		if first < 0 {
			return nil
		}
		err := put(first, run)
		first, run = -1, run[:0]
		return err
	}
	err := rd.Pages(ctx, p, pages, func(page uint16, plain []byte) error {
		n := int(page) % layer.PagesPerChunk
		if first >= 0 && first+len(run)/layer.PageSize != n {
			if err := flush(); err != nil {
				return err
			}
		}
		if first < 0 {
			first = n
		}
		run = append(run, plain...)
		return nil
	})
	return errors.Join(err, flush())
}

// grouped returns the pages that are sealed together with some.
func grouped(want uint64) (all uint64) {
	for m := want; m != 0; m &= m - 1 {
		all |= (1<<groupPages - 1) << (bits.TrailingZeros64(m) / groupPages * groupPages)
	}
	return all
}

// inFile returns the pages of a chunk that a file has.
func inFile(id layer.Ident, chunk int) uint64 {
	pages := (id.Size - int64(chunk)*layer.ChunkSize + layer.PageSize - 1) / layer.PageSize
	if pages >= layer.PagesPerChunk {
		return ^uint64(0)
	}
	return 1<<max(pages, 0) - 1
}

// close ends reads that wait.
func (s *source) close() { close(s.closed) }
