package capture

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// pieceBytes is what one worker reads of a file before it looks for other work: as much as one list of chunks
// describes, so that no two workers touch one list.
const pieceBytes = repo.ListLen * repo.Grid

// local reads the data directory beside the running server.
func (s *snapshot) local(ctx context.Context) (cluster.Result, error) {
	began := time.Now()
	s.files = localFiles{s.cfg.DataDir}
	a, err := s.forceCheckpoint(ctx)
	if err != nil {
		return cluster.Result{}, err
	}
	defer a.abort()
	s.report.Checkpoint = time.Since(began)
	began = time.Now()
	if err := s.readFiles(ctx); err != nil {
		return cluster.Result{}, err
	}
	s.report.Copy = time.Since(began)
	began = time.Now()
	result, err := a.finish(ctx)
	s.report.Log = time.Since(began)
	return result, err
}

// piece is a part of a file that one worker reads.
type piece struct {
	file *localFile
	list int // which part of pieceBytes
}

// localFile is a file some of whose pieces are being read.
type localFile struct {
	cluster.Entry
	lists []repo.FileList // one for each piece
	sizes []int64         // what each piece really had
	left  atomic.Int32    // pieces that are not finished
	gone  atomic.Bool     // it was dropped meanwhile
}

// readFiles walks the data directory and hands its files to the workers, piece by piece.
func (s *snapshot) readFiles(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	// The walk and the workers both send to done, which is closed when the last of them has ended.
	senders, sctx := errgroup.WithContext(ctx)
	pieces, done := make(chan piece), make(chan treeEntry)
	senders.Go(func() error {
		defer close(pieces)
		return s.walk(sctx, pieces, done)
	})
	var read atomic.Int64
	progress := func(n int) {
		s.cfg.Progress(dr.Progress{Phase: "reading " + s.cfg.System, Done: dr.Bytes(read.Add(int64(n))), Total: dr.Bytes(s.size)})
	}
	checkers := make([]pageChecker, s.cfg.Workers)
	for i := range checkers {
		checkers[i] = pageChecker{checksums: s.info.Checksums, segmentBlocks: s.info.SegmentBlocks}
		w := &localWorker{s: s, lane: s.w.Lane(), files: localFiles{s.cfg.DataDir}, check: &checkers[i], buf: make([]byte, repo.Grid), progress: progress}
		senders.Go(func() error { return w.run(sctx, pieces, done) })
	}
	all.Go(func() error {
		defer close(done)
		return senders.Wait()
	})
	all.Go(func() error {
		for e := range done {
			s.entries = append(s.entries, e)
		}
		return nil
	})
	err := all.Wait()
	for i := range checkers {
		s.report.add(&checkers[i])
	}
	return err
}

// walk sends what has no content straight to done.
func (s *snapshot) walk(ctx context.Context, pieces chan<- piece, done chan<- treeEntry) error {
	skipped := func(path, why string) {
		s.report.Skipped = append(s.report.Skipped, path+": "+why)
	}
	return cluster.Walk(ctx, s.cfg.DataDir, cluster.WalkOptions{Skipped: skipped}, func(e cluster.Entry) error {
		if e.Type == cluster.TablespaceLink {
			s.links = append(s.links, e.Path)
		}
		if e.Type != cluster.File || e.Size == 0 {
			return send(ctx, done, treeEntry{e.Path, newEntry(e)})
		}
		f := &localFile{Entry: e}
		n := repo.ListCount(e.Size)
		f.lists, f.sizes = make([]repo.FileList, n), make([]int64, n)
		f.left.Store(int32(n))
		for i := range n {
			if err := send(ctx, pieces, piece{f, i}); err != nil {
				return err
			}
		}
		return nil
	})
}

func newEntry(e cluster.Entry) *repo.Entry {
	out := &repo.Entry{Type: repo.TypeDir, Mode: uint32(e.Mode), ModTime: e.ModTime}
	if e.Type == cluster.File {
		out.Type = repo.TypeFile
	}
	return out
}

func send[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// localWorker reads pieces: one goroutine, one lane, one buffer.
type localWorker struct {
	s        *snapshot
	lane     *repo.Lane
	files    fileReader
	check    *pageChecker
	buf      []byte
	progress func(int)
}

func (w *localWorker) run(ctx context.Context, pieces <-chan piece, done chan<- treeEntry) error {
	for p := range pieces {
		if err := w.read(ctx, p); err != nil {
			return err
		}
		if p.file.left.Add(-1) > 0 || p.file.gone.Load() {
			continue
		}
		e := newEntry(p.file.Entry)
		var size int64
		for _, n := range p.file.sizes {
			size += n
		}
		e.SetContent(size, p.file.lists)
		if err := send(ctx, done, treeEntry{p.file.Path, e}); err != nil {
			return err
		}
	}
	return nil
}

// read saves one piece's chunks and their list.
func (w *localWorker) read(ctx context.Context, p piece) error {
	err := w.readPiece(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		p.file.gone.Store(true) // dropped: replay of the log drops it too
		return nil
	}
	return err
}

func (w *localWorker) readPiece(ctx context.Context, p piece) error {
	f, err := w.files.open(ctx, p.file.Path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	from := int64(p.list) * pieceBytes
	to := min(from+pieceBytes, p.file.Size)
	readAhead(f, from, to-from)
	ids := make([]seal.ChunkID, 0, (to-from+repo.Grid-1)/repo.Grid)
	for at := from; at < to; {
		buf, err := w.fill(f, p.file, at, to)
		if err != nil {
			return err
		}
		if len(buf) == 0 {
			break
		}
		var codec repo.Codec
		if p.file.IsRelation {
			if err := w.check.chunk(ctx, f, p.file, at, buf); err != nil {
				return err
			}
			codec = w.s.cfg.Codec
		}
		id, err := w.lane.Save(ctx, buf, codec)
		if err != nil {
			return err
		}
		ids = append(ids, id)
		at += int64(len(buf))
		p.file.sizes[p.list] += int64(len(buf))
		w.progress(len(buf))
	}
	p.file.lists[p.list], err = w.s.w.SaveList(ctx, ids, p.file.Size)
	return err
}

// fill reads the chunk at offset at. A relation that was truncated meanwhile is filled up with zeros, as
// PostgreSQL's own base backup does: replay of the log truncates it. Other files end where they end.
func (w *localWorker) fill(f io.ReaderAt, file *localFile, at, to int64) ([]byte, error) {
	buf := w.buf[:min(repo.Grid, to-at)]
	n, err := f.ReadAt(buf, at)
	if n == len(buf) {
		return buf, nil
	}
	if !isEOF(err) {
		return nil, err
	}
	if file.IsRelation || to < file.Size {
		clear(buf[n:])
		return buf, nil
	}
	return buf[:n], nil
}

func (s *snapshot) saveControl(ctx context.Context, content []byte) error {
	lane := s.w.Lane()
	id, err := lane.Save(ctx, content, nil)
	if err != nil {
		return err
	}
	e := &repo.Entry{Type: repo.TypeFile, Mode: 0o600, ModTime: time.Now()}
	e.SetContent(int64(len(content)), []repo.FileList{{Chunks: []seal.ChunkID{id}}})
	s.entries = append(s.entries, treeEntry{cluster.ControlFile, e})
	return nil
}
