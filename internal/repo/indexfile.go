package repo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// packRef is what the index says of a pack: enough to open its frames without reading its header first.
type packRef struct {
	group  ResidencyGroup
	id     PackID
	header seal.Header
	size   uint32
	source string // the index object that it was read from, or written to
}

func (p packRef) name() string { return packName(p.group, p.id) }

// location is where a chunk lies.
type location struct {
	pack *packRef
	chunkPlace
}

// indexEntry is a chunk's place and its pack's number in the index object's table of packs.
type indexEntry struct {
	chunkPlace
	pack uint32
}

// indexData is the content of one index object (docs/format/repository-v1.md, section 5): packs, and the chunks
// in them sorted by ID. With complete packs only: an index object lists a pack's chunks whole.
type indexData struct {
	packs   []*packRef
	entries []indexEntry
}

const (
	packRefSize    = 32 + 16 + 4 + 32 + 4
	indexEntrySize = directoryEntry + 4
	maxIndexObject = 64 << 20
)

func (d *indexData) add(p *packRef, places []chunkPlace) {
	n := uint32(len(d.packs))
	d.packs = append(d.packs, p)
	for _, e := range places {
		d.entries = append(d.entries, indexEntry{e, n})
	}
}

// only returns the part of d that lies in packs which keep wants. It shares nothing that changes.
func (d *indexData) only(keep func(*packRef) bool) *indexData {
	out := &indexData{}
	numbers := make([]int64, len(d.packs)) // in out, plus one
	for i, p := range d.packs {
		if keep(p) {
			out.packs = append(out.packs, p)
			numbers[i] = int64(len(out.packs))
		}
	}
	for _, e := range d.entries {
		if n := numbers[e.pack]; n > 0 {
			out.entries = append(out.entries, indexEntry{e.chunkPlace, uint32(n - 1)})
		}
	}
	return out
}

func (d *indexData) sort() {
	sort.Slice(d.entries, func(i, j int) bool { return lessID(d.entries[i].id, d.entries[j].id) })
}

func lessID(a, b seal.ChunkID) bool { return string(a[:]) < string(b[:]) }

func (d *indexData) marshal() []byte {
	b := make([]byte, 0, 12+len(d.packs)*packRefSize+len(d.entries)*indexEntrySize)
	b = binary.LittleEndian.AppendUint32(b, 1) // version of this structure
	b = binary.LittleEndian.AppendUint32(b, uint32(len(d.packs)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(d.entries)))
	for _, p := range d.packs {
		b = appendPackRef(b, p)
	}
	for _, e := range d.entries {
		b = appendPlace(b, e.chunkPlace)
		b = binary.LittleEndian.AppendUint32(b, e.pack)
	}
	return b
}

func appendPackRef(b []byte, p *packRef) []byte {
	var group [32]byte
	copy(group[:], p.group)
	b = append(b, group[:]...)
	b = append(b, p.id[:]...)
	b = binary.LittleEndian.AppendUint32(b, p.header.Epoch)
	b = append(b, p.header.Salt[:]...)
	return binary.LittleEndian.AppendUint32(b, p.size)
}

func parsePackRef(b []byte) (*packRef, error) {
	n := 0
	for n < 32 && b[n] != 0 {
		n++
	}
	p := &packRef{group: ResidencyGroup(b[:n]), header: seal.Header{Kind: seal.KindPack}}
	copy(p.id[:], b[32:])
	p.header.Epoch = binary.LittleEndian.Uint32(b[48:])
	copy(p.header.Salt[:], b[52:])
	p.size = binary.LittleEndian.Uint32(b[84:])
	if p.size > maxPack {
		return nil, fmt.Errorf("pack %s has %d bytes, more than %d", p.id, p.size, maxPack)
	}
	return p, p.group.Check()
}

// parseIndex reads an opened index object. The bytes are authentic but may come from a faulty writer, so that
// every number is checked before it is used.
func parseIndex(source string, b []byte) (*indexData, error) {
	if len(b) < 12 {
		return nil, errors.New("it is shorter than its head")
	}
	if v := binary.LittleEndian.Uint32(b); v != 1 {
		return nil, fmt.Errorf("its version %d is unknown to this holdfast", v)
	}
	nPacks, nEntries := uint64(binary.LittleEndian.Uint32(b[4:])), uint64(binary.LittleEndian.Uint32(b[8:]))
	b = b[12:]
	if uint64(len(b)) != nPacks*packRefSize+nEntries*indexEntrySize {
		return nil, errors.New("its length does not fit its counts")
	}
	d := &indexData{packs: make([]*packRef, 0, nPacks), entries: make([]indexEntry, 0, nEntries)}
	for ; nPacks > 0; nPacks, b = nPacks-1, b[packRefSize:] {
		p, err := parsePackRef(b)
		if err != nil {
			return nil, err
		}
		p.source = source
		d.packs = append(d.packs, p)
	}
	for ; nEntries > 0; nEntries, b = nEntries-1, b[indexEntrySize:] {
		e := indexEntry{readPlace(b), binary.LittleEndian.Uint32(b[directoryEntry:])}
		if uint64(e.pack) >= uint64(len(d.packs)) {
			return nil, errors.New("an entry names a pack that is not in the table")
		}
		if err := e.check(int64(d.packs[e.pack].size)); err != nil {
			return nil, err
		}
		if n := len(d.entries); n > 0 && lessID(e.id, d.entries[n-1].id) {
			return nil, errors.New("its entries are not sorted")
		}
		d.entries = append(d.entries, e)
	}
	return d, nil
}
