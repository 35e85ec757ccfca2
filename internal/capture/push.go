package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// PushReport says what a call of Push did.
type PushReport struct {
	File  string // is in the repository now
	Bytes dr.Bytes
}

// PushConflictError says that the repository holds other bytes than the file has. PostgreSQL demands that such a
// file is refused: two servers write to one archive.
type PushConflictError struct {
	File   string
	Stream repo.StreamID
	At     wal.LSN // of the first byte that differs; zero for a file without a position
}

func (e *PushConflictError) Error() string {
	return fmt.Sprintf("the repository holds other bytes for %s (timeline %d at %s)", e.File, e.Stream, e.At)
}

// Push brings a file that PostgreSQL archives into the repository, as archive_command asks for: when it returns nil
// the file is durable there. A file that is there already with the same content is a success, with another one a
// *PushConflictError. log's system and signer are registered.
func Push(ctx context.Context, log *repo.Log, path string) (PushReport, error) {
	p := &push{log: log, path: path, report: PushReport{File: filepath.Base(path)}}
	if err := p.file(ctx); err != nil {
		return p.report, pushError(path, err)
	}
	return p.report, nil
}

// pushError is why a file was not pushed, with the next step where one is known.
func pushError(path string, err error) error {
	err = fmt.Errorf("push %s: %w", filepath.Base(path), err)
	var conflict *PushConflictError
	switch {
	case errors.As(err, &conflict):
		return dr.Advise(err, "see that only the primary archives (archive_mode = on), and that no two clusters share a system name")
	case errors.Is(err, os.ErrNotExist):
		return dr.Advise(err, "give archive_command %p: the path of the file, relative to the data directory")
	}
	return err
}

// push is one call.
type push struct {
	log    *repo.Log
	path   string
	report PushReport
}

// file pushes the file, by the kind that its name tells.
func (p *push) file(ctx context.Context) error {
	if !isSegment(p.path) {
		return p.small(ctx)
	}
	name, id, err := identifySegment(p.path)
	if err == nil {
		err = checkLogIdentity(ctx, p.log, id)
	}
	if err != nil {
		return err
	}
	stored, err := p.log.Extents(ctx, repo.StreamID(name.Timeline), uint64(name.Start))
	if err != nil {
		return err
	}
	w := newPushWorker(p.log)
	if name.Kind == wal.Partial {
		end, err := w.partial(ctx, p.path, name, id.SegmentSize, stored)
		p.report.Bytes = dr.Bytes(end - name.Start)
		return err // no mark: it may hold what the new timeline has left behind
	}
	if _, err = w.segment(ctx, p.path, name, id, stored, repo.Small); err != nil {
		return err
	}
	p.report.Bytes = dr.Bytes(id.SegmentSize)
	return putPushMark(ctx, p.log, name.Timeline, name.Start+wal.LSN(id.SegmentSize))
}

// putPushMark marks that the log was acknowledged up to end.
func putPushMark(ctx context.Context, log *repo.Log, tl wal.TimelineID, end wal.LSN) error {
	return log.PutMark(ctx, repo.Mark{Stream: repo.StreamID(tl), LSN: uint64(end), Writer: time.Now().UTC()})
}

// isSegment tells whether the file is log, and not one of those that PostgreSQL archives beside it.
func isSegment(path string) bool {
	return !strings.HasSuffix(path, ".history") && !strings.HasSuffix(path, ".backup")
}

// identifySegment reads whose log a file is, and which part of it.
func identifySegment(path string) (name wal.Name, id LogIdentity, err error) {
	f, err := os.Open(path)
	if err != nil {
		return name, id, err
	}
	defer f.Close() //nolint:errcheck // only read
	first := make([]byte, wal.LongHeaderSize)
	if _, err := io.ReadFull(f, first); err != nil {
		return name, id, fmt.Errorf("read its header: %w", err)
	}
	h, err := wal.ParseHeader(first)
	if err != nil {
		return name, id, err
	}
	name, err = wal.ParseName(filepath.Base(path), h.SegmentSize)
	return name, LogIdentity{h.SystemID, h.SegmentSize}, err
}

// small pushes a history or a backup's label, which are kept as files beside the log.
func (p *push) small(ctx context.Context) error {
	base := filepath.Base(p.path)
	content, err := os.ReadFile(p.path)
	if err != nil {
		return err
	}
	if len(content) > 1<<20 {
		return fmt.Errorf("a file of %d bytes is none that PostgreSQL writes", len(content))
	}
	size := wal.DefaultSegmentSize
	id, ok, err := ReadLogIdentity(ctx, p.log)
	if err != nil {
		return err
	}
	if ok {
		size = id.SegmentSize
	}
	name, err := wal.ParseName(base, size)
	if err != nil {
		return err
	}
	p.report.Bytes = dr.Bytes(len(content))
	if name.Kind == wal.History {
		if _, err := wal.ParseHistory(name.Timeline, content); err != nil {
			return err
		}
		return storeHistory(ctx, p.log, name.Timeline, content)
	}
	object := strings.ToLower(base)
	have, err := p.log.File(ctx, object)
	switch {
	case errors.Is(err, store.ErrNotExist):
		return p.log.PutFile(ctx, object, content)
	case err == nil && !bytes.Equal(have, content):
		return &PushConflictError{File: base, Stream: repo.StreamID(name.Timeline)}
	}
	return err
}
