package repo

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// A patched list (docs/format/repository-v1.md, section 6) is a list of chunks with single pages laid over them. The pages
// are gathered in units, which are chunks like others. What was patched lately stands in the list itself, what was before
// in a table of its own: so a snapshot writes what changed, and not what has changed ever since.

// PageSize is the size of the pages that patch a file.
const PageSize = 8192

const (
	chunkPages = Grid / PageSize      // of a whole chunk
	partPages  = ListLen * chunkPages // of a whole part
	unitPages  = 64                   // of a unit, at most

	listPlain   byte = 1 // first bytes of lists
	listPatched byte = 2

	patchedHead = 4 + 32 + 32 + ListLen/8
	unitHead    = 32 + 1 + 2
	patchSize   = 2 + 1
)

// PagePatch says where a page of a part lies: in a slot of a unit, which is a chunk of UnitPages pages.
type PagePatch struct {
	Page      uint16 // within the part
	Unit      seal.ChunkID
	UnitPages uint8 // 1 to 64
	Slot      uint8
}

// patchedList is what a patched list says itself.
type patchedList struct {
	chunks int
	base   seal.ChunkID // of a plain list; zeros: none
	older  seal.ChunkID // of a table; zeros: none
	mask   chunkMask    // chunks for which the older table does not count
	recent []PagePatch  // ascending by page
}

// chunkMask is a set of chunks of a part.
type chunkMask [ListLen / 8]byte

func (m *chunkMask) has(chunk int) bool { return m[chunk/8]&(1<<(chunk%8)) != 0 }
func (m *chunkMask) set(chunk int)      { m[chunk/8] |= 1 << (chunk % 8) }

func (l *patchedList) marshal() []byte {
	b := make([]byte, 0, patchedHead+2+len(l.recent)*(unitHead+patchSize))
	b = append(b, listPatched, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(l.chunks))
	b = append(b, l.base[:]...)
	b = append(b, l.older[:]...)
	b = append(b, l.mask[:]...)
	return appendTable(b, l.recent)
}

func parsePatched(b []byte) (*patchedList, error) {
	if len(b) < patchedHead || b[0] != listPatched || b[1] != 0 {
		return nil, errors.New("a patched list has an unknown form")
	}
	l := &patchedList{chunks: int(binary.LittleEndian.Uint16(b[2:]))}
	if l.chunks == 0 || l.chunks > ListLen {
		return nil, fmt.Errorf("a patched list has %d chunks", l.chunks)
	}
	copy(l.base[:], b[4:])
	copy(l.older[:], b[36:])
	copy(l.mask[:], b[68:])
	var err error
	l.recent, err = parseTable(b[patchedHead:])
	return l, err
}

// marshalOlder is the chunk that holds a table of its own.
func marshalOlder(patches []PagePatch) []byte {
	return appendTable([]byte{listPatched, 1}, patches)
}

func parseOlder(b []byte) ([]PagePatch, error) {
	if len(b) < 2 || b[0] != listPatched || b[1] != 1 {
		return nil, errors.New("a table of patches has an unknown form")
	}
	return parseTable(b[2:])
}

// appendTable appends a table: units ascending by ID, each with its pages, ascending too. So equal tables are one chunk.
func appendTable(b []byte, patches []PagePatch) []byte {
	byUnit := slices.Clone(patches)
	slices.SortFunc(byUnit, func(x, y PagePatch) int {
		return cmp.Or(bytes.Compare(x.Unit[:], y.Unit[:]), cmp.Compare(x.Page, y.Page))
	})
	at := len(b)
	b = append(b, 0, 0)
	units := 0
	for len(byUnit) > 0 {
		u := byUnit[0]
		n := 1
		for n < len(byUnit) && byUnit[n].Unit == u.Unit {
			n++
		}
		b = append(b, u.Unit[:]...)
		b = append(b, u.UnitPages)
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		for _, p := range byUnit[:n] {
			b = binary.LittleEndian.AppendUint16(b, p.Page)
			b = append(b, p.Slot)
		}
		byUnit = byUnit[n:]
		units++
	}
	binary.LittleEndian.PutUint16(b[at:], uint16(units))
	return b
}

// parseTable returns the patches of a table, ascending by page.
func parseTable(b []byte) ([]PagePatch, error) {
	broken := errors.New("a table of patches has a broken length")
	if len(b) < 2 {
		return nil, broken
	}
	units := int(binary.LittleEndian.Uint16(b))
	b = b[2:]
	// The length alone says how many entries there are, before anything is allocated for them.
	all := (len(b) - units*unitHead) / patchSize
	if len(b) != units*unitHead+all*patchSize || all < units || all > partPages {
		return nil, broken
	}
	out := make([]PagePatch, 0, all)
	var named [partPages / 64]uint64
	var before seal.ChunkID
	for i := range units {
		if len(b) < unitHead {
			return nil, broken
		}
		u := PagePatch{Unit: seal.ChunkID(b[:32]), UnitPages: b[32]}
		n := int(binary.LittleEndian.Uint16(b[33:]))
		if b = b[unitHead:]; n == 0 || len(b) < n*patchSize {
			return nil, broken
		}
		if i > 0 && bytes.Compare(before[:], u.Unit[:]) >= 0 {
			return nil, errors.New("the units of a table of patches do not ascend")
		}
		before = u.Unit
		for last := -1; n > 0; n, b = n-1, b[patchSize:] {
			u.Page, u.Slot = binary.LittleEndian.Uint16(b), b[2]
			if err := u.check(); err != nil {
				return nil, err
			}
			if int(u.Page) <= last {
				return nil, errors.New("the pages of a unit of patches do not ascend")
			}
			last = int(u.Page)
			bit := uint64(1) << (u.Page % 64)
			if named[u.Page/64]&bit != 0 {
				return nil, fmt.Errorf("page %d is patched twice", u.Page)
			}
			named[u.Page/64] |= bit
			out = append(out, u)
		}
	}
	if len(b) > 0 {
		return nil, broken
	}
	sortPatches(out)
	return out, nil
}

func (p PagePatch) check() error {
	if int(p.Page) >= partPages || p.UnitPages == 0 || p.UnitPages > unitPages || p.Slot >= p.UnitPages {
		return fmt.Errorf("page %d of a part cannot be in slot %d of a unit of %d pages", p.Page, p.Slot, p.UnitPages)
	}
	return nil
}

func sortPatches(patches []PagePatch) {
	slices.SortFunc(patches, func(x, y PagePatch) int { return cmp.Compare(x.Page, y.Page) })
}

// winners returns what counts of both tables, for a part that has pages pages: recent patches, and of the older ones those
// that no recent one replaces.
func (l *patchedList) winners(older []PagePatch, pages int) []PagePatch {
	out := make([]PagePatch, 0, len(older)+len(l.recent))
	recent := l.recent
	for _, o := range older {
		for len(recent) > 0 && recent[0].Page < o.Page {
			out, recent = append(out, recent[0]), recent[1:]
		}
		replaced := len(recent) > 0 && recent[0].Page == o.Page
		if !replaced && int(o.Page) < pages && !l.mask.has(int(o.Page)/chunkPages) {
			out = append(out, o)
		}
	}
	return append(out, recent...)
}

// unitsOf returns the units that patches lie in, each once.
func unitsOf(patches []PagePatch) []seal.ChunkID {
	seen := map[seal.ChunkID]bool{}
	var ids []seal.ChunkID
	for _, p := range patches {
		if !seen[p.Unit] {
			seen[p.Unit] = true
			ids = append(ids, p.Unit)
		}
	}
	return ids
}
