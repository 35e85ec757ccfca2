package page

// The streams of an encoded chunk, in the order in which the frame holds them. Each holds one kind of thing, so
// that an entropy coder sees one distribution at a time. docs/format/page-codec.md describes them.
const (
	sKind  = iota // one byte a page: what follows for it
	sHead         // hit masks of the header and special rows
	sLenLo        // lengths of items, low bytes
	sLenHi        // and high bytes
	sPtr          // line pointers that are not implied
	sRun          // how many item rows running have one hit mask
	sMask         // these masks: plane 0; planes 1 to 3 follow
	sMask1        //
	sMask2        //
	sMask3        //
	sWidth        // for each missed word, which of its bytes follow
	sBytes        // these bytes
	sNoise        // columns that no compressor helps
	sBody         // everything else, as it stands in the page
	streamCount
)

// cursors reads the streams of a chunk. A read past an end sets bad and gives zeros, so that the decoder checks
// once per page; nothing is ever read outside the streams.
type cursors struct {
	s   [streamCount][]byte
	pos [streamCount]int
	bad bool
}

func (c *cursors) byte(id int) byte {
	i := c.pos[id]
	if i >= len(c.s[id]) {
		c.bad = true
		return 0
	}
	c.pos[id] = i + 1
	return c.s[id][i]
}

// uvarint reads a number of at most 21 bits.
func (c *cursors) uvarint(id int) int {
	v := 0
	for shift := 0; shift < 21; shift += 7 {
		b := c.byte(id)
		v |= int(b&0x7F) << shift
		if b < 0x80 {
			return v
		}
	}
	c.bad = true
	return 0
}

func (c *cursors) uint16(id int) int { return int(c.byte(id)) | int(c.byte(id))<<8 }

// take returns the next n bytes of a stream, which stay the stream's; nil where fewer are left.
func (c *cursors) take(id, n int) []byte {
	i := c.pos[id]
	if n < 0 || n > len(c.s[id])-i {
		c.bad = true
		return nil
	}
	c.pos[id] = i + n
	return c.s[id][i : i+n : i+n]
}

// into fills dst from a stream.
func (c *cursors) into(dst []byte, id int) { copy(dst, c.take(id, len(dst))) }

// exhausted reports whether all streams were read to their ends.
func (c *cursors) exhausted() bool {
	for id := range c.s {
		if c.pos[id] != len(c.s[id]) {
			return false
		}
	}
	return !c.bad
}
