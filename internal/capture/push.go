package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// PushOptions say how Push works ahead. The zero value pushes the one file.
type PushOptions struct {
	// AckDir is a directory for what was pushed ahead of its turn; empty: nothing is.
	AckDir string
	// Repository names the repository and the system, so that what one has does not count for another.
	Repository string
	Workers    int           // 0: one for each processor that Go may use
	Bytes      dr.Bytes      // most that one call pushes; 1 GiB
	Time       time.Duration // no further segment is begun later than this; 10 s
}

func (o *PushOptions) setDefaults() {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Bytes <= 0 {
		o.Bytes = 1 << 30
	}
	if o.Time <= 0 {
		o.Time = 10 * time.Second
	}
}

// PushReport says what a call of Push did.
type PushReport struct {
	Known  bool     // an earlier call had pushed the file ahead
	Pushed []string // names of the files that are in the repository now
	Bytes  dr.Bytes
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
// *PushConflictError. With an AckDir it pushes further segments that wait beside it in pg_wal, as long as its budget
// lasts, and PushKnown answers for them when their turn comes. log's system and signer are registered.
func Push(ctx context.Context, log *repo.Log, path string, o PushOptions) (PushReport, error) {
	o.setDefaults()
	if PushKnown(o.AckDir, o.Repository, path) {
		return PushReport{Known: true, Pushed: []string{filepath.Base(path)}}, nil
	}
	p := &push{log: log, opts: o, path: path, began: time.Now()}
	err := p.file(ctx)
	if err != nil {
		return p.report, fmt.Errorf("push %s: %w", filepath.Base(path), p.advise(err))
	}
	return p.report, nil
}

// push is one call.
type push struct {
	log    *repo.Log
	opts   PushOptions
	path   string
	began  time.Time
	report PushReport
}

func (p *push) advise(err error) error {
	var conflict *PushConflictError
	switch {
	case errors.As(err, &conflict):
		return dr.Advise(err, "see that only the primary archives (archive_mode = on), and that no two clusters share a system name")
	case errors.Is(err, os.ErrNotExist):
		return dr.Advise(err, "give archive_command %p: the path of the file, relative to the data directory")
	}
	return err
}

// file pushes the file that was asked for, by the kind that its name tells.
func (p *push) file(ctx context.Context) error {
	base := filepath.Base(p.path)
	if strings.HasSuffix(base, ".history") || strings.HasSuffix(base, ".backup") {
		return p.small(ctx, base)
	}
	f, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	first := make([]byte, wal.LongHeaderSize)
	if _, err := io.ReadFull(f, first); err != nil {
		return fmt.Errorf("read its header: %w", err)
	}
	h, err := wal.ParseHeader(first)
	if err != nil {
		return err
	}
	name, err := wal.ParseName(base, h.SegmentSize)
	if err != nil {
		return err
	}
	id := LogIdentity{h.SystemID, h.SegmentSize}
	if err := checkLogIdentity(ctx, p.log, id); err != nil {
		return err
	}
	if name.Kind == wal.Partial {
		return p.partial(ctx, f, name, id)
	}
	return p.segments(ctx, name, id)
}

// small pushes a history or a backup's label, which are kept as files beside the log.
func (p *push) small(ctx context.Context, base string) error {
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
	p.report.Pushed = []string{base}
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

// partial pushes the last segment of a timeline that was left: the part of it that is log. What lies behind is
// what the file held before PostgreSQL used it again.
func (p *push) partial(ctx context.Context, f *os.File, name wal.Name, id LogIdentity) error {
	end, err := endOfLog(f, name, id.SegmentSize)
	if err != nil {
		return err
	}
	c, err := p.newPusher(ctx, name)
	if err != nil {
		return err
	}
	if err := c.put(ctx, p.path, name.Start, end); err != nil {
		return err
	}
	p.report.Pushed, p.report.Bytes = []string{filepath.Base(p.path)}, dr.Bytes(end-name.Start)
	return nil
}

// endOfLog returns the end of the last page of a segment that was written at its place. Every page begins with
// magic, flags, timeline and position (access/xlog_internal.h, XLogPageHeaderData).
func endOfLog(f io.ReaderAt, name wal.Name, size wal.SegmentSize) (wal.LSN, error) {
	var head [16]byte
	magic := uint16(0)
	for at := name.Start; at < name.Start+wal.LSN(size); at += wal.PageSize {
		if _, err := f.ReadAt(head[:], int64(at-name.Start)); err != nil {
			return 0, err
		}
		m, tl := binary.LittleEndian.Uint16(head[:]), wal.TimelineID(binary.LittleEndian.Uint32(head[4:]))
		if at == name.Start {
			magic = m
		}
		if m != magic || tl == 0 || tl > name.Timeline || binary.LittleEndian.Uint64(head[8:]) != uint64(at) {
			return at, nil
		}
	}
	return name.Start + wal.LSN(size), nil
}
