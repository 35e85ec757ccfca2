package capture

import (
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

// changeFeed reads the log block by block, as it has passed, and says of each what it changed. Two blocks in a row
// give two maps of which the second begins where the first one ends: a record that lies in both is of the later one.
// After a gap, a switch of timelines or a record that cannot be read it begins anew, at the next record that it can
// find. What it has no map of, a reader of changes decodes itself. It is used by one goroutine.
type changeFeed struct {
	id       LogIdentity
	timeline wal.TimelineID
	decoder  *changed.Decoder // nil: begins anew
	broken   bool             // a record could not be read: what was before it can be cut
}

// block returns what a block changed whose bytes begin at start, and nil where it has nothing to say.
func (f *changeFeed) block(tl wal.TimelineID, start wal.LSN, data []byte) *changed.Map {
	f.write(tl, start, data)
	return f.cut()
}

// follows tells whether the feed goes on at a position.
func (f *changeFeed) follows(tl wal.TimelineID, at wal.LSN) bool {
	return f.decoder != nil && !f.broken && f.timeline == tl && f.decoder.Next() == at
}

// write reads on, or begins anew at the first page of data where that does not follow. false: it can read nothing more
// until the next cut.
func (f *changeFeed) write(tl wal.TimelineID, start wal.LSN, data []byte) bool {
	if !f.follows(tl, start) {
		// A record that the page continues is left out.
		page := (start + wal.PageSize - 1) &^ (wal.PageSize - 1)
		if page >= start+wal.LSN(len(data)) || !f.begin(tl, page) {
			f.decoder = nil
			return false
		}
		data = data[page-start:]
	}
	_, err := f.decoder.Write(data)
	f.broken = err != nil
	return !f.broken
}

// cut returns what changed since the last cut, and nil where there is nothing to say.
func (f *changeFeed) cut() *changed.Map {
	if f.decoder == nil {
		return nil
	}
	m := f.decoder.Cut() // what lies before an error is good
	if f.broken {
		f.decoder, f.broken = nil, false
	}
	if m.Start == 0 || m.End <= m.Start {
		return nil // all of it is within one record, or it is the empty rest of a segment
	}
	return m
}

// begin begins anew at a position at which a record starts, or at the start of a page.
func (f *changeFeed) begin(tl wal.TimelineID, at wal.LSN) bool {
	c := record.Config{Start: at, Timeline: tl, SegmentSize: f.id.SegmentSize, SystemID: f.id.SystemID}
	var err error
	f.decoder, err = changed.NewDecoder(c)
	f.timeline, f.broken = tl, false
	return err == nil
}
