package capture

import (
	"context"
	"math/bits"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// The visibility map (storage/visibilitymapdefs.h): behind the page's header two bits for each heap block, "all visible"
// the lower one. A heap page says the same of itself (PD_ALL_VISIBLE, storage/bufpage.h).
const (
	vmHeader        = 24
	vmBlocksOfByte  = 4
	vmBlocks        = (page.Size - vmHeader) * vmBlocksOfByte
	vmAllVisible    = 0x55
	pageAllVisible  = 0x0004
	vmChecksOfAPage = 32
)

// stale tells whether a page of the visibility map that is stored lies about the heap: it says of a block that everything
// in it is visible to everyone, the file no longer does, and the block itself says that it is not since before the map's
// end. Then rows would be missing or come back, where only an index is read.
//
// Other differences below an equal LSN mean nothing, whether hint bits are logged or not. A bit that is set gives the page
// its record's LSN. One that is clear is harmless, and may be clear on disk without a record in the log: bits are
// cleared before the record is written, so a crash, or a truncation that it interrupts, may leave the one without the
// other. The heap's page then says still that it is all visible, and its next change is logged as one that clears the
// bit. The same is seen where the record lies behind the map's end, for the map's page has no LSN of it: replay clears
// the bit, and the heap's page tells when. Of the bits "all frozen" alone nothing can be told, since no page repeats them.
func (p *proof) stale(ctx context.Context, r cluster.Relation, block uint32, was, is []byte) (bool, error) {
	checked := 0
	for at := vmHeader; at < page.Size; at++ {
		for cleared := was[at] &^ is[at] & vmAllVisible; cleared != 0; cleared &= cleared - 1 {
			if checked++; checked > vmChecksOfAPage {
				return false, nil // as after a change of everything behind the map's end
			}
			n := block*vmBlocks + uint32(at-vmHeader)*vmBlocksOfByte + uint32(bits.TrailingZeros8(cleared)/2)
			heap, err := p.heap(ctx, r, n)
			if err != nil {
				return false, err
			}
			if heap == nil || page.IsNew(heap) {
				continue
			}
			if _, err := page.Verify(heap, n, p.checksums); err != nil {
				continue
			}
			if h := page.ReadHeader(heap); wal.LSN(h.LSN) < p.m.End && h.Flags&pageAllVisible == 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// heapOf returns the segment of a relation's main fork that has a block, and which page of it that is.
func heapOf(r cluster.Relation, block, segmentBlocks uint32) (cluster.Relation, uint32) {
	r.Fork, r.Segment = cluster.Main, block/segmentBlocks
	return r, block % segmentBlocks
}

// storedHeap reads pages of heaps out of a snapshot.
type storedHeap struct {
	reader *repo.Reader
	root   seal.ChunkID
	dir    string // the server's folder in tablespaces
	blocks uint32
	buf    []byte
}

func (h *storedHeap) page(ctx context.Context, r cluster.Relation, block uint32) ([]byte, error) {
	r, n := heapOf(r, block, h.blocks)
	e, err := h.reader.Lookup(ctx, h.root, r.Path(h.dir))
	if err != nil || e == nil || int64(n+1)*repo.PageSize > e.Size {
		return nil, err
	}
	part, err := h.reader.FilePart(ctx, e, int(n/pagesOfPart))
	if err != nil {
		return nil, err
	}
	err = h.reader.Pages(ctx, part, []uint16{uint16(n % pagesOfPart)}, func(_ uint16, plain []byte) error {
		h.buf = append(h.buf[:0], plain...)
		return nil
	})
	return h.buf, err
}
