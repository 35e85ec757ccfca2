package restore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

// ownLog is the log that a stopped cluster has in its own pg_wal.
type ownLog struct {
	dir    string
	way    *wal.Timelines // of the cluster
	config record.Config  // without a start
}

func (l *ownLog) size() wal.SegmentSize { return l.config.SegmentSize }

// open opens a segment; fs.ErrNotExist where it is not there, or is no whole segment. The one in which a timeline was
// left is the next timeline's, which begins with a copy.
func (l *ownLog) open(n wal.SegmentNumber) (*os.File, error) {
	name := wal.SegmentName(l.way.At(l.size().Start(n+1)-1), n, l.size())
	f, err := os.Open(filepath.Join(l.dir, name))
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() != int64(l.size()) {
		err = fmt.Errorf("%s has %d bytes: %w", name, fi.Size(), fs.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// begin returns the start of the segment from which on none is missing up to the one that holds at; false where that is
// missing itself.
func (l *ownLog) begin(at wal.LSN) (wal.LSN, bool) {
	n := l.size().Segment(at)
	for there := false; ; n-- {
		f, err := l.open(n)
		if err != nil {
			return l.size().Start(n + 1), there
		}
		if there = true; f.Close() != nil || n == 0 {
			return l.size().Start(n), true
		}
	}
}

const ownPiece = 1 << 20

// each calls fn for the log from at, the start of a page, up to stop, or to the last segment that is there.
func (l *ownLog) each(ctx context.Context, at, stop wal.LSN, fn func([]byte) error) error {
	b := make([]byte, min(ownPiece, stop-min(at, stop)))
	for at < stop {
		f, err := l.open(l.size().Segment(at))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		begin := l.size().Floor(at)
		for end := min(stop, begin+wal.LSN(l.size())); at < end && err == nil; {
			piece := b[:min(wal.LSN(len(b)), end-at)]
			if _, err = f.ReadAt(piece, int64(at-begin)); err == nil {
				err = errors.Join(ctx.Err(), fn(piece))
			}
			at += wal.LSN(len(piece))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// read fills b with the log from a position on.
func (l *ownLog) read(b []byte, from wal.LSN) error {
	for len(b) > 0 {
		f, err := l.open(l.size().Segment(from))
		if err != nil {
			return err
		}
		at := from - l.size().Floor(from)
		piece := b[:min(len(b), int(wal.LSN(l.size())-at))]
		_, err = f.ReadAt(piece, int64(at))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		b, from = b[len(piece):], from+wal.LSN(len(piece))
	}
	return nil
}

// tail returns what the log changed from a record's start on to its end. A server that was killed may leave half a record
// behind the end: it is the end where no page follows that belongs there.
func (l *ownLog) tail(ctx context.Context, from wal.LSN, w *hintWatch) (*changed.Map, error) {
	d, err := l.decode(ctx, from, wal.MaxLSN, w)
	var stop *record.StopError
	if err != nil && !errors.As(err, &stop) {
		return nil, err
	}
	if stop != nil {
		if at, ok := l.goesOn(d.Next()); ok {
			return nil, doubtf("the cluster's own log is damaged at %s, and goes on at %s", stop.At, at)
		}
	}
	m := d.Cut()
	if m.Start == 0 || m.End <= m.Start {
		return nil, doubtf("the cluster's own log has no record at %s", from)
	}
	return m, nil
}

// part returns what the log changed between the starts of two records.
func (l *ownLog) part(ctx context.Context, from, to wal.LSN, w *hintWatch) (*changed.Map, error) {
	d, err := l.decode(ctx, from, to, w)
	if err != nil {
		return nil, doubtf("the cluster's own log: %v", err)
	}
	return d.Cut(), nil
}

func (l *ownLog) decode(ctx context.Context, from, to wal.LSN, w *hintWatch) (*changed.Decoder, error) {
	c := l.config
	c.Start = from
	d, err := changed.NewDecoder(c)
	if err != nil {
		return nil, err
	}
	watch, err := record.NewReader(c, w.record)
	if err != nil {
		return nil, err
	}
	return d, l.each(ctx, d.Next(), to, func(b []byte) error {
		if w != nil {
			if _, err := watch.Write(b); err != nil {
				w.changed = true // what follows is not read
			}
		}
		_, err := d.Write(b)
		return err
	})
}

// hintWatch looks for a change of the settings that decide whether hint bits are logged.
type hintWatch struct{ changed bool }

func (w *hintWatch) record(r *record.Record) {
	const parameterChange = 0x60 // XLOG_PARAMETER_CHANGE
	w.changed = w.changed || r.Rmgr == record.XLOG && r.Info&0xF0 == parameterChange
}

// goesOn tells whether pages that belong to the log follow behind the one that holds at.
func (l *ownLog) goesOn(at wal.LSN) (wal.LSN, bool) {
	at = (at + wal.PageSize - 1) &^ (wal.PageSize - 1)
	for begin := l.size().Floor(at); begin <= l.size().Floor(at)+wal.LSN(l.size()); begin += wal.LSN(l.size()) {
		f, err := l.open(l.size().Segment(begin))
		if err != nil {
			return 0, false
		}
		defer f.Close() //nolint:errcheck // only read
		b := make([]byte, wal.LongHeaderSize)
		for p := max(at, begin); p < begin+wal.LSN(l.size()); p += wal.PageSize {
			if _, err := f.ReadAt(b, int64(p-begin)); err != nil {
				return 0, false
			}
			if h, err := wal.ParsePageHeader(b); err == nil && h.Start == p {
				return p, true
			}
			if begin > at {
				break // of the next segment its first page suffices
			}
		}
	}
	return 0, false
}

// checkpoint is one that the log tells of.
type checkpoint struct{ redo, at wal.LSN }

// lastCheckpoint returns the last checkpoint that lies before end, and that fits.
func (l *ownLog) lastCheckpoint(ctx context.Context, begin, end wal.LSN, fits func(checkpoint) bool) (found checkpoint, err error) {
	for n := l.size().Segment(end - 1); l.size().Start(n) >= begin && n > 0; n-- {
		c := l.config
		c.Start = l.size().Start(n)
		r, err := record.NewReader(c, func(r *record.Record) {
			if !isCheckpoint(r) || len(r.Data) < 8 {
				return
			}
			if c := (checkpoint{wal.LSN(binary.LittleEndian.Uint64(r.Data)), r.Start}); r.Start < end && fits(c) {
				found = c
			}
		})
		if err != nil {
			return found, err
		}
		err = l.each(ctx, c.Start, min(end, c.Start+wal.LSN(l.size())), func(b []byte) error { _, err := r.Write(b); return err })
		var stop *record.StopError
		if err != nil && !errors.As(err, &stop) {
			return found, err
		}
		if found.redo != 0 {
			return found, nil
		}
	}
	return found, nil
}

const (
	provenPages  = 8                 // with records in them are compared, to know that two logs are one
	provenAtOnce = 16 * wal.PageSize // bytes that are read together
)

// same tells whether the log is that which read returns, from the pages with records that lie last before end, and not
// before begin. Two histories that have parted never come together again: each record names the one before, and has
// a checksum. Pages without any lie behind the end of a segment's use, of which the last record tells: they are not compared.
func (l *ownLog) same(ctx context.Context, begin, end wal.LSN, read func(context.Context, wal.LSN, wal.LSN) ([]byte, error)) error {
	proven, memory := 0, make([]byte, provenAtOnce)
	for floor := begin; end > floor && proven < provenPages; {
		from := max(floor, (end-1)&^(provenAtOnce-1))
		own := memory[:end-from]
		if err := errors.Join(ctx.Err(), l.read(own, from)); err != nil {
			return fmt.Errorf("read the cluster's log at %s: %w", from, err)
		}
		pages := 0
		for page := range slices.Chunk(own, wal.PageSize) {
			if holdsRecords(page) {
				pages++
			}
		}
		if pages > 0 {
			stored, err := read(ctx, from, end)
			if err != nil {
				return err
			}
			if !bytes.Equal(own, stored) {
				return doubtf("the cluster's log between %s and %s is another than the repository's: both call it timeline %d", from, end, l.way.At(from))
			}
		}
		proven, end = proven+pages, from
	}
	if proven == 0 {
		return doubtf("no log is both in the cluster and in the repository, so nothing proves that their histories have met")
	}
	return nil
}

var noRecords [wal.PageSize]byte

// holdsRecords tells whether a page of the log is more than its header.
func holdsRecords(page []byte) bool {
	n := 0
	page = page[min(len(page), wal.LongHeaderSize):]
	if bytes.Equal(page, noRecords[:len(page)]) {
		return false
	}
	for _, c := range page {
		if c != 0 {
			if n++; n > 16 { // a record's header has as many
				return true
			}
		}
	}
	return false
}
