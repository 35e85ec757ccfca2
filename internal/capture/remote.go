package capture

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// remote receives the files over BASE_BACKUP: one stream, which one goroutine cuts into chunks and all workers
// compress. The server sends each page as it read it; a page that was torn is mended by replay, and cannot be
// read again.
func (s *snapshot) remote(ctx context.Context) (cluster.Result, error) {
	began := time.Now()
	host, err := oneHost(ctx, s.cfg.Connection)
	if err != nil {
		return cluster.Result{}, err
	}
	conn, err := cluster.ConnectReplication(ctx, host)
	if err != nil {
		return cluster.Result{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the backup's end was checked
	eg, ctx := errgroup.WithContext(ctx)
	in := &remoteReader{s: s, jobs: make(chan chunkJob), free: make(chan []byte, 2*s.cfg.Workers+1), dirs: map[string]bool{}}
	for range cap(in.free) {
		in.free <- make([]byte, repo.Grid)
	}
	for range s.cfg.Workers {
		w := &remoteWorker{in: in, lane: s.w.Lane()}
		eg.Go(func() error { return w.run(ctx) })
	}
	var result cluster.Result
	eg.Go(func() error {
		defer close(in.jobs)
		o := cluster.RemoteOptions{Label: "holdfast " + string(s.w.ID()), Mode: s.cfg.Checkpoint}
		o.Started = func(_ wal.LSN, _ wal.TimelineID, ts []cluster.Tablespace) error {
			s.report.Checkpoint = time.Since(began)
			in.check = pageChecker{checksums: s.info.Checksums, segmentBlocks: s.info.SegmentBlocks}
			for _, t := range ts {
				if t.OID != 0 {
					in.folder(fmt.Sprintf("pg_tblspc/%d", t.OID))
				}
			}
			return nil
		}
		var err error
		result, err = cluster.RemoteBackup(ctx, conn, o, func(e cluster.Entry, r io.Reader) error { return in.entry(ctx, e, r) })
		return err
	})
	err = eg.Wait()
	s.report.Copy = time.Since(began) - s.report.Checkpoint
	s.report.add(&in.check)
	s.entries = in.files
	return result, err
}

// remoteReader cuts the stream. All of its methods run on the stream's goroutine, except finish.
type remoteReader struct {
	s     *snapshot
	jobs  chan chunkJob
	free  chan []byte // the bound on memory
	check pageChecker
	dirs  map[string]bool
	read  int64
	mu    sync.Mutex // guards files
	files []treeEntry
}

// chunkJob is one chunk to be saved as number n of its list.
type chunkJob struct {
	list *remoteList
	n    int
	buf  []byte
}

// remoteList is a list whose chunks are being saved by several workers.
type remoteList struct {
	file  *remoteFile
	index int
	ids   []seal.ChunkID
	left  atomic.Int32
}

// remoteFile is a file whose lists are being made.
type remoteFile struct {
	cluster.Entry
	lists []repo.FileList
	left  atomic.Int32
}

func (in *remoteReader) folder(path string) {
	if in.dirs[path] {
		return
	}
	in.dirs[path] = true
	in.finish(path, &repo.Entry{Type: repo.TypeDir, Mode: 0o700, ModTime: time.Now()})
}

func (in *remoteReader) finish(path string, e *repo.Entry) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.files = append(in.files, treeEntry{path, e})
}

func (in *remoteReader) entry(ctx context.Context, e cluster.Entry, r io.Reader) error {
	if e.Type != cluster.File {
		in.folder(e.Path)
		return nil
	}
	if e.Size == 0 {
		in.finish(e.Path, newEntry(e))
		return nil
	}
	f := &remoteFile{Entry: e, lists: make([]repo.FileList, repo.ListCount(e.Size))}
	f.left.Store(int32(len(f.lists)))
	chunks := (e.Size + repo.Grid - 1) / repo.Grid
	for i := range f.lists {
		l := &remoteList{file: f, index: i}
		l.ids = make([]seal.ChunkID, min(chunks-int64(i)*repo.ListLen, repo.ListLen))
		l.left.Store(int32(len(l.ids)))
		for n := range l.ids {
			at := (int64(i)*repo.ListLen + int64(n)) * repo.Grid
			if err := in.chunk(ctx, r, chunkJob{list: l, n: n}, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// chunk reads the file's chunk at offset at from the stream and hands it to a worker.
func (in *remoteReader) chunk(ctx context.Context, r io.Reader, j chunkJob, at int64) error {
	var buf []byte
	select {
	case buf = <-in.free:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	e := &j.list.file.Entry
	j.buf = buf[:min(repo.Grid, e.Size-at)]
	if _, err := io.ReadFull(r, j.buf); err != nil {
		return fmt.Errorf("receive %s: %w", e.Path, err)
	}
	if e.IsRelation {
		in.checkPages(e, at, j.buf)
	}
	in.read += int64(len(j.buf))
	in.s.cfg.Progress(dr.Progress{Phase: "receiving " + in.s.cfg.System, Done: dr.Bytes(in.read), Total: dr.Bytes(in.s.size)})
	return send(ctx, in.jobs, j)
}

func (in *remoteReader) checkPages(e *cluster.Entry, at int64, buf []byte) {
	c := &in.check
	first := e.Relation.FirstBlock(c.segmentBlocks) + uint32(at/page.Size)
	for i := 0; i+page.Size <= len(buf); i += page.Size {
		c.pages++
		block := first + uint32(i/page.Size)
		if _, err := page.Verify(buf[i:i+page.Size], block, c.checksums); err != nil {
			c.bad(e.Path, e.Relation, block, buf[i:i+page.Size], err)
		}
	}
}

// remoteWorker saves chunks: one goroutine, one lane.
type remoteWorker struct {
	in   *remoteReader
	lane *repo.Lane
}

func (w *remoteWorker) run(ctx context.Context) error {
	for j := range w.in.jobs {
		var codec repo.Codec
		if j.list.file.IsRelation {
			codec = w.in.s.cfg.Codec
		}
		id, err := w.lane.Save(ctx, j.buf, codec)
		if err != nil {
			return err
		}
		j.list.ids[j.n] = id
		w.in.free <- j.buf[:repo.Grid] // as many buffers as places: never blocks
		if j.list.left.Add(-1) == 0 {
			if err := w.finishList(ctx, j.list); err != nil {
				return err
			}
		}
	}
	return nil
}

// finishList runs on the worker that saved the list's last chunk.
func (w *remoteWorker) finishList(ctx context.Context, l *remoteList) error {
	f := l.file
	var err error
	if f.lists[l.index], err = w.in.s.w.SaveList(ctx, l.ids, f.Size); err != nil {
		return err
	}
	if f.left.Add(-1) == 0 {
		e := newEntry(f.Entry)
		e.SetContent(f.Size, f.lists)
		w.in.finish(f.Path, e)
	}
	return nil
}
