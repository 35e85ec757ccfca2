package changed

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

// Decoder reads a log and gathers what it changed. It is used by one goroutine.
type Decoder struct {
	reader *record.Reader
	tl     wal.TimelineID
	m      *Map
	vmHeap uint32 // heap blocks for which a block of the visibility map has bits
}

// NewDecoder returns a decoder of the log that Config names.
func NewDecoder(c record.Config) (*Decoder, error) {
	d := &Decoder{tl: c.Timeline}
	if c.PageSize == 0 {
		c.PageSize = 8192
	}
	// visibilitymap.c: a block is a page header, then two bits for each heap block.
	const pageHeader, heapBlocksPerByte = 24, 4
	d.vmHeap = (c.PageSize - pageHeader) * heapBlocksPerByte
	var err error
	if d.reader, err = record.NewReader(c, d.record); err != nil {
		return nil, err
	}
	d.m = newMap(d.tl, 0)
	return d, nil
}

// Next returns the position of the first byte that Write expects: the start of the page on which reading begins.
func (d *Decoder) Next() wal.LSN { return d.reader.Next() }

// End returns where the last complete record ends.
func (d *Decoder) End() wal.LSN { return d.reader.End() }

// Write takes the next bytes of the log. An error is a *record.StopError: what was before it is good and can be
// cut, nothing behind it will be read.
func (d *Decoder) Write(b []byte) (int, error) { return d.reader.Write(b) }

// Cut returns what changed since the last cut, up to End, and begins anew there. A record of which only a part has
// come belongs to the next map. The map is the caller's. Its Start is zero as long as it is not known where the first
// record starts.
func (d *Decoder) Cut() *Map {
	m := d.m
	if m.Start == 0 {
		m.Start = d.reader.Begin() // not known before the first page has come: it may continue a record
	}
	m.End = max(d.reader.End(), m.Start)
	next := m.End
	if next == d.reader.Begin() {
		next = 0 // no record has come
	}
	d.m = newMap(d.tl, next)
	return m
}

// record gathers what a record changed.
func (d *Decoder) record(r *record.Record) {
	for i := range r.Blocks {
		b := &r.Blocks[i]
		f := Fork{b.Tablespace, b.Database, b.Relation, cluster.Fork(b.Fork)}
		switch {
		case b.Fork > uint8(cluster.Init) || b.Number == NoLimit:
			d.doubt(r, Unknown, fmt.Sprintf("a reference to block %d of %s", b.Number, f.Fork))
		case f.Fork != cluster.FSM: // it is hardly logged, so that nobody may rely on a map of it
			d.m.mark(f, b.Number)
		}
	}
	if !known(r) {
		d.doubt(r, Unknown, fmt.Sprintf("a record of resource manager %d with info %02X, which PostgreSQL %d does not have", r.Rmgr, r.Info, r.Version))
		return
	}
	meaning := meanings[r.Rmgr]
	if meaning == nil {
		return
	}
	if r.Cut || !meaning(d, r) {
		d.doubt(r, Unknown, fmt.Sprintf("a record of resource manager %d with info %02X and %d bytes of data cannot be read", r.Rmgr, r.Info, len(r.Data)))
	}
}

func (d *Decoder) doubt(r *record.Record, kind DoubtKind, reason string) {
	d.m.doubt(Doubt{Kind: kind, At: r.Start, Reason: reason})
}
