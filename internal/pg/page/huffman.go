package page

import (
	"errors"

	"github.com/klauspost/compress/huff0"
)

// Each stream of a chunk, and each part of a stream's matches, has one Huffman table for all groups: these are alike, and a
// table of its own would cost a group more bytes than it wins. A table is written, and what it codes, as zstd does it
// (RFC 8878, sections 4.2.1 and 4.2.2).

const (
	tableCount  = streamCount * partCount
	fourStreams = 1024               // from this length on bytes are coded as four streams, which are decoded side by side
	maxCoded    = huff0.BlockSizeMax // bytes that are coded at once
	worthLog    = 6                  // what would shrink by less than a 64th is left as it is: it costs more time to read than it saves
)

// tableOf numbers the tables.
func tableOf(stream, part int) int { return stream*partCount + part }

// histogram says how often each byte is there.
type histogram [256]uint32

// add counts the bytes of s.
func (h *histogram) add(s []byte) {
	if len(s) < 1024 {
		for _, b := range s {
			h[b]++
		}
		return
	}
	var other [3]histogram // one after the other waits for itself where a byte repeats
	for ; len(s) >= 4; s = s[4:] {
		h[s[0]]++
		other[0][s[1]]++
		other[1][s[2]]++
		other[2][s[3]]++
	}
	for _, b := range s {
		h[b]++
	}
	for i := range h {
		h[i] += other[0][i] + other[1][i] + other[2][i]
	}
}

func (h *histogram) total() (n int) {
	for _, c := range h {
		n += int(c)
	}
	return n
}

// tableWriter is a table of the chunk that is being encoded.
type tableWriter struct {
	count histogram
	huff  huff0.Scratch
	used  bool
}

// choose makes the table and appends it to dst, if it is worth its bytes.
func (t *tableWriter) choose(dst []byte) []byte {
	t.used = false
	total := t.count.total()
	if total < minCoded {
		return dst
	}
	t.huff.Reuse, t.huff.WantLogLess = huff0.ReusePolicyMust, worthLog
	if t.huff.BuildCTable((*[256]uint32)(&t.count)) != nil {
		return dst // it has one byte only
	}
	out, err := t.huff.AppendTable(dst)
	if err != nil || len(out)-len(dst)+t.huff.EstimateSize((*[256]uint32)(&t.count)) >= total-total>>worthLog {
		return dst
	}
	t.used = true
	return out
}

// code returns s as the table codes it, valid until the next call with this scratch; false where that is hardly shorter.
func (t *tableWriter) code(s []byte, scratch *[]byte) ([]byte, bool) {
	if !t.used {
		return nil, false
	}
	compress := huff0.Compress1X
	if len(s) >= fourStreams {
		compress = huff0.Compress4X
	}
	t.huff.Out = *scratch
	out, _, err := compress(s, &t.huff)
	*scratch, t.huff.Out = t.huff.Out, nil
	return out, err == nil
}

// tableReader is a table of the chunk that is being decoded. It is read when it is needed first.
type tableReader struct {
	stored  []byte
	huff    huff0.Scratch
	decoder *huff0.Decoder
}

var errNoTable = errors.New("there is no table for it")

// decode fills dst, all of it up to its capacity, with what s codes.
func (t *tableReader) decode(dst, s []byte) ([]byte, error) {
	if t.decoder == nil {
		if t.stored == nil {
			return nil, errNoTable
		}
		if _, rest, err := huff0.ReadTable(t.stored, &t.huff); err != nil || len(rest) != 0 {
			return nil, errors.Join(err, errNoTable)
		}
		t.decoder = t.huff.Decoder()
	}
	if cap(dst) >= fourStreams {
		return t.decoder.Decompress4X(dst, s)
	}
	return t.decoder.Decompress1X(dst, s)
}

// tableLength returns how many bytes a table has that b begins with: its first byte says it (RFC 8878, section 4.2.1.1).
func tableLength(b []byte) int {
	switch {
	case len(b) == 0:
		return 1
	case b[0] < 128:
		return 1 + int(b[0])
	}
	return 1 + (int(b[0])-127+1)/2
}
