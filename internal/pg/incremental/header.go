package incremental

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/page"
)

// magic begins every INCREMENTAL file (backup/basebackup_incremental.h, INCREMENTAL_MAGIC).
const magic = 0xd3ae1f0d

// header is the beginning of an INCREMENTAL file: magic, number of blocks, length, the blocks; 32-bit words in the
// host's order. Where blocks follow it is padded with zeros to a multiple of a page
// (basebackup_incremental.c, GetIncrementalHeaderSize).
type header struct {
	blocks []uint32 // carried, ascending, within the segment
	length uint32   // truncation_block_length: below it, a block that is not carried comes from an older backup
}

var errHeaderShort = errors.New("the file ends within its header")

// readHeader reads a header of at most segmentBlocks blocks.
func readHeader(r io.Reader, segmentBlocks uint32) (header, error) {
	var fixed [12]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return header{}, short(err)
	}
	if m := binary.LittleEndian.Uint32(fixed[:]); m != magic {
		return header{}, fmt.Errorf("it begins with %08X, an INCREMENTAL file with %08X", m, uint32(magic))
	}
	n, h := binary.LittleEndian.Uint32(fixed[4:]), header{length: binary.LittleEndian.Uint32(fixed[8:])}
	switch {
	case n > segmentBlocks:
		return header{}, fmt.Errorf("it says that it carries %d blocks; a segment has %d", n, segmentBlocks)
	case h.length > segmentBlocks:
		return header{}, fmt.Errorf("it says that the file has %d blocks; a segment has %d", h.length, segmentBlocks)
	}
	words := make([]byte, 4*min(n, 4096))
	for left := n; left > 0; {
		part := words[:4*min(left, 4096)]
		if _, err := io.ReadFull(r, part); err != nil {
			return header{}, short(err)
		}
		for i := 0; i < len(part); i += 4 {
			b := binary.LittleEndian.Uint32(part[i:])
			switch {
			case b >= segmentBlocks:
				return header{}, fmt.Errorf("it carries block %d; a segment has %d", b, segmentBlocks)
			case len(h.blocks) > 0 && b <= h.blocks[len(h.blocks)-1]:
				return header{}, fmt.Errorf("it carries block %d after block %d; PostgreSQL sorts them", b, h.blocks[len(h.blocks)-1])
			}
			h.blocks = append(h.blocks, b)
		}
		left -= uint32(len(part) / 4)
	}
	return h, nil
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errHeaderShort
	}
	return err
}

// size returns how many bytes the header has in the file: where the first page is.
func (h header) size() int64 {
	n := int64(12 + 4*len(h.blocks))
	if len(h.blocks) == 0 {
		return n
	}
	return (n + page.Size - 1) / page.Size * page.Size
}

// fileSize returns how many bytes the file must have.
func (h header) fileSize() int64 { return h.size() + int64(len(h.blocks))*page.Size }

// index tells which of the carried blocks a block is.
func (h header) index(block uint32) (int, bool) { return slices.BinarySearch(h.blocks, block) }

// total returns the length of the file that is made of it, in blocks (pg_combinebackup,
// find_reconstructed_block_length).
func (h header) total() uint32 {
	if n := len(h.blocks); n > 0 {
		return max(h.length, h.blocks[n-1]+1)
	}
	return h.length
}
