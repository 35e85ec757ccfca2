package page

import (
	"encoding/binary"

	"github.com/klauspost/compress/huff0"
)

// A Huffman stream is a zstd frame (RFC 8878) whose blocks have literals and no sequences, so any zstd decoder
// reads it. Making it costs a histogram and a table: no match is looked for, which is what zstd's fastest level
// spends most of its time on.
const (
	zstdMagic    = 0xFD2FB528
	frameSingle  = 0xA0    // frame header descriptor: single segment, content size in 4 bytes
	blockMax     = 1 << 17 // Block_Maximum_Size
	blockRaw     = 0
	blockRLE     = 1
	blockCoded   = 2
	minHuffman   = 1024 // below, four streams are not worth their tables
	litSizes18   = 2 | 3<<2
	emptySection = 0 // a sequences section of no sequences
)

// huffman appends s as such a frame to dst.
func (h *huffmanCoder) append(dst, s []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, zstdMagic)
	dst = append(dst, frameSingle)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(s)))
	for {
		n := min(len(s), blockMax)
		last := 0
		if n == len(s) {
			last = 1
		}
		dst = h.block(dst, s[:n], last)
		if s = s[n:]; last == 1 {
			return dst
		}
	}
}

type huffmanCoder struct{ scratch huff0.Scratch }

func newHuffmanCoder() *huffmanCoder {
	// A block that would shrink by less than a 64th is left as it is: it costs more time to read than it saves.
	return &huffmanCoder{huff0.Scratch{Reuse: huff0.ReusePolicyNone, WantLogLess: 6}}
}

func (h *huffmanCoder) block(dst, s []byte, last int) []byte {
	err := huff0.ErrIncompressible
	var out []byte
	if len(s) >= minHuffman {
		out, _, err = huff0.Compress4X(s, &h.scratch)
	}
	switch err { //nolint:errorlint // huff0 returns its sentinels bare
	case nil:
		// The literals section's header: type 2 bits, size format 2, both sizes of 18 bits.
		head := litSizes18 | uint64(len(s))<<4 | uint64(len(out))<<22
		dst = appendBlockHeader(dst, len(out)+6, blockCoded, last)
		dst = append(dst, byte(head), byte(head>>8), byte(head>>16), byte(head>>24), byte(head>>32))
		dst = append(dst, out...)
		return append(dst, emptySection)
	case huff0.ErrUseRLE:
		return append(appendBlockHeader(dst, len(s), blockRLE, last), s[0])
	default:
		return append(appendBlockHeader(dst, len(s), blockRaw, last), s...)
	}
}

func appendBlockHeader(dst []byte, size, kind, last int) []byte {
	v := last | kind<<1 | size<<3
	return append(dst, byte(v), byte(v>>8), byte(v>>16))
}
