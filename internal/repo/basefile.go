package repo

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// baseFile is the sorted part of the index on the local disk. It is a cache: written whole under a temporary
// name and renamed, thrown away where it does not fit, and in a form that may change with any version.
//
//	head length u32, head (gob: version, index objects, packs), entries of indexEntrySize sorted by ID
type baseFile struct {
	f       cacheFile
	packs   []*packRef
	entries int64
	start   int64 // of the entries in the file
}

// cacheFile is what of a file is used.
type cacheFile interface {
	io.ReaderAt
	io.Closer
}

const (
	baseName    = "index.v1"
	searchStep  = 64 // entries that are read at once
	baseVersion = 2
)

type baseHead struct {
	Version int
	Names   []string
	Packs   []byte   // packRefs as in an index object
	Sources []string // of the packs
	Entries int64
}

func (b *baseFile) close() error {
	if b == nil {
		return nil
	}
	return b.f.Close()
}

func (b *baseFile) find(id seal.ChunkID) (location, bool, error) {
	_, entry, err := b.search(id)
	if err != nil || entry == nil {
		return location{}, false, err
	}
	l, err := b.location(entry)
	return l, err == nil, err
}

// rank returns the chunk's place in the sorted file.
func (b *baseFile) rank(id seal.ChunkID) (int64, bool, error) {
	n, entry, err := b.search(id)
	return n, entry != nil, err
}

// refs returns the packs that the file names.
func (b *baseFile) refs() []*packRef {
	if b == nil {
		return nil
	}
	return b.packs
}

// count returns the number of entries.
func (b *baseFile) count() int64 {
	if b == nil {
		return 0
	}
	return b.entries
}

// search returns the chunk's place in the file and its entry, or nil.
func (b *baseFile) search(id seal.ChunkID) (int64, []byte, error) {
	if b == nil || b.entries == 0 {
		return 0, nil, nil
	}
	key := binary.BigEndian.Uint64(id[:])
	// The entry, if it is there, is one from number lo to before hi, whose keys are within low and high.
	lo, hi, low, high := int64(0), b.entries, uint64(0), uint64(math.MaxUint64)
	for try := 0; lo < hi; try++ {
		from := lo + (hi-lo)/2
		if try < guesses {
			from = lo + interpolate(key-low, high-low, hi-lo)
		}
		from = max(from-searchStep/2, lo)
		buf, err := b.read(from, min(searchStep, hi-from))
		if err != nil {
			return 0, nil, fmt.Errorf("read the index cache: %w", err)
		}
		n := len(buf) / indexEntrySize
		at := func(i int) []byte { return buf[i*indexEntrySize:][:indexEntrySize] }
		switch {
		case bytes.Compare(id[:], at(0)[:32]) < 0:
			hi, high = from, binary.BigEndian.Uint64(at(0))
		case bytes.Compare(id[:], at(n - 1)[:32]) > 0:
			lo, low = from+int64(n), binary.BigEndian.Uint64(at(n-1))
		default:
			i := sort.Search(n, func(i int) bool { return bytes.Compare(at(i)[:32], id[:]) >= 0 })
			if !bytes.Equal(at(i)[:32], id[:]) {
				return 0, nil, nil
			}
			return from + int64(i), at(i), nil
		}
	}
	return 0, nil, nil
}

// guesses is how often a place is guessed before the rest is halved. IDs are hashes, and so spread evenly: the first guess
// among ten million entries is off by a thousand or two, the second by a few. It takes as many readings as there are bits
// in the number of entries where they are not.
const guesses = 4

// interpolate returns the place among n that belongs to a key which is above of span above the lowest.
func interpolate(above, span uint64, n int64) int64 {
	q, low := bits.Mul64(above, uint64(n))
	if span < math.MaxUint64 {
		q, _ = bits.Div64(q, low, span+1)
	}
	return int64(q)
}

// each calls fn for every entry in order.
func (b *baseFile) each(fn func(n int64, l location) error) error {
	if b == nil {
		return nil
	}
	r := bufio.NewReaderSize(io.NewSectionReader(b.f, b.start, b.entries*indexEntrySize), 1<<20)
	entry := make([]byte, indexEntrySize)
	for n := range b.entries {
		if _, err := io.ReadFull(r, entry); err != nil {
			return fmt.Errorf("read the index cache: %w", err)
		}
		l, err := b.location(entry)
		if err != nil {
			return err
		}
		if err := fn(n, l); err != nil {
			return err
		}
	}
	return nil
}

// read returns n entries.
func (b *baseFile) read(from, n int64) ([]byte, error) {
	buf := make([]byte, n*indexEntrySize)
	_, err := b.f.ReadAt(buf, b.start+from*indexEntrySize)
	return buf, err
}

func (b *baseFile) location(entry []byte) (location, error) {
	n := binary.LittleEndian.Uint32(entry[directoryEntry:])
	if uint64(n) >= uint64(len(b.packs)) {
		return location{}, errors.New("the index cache names a pack that it does not hold")
	}
	l := location{b.packs[n], readPlace(entry)}
	if err := l.check(int64(l.pack.size)); err != nil {
		return location{}, fmt.Errorf("the index cache: %w", err)
	}
	return l, nil
}

// openBase opens the file in dir and returns the names of the index objects that it holds.
func openBase(dir string) (_ *baseFile, names map[string]bool, err error) {
	f, err := os.Open(filepath.Join(dir, baseName))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	var size [4]byte
	if _, err := io.ReadFull(f, size[:]); err != nil {
		return nil, nil, err
	}
	n := int64(binary.LittleEndian.Uint32(size[:]))
	var head baseHead
	if err := gob.NewDecoder(io.LimitReader(f, n)).Decode(&head); err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	b := &baseFile{f: f, entries: head.Entries, start: 4 + n}
	if head.Version != baseVersion || info.Size() != b.start+b.entries*indexEntrySize || len(head.Packs) != len(head.Sources)*packRefSize {
		return nil, nil, errors.New("the index cache has another form")
	}
	for p := head.Packs; len(p) > 0; p = p[packRefSize:] {
		ref, err := parsePackRef(p)
		if err != nil {
			return nil, nil, err
		}
		ref.source = head.Sources[len(b.packs)]
		b.packs = append(b.packs, ref)
	}
	names = map[string]bool{}
	for _, n := range head.Names {
		names[n] = true
	}
	return b, names, nil
}

// mergeBase writes a base file of old's and recent's entries into dir, and opens it. Recent wins.
func mergeBase(dir string, old *baseFile, recent map[seal.ChunkID]location, names map[string]bool) (*baseFile, error) {
	ids := make([]seal.ChunkID, 0, len(recent))
	for id := range recent {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b seal.ChunkID) int { return bytes.Compare(a[:], b[:]) })

	var packs []*packRef
	numbers := map[*packRef]uint32{}
	if old != nil {
		packs = slices.Clone(old.packs)
	}
	for _, id := range ids {
		if p := recent[id].pack; numbers[p] == 0 {
			packs = append(packs, p)
			numbers[p] = uint32(len(packs)) // one more than the number, so that 0 means unknown
		}
	}
	f, err := os.CreateTemp(dir, "index-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // after the rename there is nothing to remove
	m := merger{w: bufio.NewWriterSize(f, 1<<20), recent: recent, numbers: numbers}
	head := baseHead{Version: baseVersion, Entries: -1}
	for n := range names {
		head.Names = append(head.Names, n)
	}
	for _, p := range packs {
		head.Packs, head.Sources = appendPackRef(head.Packs, p), append(head.Sources, p.source)
	}
	if err := m.count(old, ids); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	head.Entries = m.entries
	err = m.write(head, old, ids)
	if err = errors.Join(err, m.w.Flush(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, baseName)); err != nil {
		return nil, err
	}
	b, _, err := openBase(dir)
	return b, err
}

// merger merges old entries and recent ones, both sorted.
type merger struct {
	w       *bufio.Writer
	recent  map[seal.ChunkID]location
	numbers map[*packRef]uint32
	entries int64
}

// count walks the merge once without writing: the head comes first and says how many entries follow.
func (m *merger) count(old *baseFile, ids []seal.ChunkID) error {
	return m.walk(old, ids, func([]byte) error { m.entries++; return nil })
}

func (m *merger) write(head baseHead, old *baseFile, ids []seal.ChunkID) error {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(head); err != nil {
		return err
	}
	var size [4]byte
	binary.LittleEndian.PutUint32(size[:], uint32(b.Len()))
	if _, err := m.w.Write(append(size[:], b.Bytes()...)); err != nil {
		return err
	}
	return m.walk(old, ids, func(entry []byte) error {
		_, err := m.w.Write(entry)
		return err
	})
}

func (m *merger) walk(old *baseFile, ids []seal.ChunkID, emit func([]byte) error) error {
	var scratch []byte
	next := func() error {
		l := m.recent[ids[0]]
		scratch = appendPlace(scratch[:0], l.chunkPlace)
		scratch = binary.LittleEndian.AppendUint32(scratch, m.numbers[l.pack]-1)
		ids = ids[1:]
		return emit(scratch)
	}
	if old != nil {
		r := bufio.NewReaderSize(io.NewSectionReader(old.f, old.start, old.entries*indexEntrySize), 1<<20)
		entry := make([]byte, indexEntrySize)
		for range old.entries {
			if _, err := io.ReadFull(r, entry); err != nil {
				return err
			}
			for len(ids) > 0 && bytes.Compare(ids[0][:], entry[:32]) < 0 {
				if err := next(); err != nil {
					return err
				}
			}
			if len(ids) > 0 && bytes.Equal(ids[0][:], entry[:32]) {
				continue // recent wins; it is written when its turn comes
			}
			if err := emit(entry); err != nil {
				return err
			}
		}
	}
	for len(ids) > 0 {
		if err := next(); err != nil {
			return err
		}
	}
	return nil
}
