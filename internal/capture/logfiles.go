package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// logFiles reads the log from a server's own directory. It is read only as far as the server has written it: the
// caller knows how far that is.
type logFiles struct {
	dir  string
	size wal.SegmentSize
	tl   wal.TimelineID
	at   wal.LSN
	f    *os.File
}

func openLogFiles(dataDir string, size wal.SegmentSize, tl wal.TimelineID, at wal.LSN) *logFiles {
	return &logFiles{dir: filepath.Join(dataDir, "pg_wal"), size: size, tl: tl, at: at}
}

// Read returns what lies in one segment.
func (l *logFiles) Read(p []byte) (int, error) {
	begin := l.size.Floor(l.at)
	if l.f == nil || l.at == begin {
		if err := l.Close(); err != nil {
			return 0, err
		}
		name := wal.SegmentName(l.tl, l.size.Segment(l.at), l.size)
		f, err := os.Open(filepath.Join(l.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("the server has removed %s: %w", name, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return 0, err
		}
		l.f = f
	}
	p = p[:min(uint64(len(p)), uint64(begin+wal.LSN(l.size)-l.at))]
	n, err := l.f.ReadAt(p, int64(l.at-begin))
	l.at += wal.LSN(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// Close closes the segment that is open.
func (l *logFiles) Close() error {
	f := l.f
	l.f = nil
	if f == nil {
		return nil
	}
	return f.Close()
}

// maxTail is how much of the log a snapshot brings into the repository itself. More means that whoever should bring it
// is behind, and is waited for.
const maxTail = 256 << 20

// behind returns a position behind the end of the snapshot up to which the server has written its log. PostgreSQL stops at
// the consistent point by the record behind it, so the log may not end there; there is one, for what ended the snapshot
// wrote more than its end.
func (s *snapshot) behind(stop, written wal.LSN) wal.LSN {
	size := s.info.WALSegmentSize
	border := size.Floor(stop) + wal.LSN(size)
	return max(stop, min(written, stop+filesPiece, border))
}

// bringTail stores the end of the log that the repository does not have yet, up to end, from the server's own files: a
// snapshot then waits for nobody. What it cannot store is left to who receives the log.
func (s *snapshot) bringTail(ctx context.Context, tl wal.TimelineID, start, end wal.LSN) error {
	log := s.repo.Log(s.cfg.System)
	extents, err := log.Extents(ctx, repo.StreamID(tl), uint64(start))
	if err != nil {
		return err
	}
	// Of a segment that is not archived yet it has nothing. A server reads it from its beginning.
	at := s.info.WALSegmentSize.Floor(start)
	if ranges := repo.Merge(extents); len(ranges) > 0 {
		at = wal.LSN(ranges[len(ranges)-1].End)
	}
	if at >= end || end-at > maxTail {
		return nil
	}
	files := openLogFiles(s.cfg.DataDir, s.info.WALSegmentSize, tl, at)
	defer files.Close() //nolint:errcheck // only read
	encoder := log.Encoder()
	for at < end {
		stop := min(logBlockStart(at)+logBlockSize, end)
		err := encoder.Add(ctx, repo.StreamID(tl), uint64(at), files, int(stop-at), repo.ExtentClock{Writer: time.Now()}, repo.Fast)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF): // recycled: it was received, or there is a gap, which is noticed by waiting
			return nil
		case err != nil && !errors.Is(err, store.ErrExists): // whoever receives the log was faster
			return err
		}
		files.at, at = stop, stop
	}
	return nil
}
