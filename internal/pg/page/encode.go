package page

import "encoding/binary"

// The kind byte of a page: what it is in the low two bits, then flags.
const (
	kindZero  = 0
	kindRaw   = 1 // 8192 bytes in the body stream
	kindHoled = 2 // a header row; the rest but the free space in the body stream
	kindItems = 3

	kindWhat     = 3
	kindHole     = 1 << 2 // the free space is not zero, and kept in the body stream
	kindPadded   = 1 << 3 // items are kept up to the next multiple of 8
	kindUniform  = 1 << 4 // one length for all items whose line pointer is implied
	kindOdd      = 1 << 5 // a list of line pointers that are not implied
	kindExplicit = 1 << 6 // all line pointers are stored
	kindUnused   = 1 << 7
)

const maxSpecialRow = 32 // bytes of special space that are coded as a row; longer ones are body

var rowCols = [maxSpecialRow / 8]uint8{0, 1, 2, 3}

// model is what encoder and decoder carry from page to page of a group; the columns are the chunk's.
type model struct {
	columns             columns
	head, special, item predictor
	layout              layout

	// The hit masks of item rows are written in runs: run rows had mask mask (encoder), have it yet (decoder).
	mask uint32
	run  int
}

func (m *model) reset() {
	m.head, m.special, m.item = predictor{}, predictor{}, predictor{}
	m.mask, m.run = 0, 0
}

type encoder struct {
	model
	s      [streamCount][]byte
	sample sample
}

// choose decides what becomes of each column of src, whole pages, by a sample of them. It reports false where no page has
// items: then plain compression is as good.
func (e *encoder) choose(src []byte) bool {
	pages := len(src) / Size
	e.sample = sample{}
	useful := false
	for i := range samplePages {
		p := src[i*pages/samplePages*Size:][:Size]
		h := ReadHeader(p)
		if h.structured() && e.layout.read(p, h) {
			e.sample.page(p, &e.layout)
			useful = true
		}
		useful = useful || IsNew(p)
	}
	if useful {
		e.columns.set(e.sample.choose())
	}
	return useful
}

// encode splits src, whole pages of the chunk that was looked at last, into e.s.
func (e *encoder) encode(src []byte) {
	for id := range e.s {
		e.s[id] = e.s[id][:0]
	}
	e.reset()
	for ; len(src) >= Size; src = src[Size:] {
		e.page(src[:Size:Size])
	}
	e.endRun()
}

// structured reports whether the codec may trust the header's offsets.
func (h Header) structured() bool { return h.plausible() && h.Lower >= headerSize }

func (e *encoder) page(p []byte) {
	s := &e.s
	h := ReadHeader(p)
	if !h.structured() {
		if IsNew(p) {
			s[sKind] = append(s[sKind], kindZero)
			return
		}
		s[sKind] = append(s[sKind], kindRaw)
		s[sBody] = append(s[sBody], p...)
		return
	}
	s[sHead] = append(s[sHead], byte(e.head.encode(p, rowCols[:headerSize/8], s)))
	var kind byte
	if hole := p[h.Lower:h.Upper]; !zero(hole) {
		kind |= kindHole
		s[sBody] = append(s[sBody], hole...)
	}
	if !e.layout.read(p, h) {
		s[sKind] = append(s[sKind], kind|kindHoled)
		s[sBody] = append(s[sBody], p[headerSize:h.Lower]...)
		s[sBody] = append(s[sBody], p[h.Upper:]...)
		return
	}
	kind |= kindItems | e.layout.write(p, s)
	if e.layout.padded {
		kind |= kindPadded
	}
	s[sKind] = append(s[sKind], kind)
	e.items(p, kind)
	e.specialSpace(p[h.Special:])
}

func (e *encoder) items(p []byte, kind byte) {
	s, c := &e.s, &e.columns
	for _, it := range e.layout.items[:e.layout.n] {
		if it.len == 0 {
			continue
		}
		stored, full := int(it.len), align8(int(it.len))
		if kind&kindPadded != 0 {
			stored = full
		}
		b := p[it.off:][:full]
		var miss uint32
		if n := c.upTo[min(full/8, maxCols)]; c.whole {
			miss = e.item.encodeWhole(b, int(n), s)
		} else {
			miss = e.item.encode(b, c.cols[:n], s)
		}
		if miss != e.mask {
			e.endRun()
			e.mask = miss
		}
		if e.run++; c.whole && full <= len(c.cols)*8 {
			continue // nothing of it is left
		}
		for _, k := range c.noisy {
			if int(k)*8+8 > stored {
				break
			}
			s[sNoise] = binary.LittleEndian.AppendUint64(s[sNoise], binary.LittleEndian.Uint64(b[int(k)*8:]))
		}
		for _, r := range c.runs {
			if r.from >= stored {
				break
			}
			s[sBody] = append(s[sBody], b[r.from:min(r.to, stored)]...)
		}
		if from := c.cutNoise(stored); from < stored {
			s[sBody] = append(s[sBody], b[from:stored]...)
		}
	}
}

// endRun writes the run of equal masks that has come to its end.
func (e *encoder) endRun() {
	if e.run == 0 {
		return
	}
	e.s[sRun] = binary.AppendUvarint(e.s[sRun], uint64(e.run))
	for i := range e.columns.planes {
		e.s[sMask+i] = append(e.s[sMask+i], byte(e.mask>>(8*i)))
	}
	e.run = 0
}

// cutNoise returns where an item's last word begins if it is noise and shorter than a word (then it is body);
// otherwise stored.
func (c *columns) cutNoise(stored int) int {
	if k := stored / 8; stored%8 != 0 && k < maxCols && c.noise>>k&1 != 0 {
		return k * 8
	}
	return stored
}

func (e *encoder) specialSpace(b []byte) {
	if len(b) > maxSpecialRow {
		e.s[sBody] = append(e.s[sBody], b...)
	} else if len(b) > 0 {
		e.s[sHead] = append(e.s[sHead], byte(e.special.encode(b, rowCols[:len(b)/8], &e.s)))
	}
}
