package repo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// EntryType says what a path of a tree is.
type EntryType byte

// The types of entries.
const (
	TypeDir     EntryType = 1
	TypeFile    EntryType = 2
	TypeSymlink EntryType = 3
)

// Grid is the fixed chunk size of files: 64 pages of PostgreSQL. ListLen chunks make one list: 128 MiB of a
// file, which is also the largest piece that one goroutine reads or writes alone.
const (
	Grid    = 512 << 10
	ListLen = 256
)

// Entry is what a tree says of a path. Content is cut at multiples of Grid; the last chunk may be shorter.
type Entry struct {
	Type    EntryType
	Mode    uint32 // permission bits
	ModTime time.Time
	Size    int64
	Link    string         // target of a symlink
	Chunks  []seal.ChunkID // a small file's chunks, at most ListLen of them
	Lists   []seal.ChunkID // or chunks that hold lists of ListLen IDs each, plain or patched
}

// Content kinds in an entry's bytes. A reader refuses others: new ones come with a new kind.
const (
	contentChunks byte = 0
	contentLists  byte = 1
)

// inlineChunks is the number of chunks up to which an entry holds the IDs itself.
const inlineChunks = 4

// newFile returns the IDs for the entry of a file whose chunks are saved already, given as one list of IDs for every
// ListLen chunks, in order (see SaveList).
func newFile(lists []FileList) (chunks, refs []seal.ChunkID) {
	if len(lists) == 1 && lists[0].Chunks != nil {
		return lists[0].Chunks, nil
	}
	for _, l := range lists {
		refs = append(refs, l.List)
	}
	return nil, refs
}

func (e *Entry) marshal() []byte {
	ids, kind := e.Chunks, contentChunks
	if len(e.Lists) > 0 {
		ids, kind = e.Lists, contentLists
	}
	b := make([]byte, 0, 40+32*len(ids)+len(e.Link))
	b = append(b, 1, byte(e.Type), kind, 0)
	b = binary.LittleEndian.AppendUint32(b, e.Mode)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.ModTime.UnixNano()))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Size))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(ids)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Link)))
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return append(b, e.Link...)
}

const entryHead = 4 + 4 + 8 + 8 + 4 + 4

func parseEntry(b []byte) (*Entry, error) {
	if len(b) < entryHead {
		return nil, errors.New("an entry is shorter than its head")
	}
	if b[0] != 1 || b[3] != 0 {
		return nil, fmt.Errorf("an entry has the unknown version %d", b[0])
	}
	e := &Entry{
		Type: EntryType(b[1]), Mode: binary.LittleEndian.Uint32(b[4:]),
		ModTime: time.Unix(0, int64(binary.LittleEndian.Uint64(b[8:]))), Size: int64(binary.LittleEndian.Uint64(b[16:])),
	}
	n, link := uint64(binary.LittleEndian.Uint32(b[24:])), uint64(binary.LittleEndian.Uint32(b[28:]))
	if uint64(len(b)) != entryHead+32*n+link {
		return nil, errors.New("an entry's length does not fit its counts")
	}
	ids := make([]seal.ChunkID, n)
	for i := range ids {
		copy(ids[i][:], b[entryHead+32*i:])
	}
	e.Link = string(b[entryHead+32*n:])
	chunks := (e.Size + Grid - 1) / Grid
	want := chunks
	switch b[2] {
	case contentChunks:
		e.Chunks = ids
	case contentLists:
		e.Lists = ids
		want = (chunks + ListLen - 1) / ListLen
	default:
		return nil, fmt.Errorf("an entry has content of the unknown kind %d", b[2])
	}
	if e.Type < TypeDir || e.Type > TypeSymlink {
		return nil, fmt.Errorf("an entry has the unknown type %d", e.Type)
	}
	if e.Size < 0 || (e.Type == TypeFile && want != int64(n)) || (e.Type != TypeFile && n != 0) {
		return nil, fmt.Errorf("a file of %d bytes has %d parts", e.Size, n)
	}
	return e, nil
}

// sizeOfEntry returns how large the file of an entry is, 0 for what is no file.
func sizeOfEntry(value []byte) (int64, error) {
	e, err := parseEntry(value)
	if err != nil || e.Type != TypeFile {
		return 0, err
	}
	return e.Size, nil
}

// FileList is the content of a part of a file: the chunk that holds its list, or, where the file may be small, the IDs of
// its chunks, or both.
type FileList struct {
	Chunks []seal.ChunkID // of a plain list
	List   seal.ChunkID
}

// saveList stores the IDs of up to ListLen consecutive chunks of a file of size bytes through save.
func (w *Writer) saveList(ids []seal.ChunkID, size int64, save func([]byte) (seal.ChunkID, error)) (FileList, error) {
	if size <= inlineChunks*Grid {
		return FileList{Chunks: ids}, nil
	}
	id, err := save(marshalList(ids))
	return FileList{List: id}, err
}

func marshalList(ids []seal.ChunkID) []byte {
	b := make([]byte, 0, 4+32*len(ids))
	b = append(b, 1, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(ids)))
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

func parseList(b []byte) ([]seal.ChunkID, error) {
	if len(b) < 4 || b[0] != 1 || b[1] != 0 {
		return nil, errors.New("a list of chunks has an unknown form")
	}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	if n > ListLen || len(b) != 4+32*n {
		return nil, errors.New("a list of chunks has a broken length")
	}
	ids := make([]seal.ChunkID, n)
	for i := range ids {
		copy(ids[i][:], b[4+32*i:])
	}
	return ids, nil
}
