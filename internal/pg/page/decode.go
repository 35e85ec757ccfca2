package page

type decoder struct {
	model
	c cursors
}

// decode rebuilds dst, whole pages, from the streams in d.c; false means that they are not what an encoder
// writes. dst may hold anything before.
func (d *decoder) decode(dst []byte) bool {
	d.reset()
	for ; len(dst) >= Size; dst = dst[Size:] {
		if !d.page(dst[:Size:Size]) || d.c.bad {
			return false
		}
	}
	return d.run == 0 && d.c.exhausted()
}

func (d *decoder) page(p []byte) bool {
	c := &d.c
	kind := c.byte(sKind)
	switch kind & kindWhat {
	case kindZero:
		clear(p)
		return kind == kindZero
	case kindRaw:
		c.into(p, sBody)
		return kind == kindRaw
	}
	clear(p)
	d.head.decode(p, rowCols[:headerSize/8], uint32(c.byte(sHead)), c)
	h := ReadHeader(p)
	if c.bad || !h.structured() || kind&kindUnused != 0 {
		return false
	}
	if kind&kindHole != 0 {
		c.into(p[h.Lower:h.Upper], sBody)
	}
	if kind&kindWhat == kindHoled {
		c.into(p[headerSize:h.Lower], sBody)
		c.into(p[h.Upper:], sBody)
		return kind&^(kindWhat|kindHole) == 0
	}
	if !d.layout.rebuild(p, h, kind, c) {
		return false
	}
	d.items(p, kind)
	d.specialSpace(p[h.Special:])
	return true
}

func (d *decoder) items(p []byte, kind byte) {
	c, cols := &d.c, &d.columns
	for _, it := range d.layout.items[:d.layout.n] {
		if it.len == 0 {
			continue
		}
		stored, full := int(it.len), align8(int(it.len))
		if kind&kindPadded != 0 {
			stored = full
		}
		b := p[it.off:][:full]
		if d.run == 0 {
			d.nextRun()
		}
		d.run--
		n := cols.upTo[min(full/8, maxCols)]
		if d.mask == 0 && cols.whole {
			d.item.decodeHits(b, int(n))
			if full <= len(cols.cols)*8 {
				continue
			}
		} else {
			d.item.decode(b, cols.cols[:n], d.mask, c)
		}
		for _, k := range cols.noisy {
			if int(k)*8+8 > stored {
				break
			}
			c.into(b[int(k)*8:int(k)*8+8], sNoise)
		}
		for _, r := range cols.runs {
			if r.from >= stored {
				break
			}
			c.into(b[r.from:min(r.to, stored)], sBody)
		}
		if from := cols.cutNoise(stored); from < stored {
			c.into(b[from:stored], sBody)
		}
		if c.bad {
			return
		}
	}
}

// nextRun reads how many rows have the same hit mask, and the mask.
func (d *decoder) nextRun() {
	if d.run = d.c.uvarint(sRun); d.run == 0 {
		d.c.bad = true
	}
	d.mask = 0
	for i := range d.columns.planes {
		d.mask |= uint32(d.c.byte(sMask+i)) << (8 * i)
	}
}

func (d *decoder) specialSpace(b []byte) {
	if len(b) > maxSpecialRow {
		d.c.into(b, sBody)
	} else if len(b) > 0 {
		d.special.decode(b, rowCols[:len(b)/8], uint32(d.c.byte(sHead)), &d.c)
	}
}
