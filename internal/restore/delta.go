package restore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// A Delta believes no time stamp: what stays has the hash, or the very bytes, that the snapshot has. Of a chunk that
// differs it writes only the pages that do: after a percent of a cluster's pages has changed, every second chunk has one.

// pageSize is that of nearly every cluster. With another one no more than what is written in vain changes.
const pageSize = 8192

// comparedAtOnce is how many chunks of an old file are read and compared at once. Those that differ are kept until the
// right ones are there.
const comparedAtOnce = 8

// overwrite writes those of an old file's chunks that differ.
func (w *worker) overwrite(ctx context.Context, f *file, c wanted) error {
	if w.have == nil {
		var err error
		if w.have, w.freeHave, err = buffer(comparedAtOnce * repo.Grid); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(c.chunks, comparedAtOnce) {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := w.differing(f, wanted{part: c.part, start: c.start, chunks: some})
		if err != nil {
			return err
		}
		if err := w.fetch(ctx, f, d); err != nil {
			return err
		}
	}
	return nil
}

// differing returns the chunks of which the file on disk holds other bytes, and these. A chunk that is patched has no hash
// of its own: whether it differs is known when its right bytes are there.
func (w *worker) differing(f *file, c wanted) (d wanted, err error) {
	keys, group, stop := w.x.repo.Keys(), string(w.x.plan.Snapshot.Manifest.Group), w.x.plan.Snapshot.Facts.StopLSN
	d = wanted{part: c.part, start: c.start}
	first, end := c.offset(c.chunks[0]), min(c.offset(c.chunks[len(c.chunks)-1])+repo.Grid, f.e.Size)
	all := w.have[:end-first]
	read := f.readPast(all, first)
	for _, chunk := range c.chunks {
		at, size := c.offset(chunk)-first, min(f.e.Size-c.offset(chunk), repo.Grid)
		var old []byte
		if read {
			old = all[at:][:size:size]
		} else if old, err = f.readOld(w.have[len(d.chunks)*repo.Grid:][:size], c.offset(chunk)); err != nil {
			return d, err
		}
		id, whole := c.part.Whole(chunk)
		if whole && old != nil && !(f.relation() && newer(old, stop)) && keys.ChunkID(group, old) == id {
			atomic.AddInt64(&w.x.result.Kept, size)
			w.x.progress.add(size)
			continue
		}
		d.chunks, d.old = append(d.chunks, chunk), append(d.old, old)
	}
	return d, nil
}

// readPast reads what the file had before into b, which begins a page of memory, past the page cache, if it does not lie
// there: it would take the room of what is in use. False means that b was not filled.
func (f *file) readPast(b []byte, offset int64) bool {
	if f.direct == nil || f.a.buffered.Load() || len(b)%directUnit != 0 || offset+int64(len(b)) > f.was || inCache(f.f, offset, len(b)) {
		return false
	}
	_, err := f.direct.ReadAt(b, offset)
	return err == nil // readOld tells what is wrong
}

// readOld reads what the file had before into b, and returns it; nothing where it was shorter, or cannot be read: a bad
// sector heals by being written.
func (f *file) readOld(b []byte, offset int64) ([]byte, error) {
	if offset+int64(len(b)) > f.was {
		return nil, nil
	}
	_, err := f.f.ReadAt(b, offset)
	if errors.Is(err, unix.EIO) || errors.Is(err, io.EOF) {
		return nil, nil
	}
	return b, err
}

// relation tells whether a file most likely consists of pages.
func (f *file) relation() bool {
	return strings.HasPrefix(f.path, "base/") || strings.HasPrefix(f.path, tablespaceDir+"/") || strings.HasPrefix(f.path, "global/")
}

// newer tells whether a page was changed after the snapshot had ended: then its chunk differs, and need not be hashed to
// know. Where it errs, a chunk is fetched in vain. A page begins with the position of its last change, the upper half
// first (storage/bufpage.h, PageXLogRecPtr).
func newer(b []byte, stop wal.LSN) bool {
	for ; len(b) >= 8; b = b[min(len(b), pageSize):] {
		if wal.LSN(binary.LittleEndian.Uint32(b))<<32|wal.LSN(binary.LittleEndian.Uint32(b[4:])) > stop {
			return true
		}
	}
	return false
}

// patch writes a chunk over an old one: its differing pages only, where these are few. It reports whether what it wrote
// lies in the page cache now.
func (f *file) patch(pieces [][]byte, old []byte, offset int64) (written int, cached bool, err error) {
	size := sizeOf(pieces)
	if old != nil {
		var runs []pageRun
		written, at := 0, 0
		for _, p := range pieces {
			var n int
			runs, n = differingRuns(runs, at, old[at:][:len(p)], p)
			written, at = written+n, at+len(p)
		}
		if written <= size/4 {
			return written, true, f.putRuns(pieces, runs, offset)
		}
	}
	cached, err = f.put(pieces, offset)
	return size, cached, err
}

// putRuns writes runs of pages of a chunk.
func (f *file) putRuns(pieces [][]byte, runs []pageRun, offset int64) error {
	at := 0
	for _, p := range pieces {
		for len(runs) > 0 && runs[0].from < at+len(p) {
			r := runs[0]
			if _, err := f.f.WriteAt(p[r.from-at:r.to-at], offset+int64(r.from)); err != nil {
				return err
			}
			runs = runs[1:]
		}
		at += len(p)
	}
	return nil
}

// pageRun is a run of pages within a chunk, in bytes.
type pageRun struct{ from, to int }

// differingRuns appends to runs those of pages in which two pieces of a chunk differ, which begin at a byte of it, and tells
// how many bytes these have. A run ends with its piece.
func differingRuns(runs []pageRun, begin int, old, plain []byte) (_ []pageRun, size int) {
	last := -1 // end of the run before
	for from := 0; from < len(old); from += pageSize {
		to := min(from+pageSize, len(old))
		if bytes.Equal(old[from:to], plain[from:to]) {
			continue
		}
		if from == last {
			runs[len(runs)-1].to = begin + to
		} else {
			runs = append(runs, pageRun{begin + from, begin + to})
		}
		last, size = to, size+to-from
	}
	return runs, size
}
