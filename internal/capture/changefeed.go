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
}

// block returns what a block changed whose bytes begin at start, and nil where it has nothing to say.
func (f *changeFeed) block(tl wal.TimelineID, start wal.LSN, data []byte) *changed.Map {
	if f.decoder == nil || f.timeline != tl || f.decoder.Next() != start {
		page := (start + wal.PageSize - 1) &^ (wal.PageSize - 1)
		if page >= start+wal.LSN(len(data)) || !f.begin(tl, page) {
			return nil
		}
		data = data[page-start:]
	}
	_, err := f.decoder.Write(data)
	m := f.decoder.Cut() // what lies before an error is good
	if err != nil {
		f.decoder = nil
	}
	if m.Start == 0 || m.End <= m.Start {
		return nil // all of it is within one record, or it is the empty rest of a segment
	}
	return m
}

// begin begins anew at the start of a page: a record that the page continues is left out.
func (f *changeFeed) begin(tl wal.TimelineID, page wal.LSN) bool {
	c := record.Config{Start: page, Timeline: tl, SegmentSize: f.id.SegmentSize, SystemID: f.id.SystemID}
	var err error
	f.decoder, err = changed.NewDecoder(c)
	f.timeline = tl
	return err == nil
}
