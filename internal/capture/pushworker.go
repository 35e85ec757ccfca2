package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// pushedFile tells a file from another one of its name: it is the same one as long as these are.
type pushedFile struct {
	size, nanos int64
	inode       uint64
}

func statPushed(path string) (pushedFile, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return pushedFile{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return pushedFile{st.Size, st.Mtim.Nano(), st.Ino}, nil
}

// pushWorker pushes segments for one goroutine.
type pushWorker struct {
	log     *repo.Log
	encoder *repo.ExtentEncoder
	reader  *repo.LogReader
}

func newPushWorker(log *repo.Log) *pushWorker {
	return &pushWorker{log: log, encoder: log.Encoder(), reader: log.Reader()}
}

// segment pushes one segment after checking that it is what its name says. stored is what the repository has of its
// timeline.
func (c *pushWorker) segment(ctx context.Context, path string, name wal.Name, id LogIdentity, stored []repo.Extent, how repo.Compression) (pushedFile, error) {
	before, err := statPushed(path)
	if err != nil {
		return before, err
	}
	if before.size != int64(id.SegmentSize) {
		return before, &dr.Failure{What: path + " is no whole segment", Reason: dr.Bytes(before.size).String() + " are not " + dr.Bytes(id.SegmentSize).String()}
	}
	f, err := os.Open(path)
	if err != nil {
		return before, err
	}
	defer f.Close() //nolint:errcheck // only read
	var first [wal.LongHeaderSize]byte
	if _, err := f.ReadAt(first[:], 0); err != nil {
		return before, err
	}
	if _, err = wal.CheckSegment(first[:], name, id.SegmentSize, id.SystemID); err != nil {
		return before, err
	}
	if err := c.put(ctx, f, name, name.Start+wal.LSN(id.SegmentSize), stored, how); err != nil {
		return before, err
	}
	after, err := statPushed(path)
	if err == nil && after != before {
		err = &dr.Failure{What: path + " has changed while it was read", Reason: "a segment that is ready is not written any more", Next: "archive only with the primary's archive_command"}
	}
	return after, err
}

// partial pushes the last segment of a timeline that was left: the part of it that is log, whose end it returns. What
// lies behind is what the file held before PostgreSQL used it again.
func (c *pushWorker) partial(ctx context.Context, path string, name wal.Name, size wal.SegmentSize, stored []repo.Extent) (wal.LSN, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	end, err := endOfLog(f, name, size)
	if err != nil {
		return 0, err
	}
	return end, c.put(ctx, f, name, end, stored, repo.Small)
}

// put stores the log to end that a segment's file begins with, in extents of at most 16 MiB.
func (c *pushWorker) put(ctx context.Context, f *os.File, name wal.Name, end wal.LSN, stored []repo.Extent, how repo.Compression) error {
	for at := name.Start; at < end; {
		stop := min(logBlockStart(at)+logBlockSize, end)
		part := io.NewSectionReader(f, int64(at-name.Start), int64(stop-at))
		has, err := c.has(ctx, part, filepath.Base(f.Name()), at, stored)
		if err == nil && !has {
			err = c.encoder.Add(ctx, repo.StreamID(name.Timeline), uint64(at), part, int(stop-at), repo.ExtentClock{Writer: time.Now()}, how)
			if err == nil {
				c.supersede(ctx, repo.Extent{Stream: repo.StreamID(name.Timeline), Start: uint64(at), End: uint64(stop)}, stored)
			}
		}
		if errors.Is(err, store.ErrExists) { // another process was faster: it must have the same
			there := []repo.Extent{{Stream: repo.StreamID(name.Timeline), Start: uint64(at), End: uint64(stop)}}
			if has, err = c.has(ctx, part, filepath.Base(f.Name()), at, there); err == nil && !has {
				err = store.ErrNotExist // and was removed meanwhile: the next attempt stores it
			}
		}
		if err != nil {
			return err
		}
		at = stop
	}
	return nil
}

// supersede removes the pieces of a part that is stored as a whole now: snapshots bring those that they cannot wait for.
// Where that fails they stay: they cost space and nothing else.
func (c *pushWorker) supersede(ctx context.Context, whole repo.Extent, stored []repo.Extent) {
	if slices.ContainsFunc(stored, func(e repo.Extent) bool { return e.Start >= whole.Start && e.End <= whole.End }) {
		_ = c.log.DropPieces(ctx, whole)
	}
}

// has tells whether the repository has a part of a file, which begins at at, and refuses it where the repository has
// other bytes.
func (c *pushWorker) has(ctx context.Context, part *io.SectionReader, file string, at wal.LSN, stored []repo.Extent) (bool, error) {
	end := at + wal.LSN(part.Size())
	covered := at
	var data []byte
	for _, e := range stored {
		from, to := max(wal.LSN(e.Start), at), min(wal.LSN(e.End), end)
		if from >= to {
			continue
		}
		have, _, err := c.reader.Read(ctx, e)
		if errors.Is(err, store.ErrNotExist) {
			continue
		}
		if err == nil && data == nil {
			data = make([]byte, part.Size())
			_, err = part.ReadAt(data, 0)
		}
		if err != nil {
			return false, err
		}
		have = have[from-wal.LSN(e.Start) : to-wal.LSN(e.Start)]
		if d := differs(have, data[from-at:to-at]); d >= 0 {
			return false, &PushConflictError{File: file, Stream: e.Stream, At: from + wal.LSN(d)}
		}
		if from <= covered {
			covered = max(covered, to)
		}
	}
	return covered == end, nil
}

// differs returns where two slices of one length differ first, or -1.
func differs(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
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
