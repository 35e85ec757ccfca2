package repo

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Layout of a pack (docs/format/repository-v1.md, section 4): header, frames of chunks, the directory's frame,
// and a trailer that says how long the directory is.
const (
	packTrailerMagic = "HFPE"
	packTrailerSize  = 8
	directoryEntry   = 32 + 4 + 4 + 4 + 4
	packFrame        = seal.HeaderSize + seal.Overhead + packTrailerSize // of a pack without chunks
	maxPack          = 1 << 30
	maxStored        = 2*MaxChunk + (1+64)*seal.Overhead // a chunk's frames; encoding may make it a little longer
)

// chunkPlace is where a chunk lies inside its pack.
type chunkPlace struct {
	id       seal.ChunkID
	offset   uint32 // of the sealed frames in the pack
	stored   uint32 // length of the sealed frames
	plain    uint32 // length of the chunk
	head     uint32 // of its first frame, before it was sealed, where others follow, each a group; 0: it is one frame
	encoding byte
}

// packBuilder collects sealed chunks in memory until they are a pack.
type packBuilder struct {
	group   ResidencyGroup
	id      PackID
	object  *seal.Object
	buf     []byte
	entries []chunkPlace
}

func (b *packBuilder) begin(keys *seal.Keyring, group ResidencyGroup, buf []byte) {
	b.group, b.id = group, newPackID()
	b.object = keys.NewObject(seal.KindPack, packName(group, b.id))
	b.buf = b.object.AppendHeader(buf[:0])
	b.entries = nil
}

// add seals a chunk that decodes to plainSize bytes with this ID, and appends it.
func (b *packBuilder) add(id seal.ChunkID, e *encodedChunk, plainSize int) {
	offset, encoded := len(b.buf), e.bytes
	b.buf = slices.Grow(b.buf, e.sealed()) // AES-GCM would grow it by no more than it needs, each time
	for _, n := range e.frames {
		b.buf = b.object.Seal(b.buf, encoded[:n], int64(len(b.buf)))
		encoded = encoded[n:]
	}
	place := chunkPlace{id: id, offset: uint32(offset), stored: uint32(len(b.buf) - offset), plain: uint32(plainSize), encoding: e.encoding}
	if len(e.frames) > 1 {
		place.head = uint32(e.frames[0])
	}
	b.entries = append(b.entries, place)
}

// sealed returns how many bytes a chunk will have.
func (e *encodedChunk) sealed() int { return len(e.bytes) + len(e.frames)*seal.Overhead }

// finish appends directory and trailer; buf is then the whole object.
func (b *packBuilder) finish() {
	dir := make([]byte, 0, len(b.entries)*directoryEntry)
	for _, e := range b.entries {
		dir = appendPlace(dir, e)
	}
	offset := len(b.buf)
	b.buf = b.object.Seal(b.buf, dir, int64(offset)+seal.Directory)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(len(b.buf)-offset))
	b.buf = append(b.buf, packTrailerMagic...)
}

func appendPlace(dst []byte, e chunkPlace) []byte {
	dst = append(dst, e.id[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, e.offset)
	dst = binary.LittleEndian.AppendUint32(dst, e.stored)
	dst = binary.LittleEndian.AppendUint32(dst, e.plain)
	return append(dst, e.encoding, byte(e.head), byte(e.head>>8), byte(e.head>>16))
}

func readPlace(b []byte) (e chunkPlace) {
	copy(e.id[:], b)
	e.offset = binary.LittleEndian.Uint32(b[32:])
	e.stored = binary.LittleEndian.Uint32(b[36:])
	e.plain = binary.LittleEndian.Uint32(b[40:])
	e.encoding = b[44]
	e.head = binary.LittleEndian.Uint32(b[44:]) >> 8
	return e
}

// parseDirectory reads the opened directory of a pack whose frames end at limit.
func parseDirectory(name string, dir []byte, limit int64) ([]chunkPlace, error) {
	if len(dir)%directoryEntry != 0 {
		return nil, &seal.DamagedError{Name: name, Offset: limit, Reason: "its directory has a broken length"}
	}
	places := make([]chunkPlace, 0, len(dir)/directoryEntry)
	for ; len(dir) > 0; dir = dir[directoryEntry:] {
		e := readPlace(dir)
		if err := e.check(limit); err != nil {
			return nil, &seal.DamagedError{Name: name, Offset: limit, Reason: err.Error()}
		}
		places = append(places, e)
	}
	return places, nil
}

func (e chunkPlace) check(limit int64) error {
	if e.offset < seal.HeaderSize || e.stored < seal.Overhead || e.stored > maxStored || e.head > 0 && e.head+2*seal.Overhead > e.stored || int64(e.offset)+int64(e.stored) > limit || e.plain > MaxChunk {
		return fmt.Errorf("chunk %s: place %d+%d is outside of the pack", e.id, e.offset, e.stored)
	}
	return nil
}
