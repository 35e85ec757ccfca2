package repo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"lukechampine.com/blake3/guts"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// liar decodes groups to other bytes: always, or only where not all of a chunk is wanted.
type liar struct {
	sparse
	always bool
}

func (l liar) Decode(dst, src []byte, size int, want uint64) ([]byte, error) {
	from := len(dst)
	out, err := l.sparse.Decode(dst, src, size, want)
	if err == nil && (l.always || want != everyGroup) {
		for at := from; at < len(out); at += PageSize {
			out[at] ^= 1
		}
	}
	return out, err
}

// A group whose bytes are not the chunk's is never handed over: its value does not lead to the chunk's ID. Then the whole
// chunk is taken, and that has to have the ID itself.
func TestGroupsProveThemselves(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	p := &patcher{t: t, rnd: rand.New(rand.NewPCG(5, 6)), codec: sparse{new(atomic.Int64)}}
	want := p.content(chunkPages)
	m := p.snapshot(r, nil, nil, want)
	for _, always := range []bool{false, true} {
		r := reopen(t, st)
		r.codecs[p.codec.ID()] = liar{sparse{new(atomic.Int64)}, always}
		rd := r.Reader()
		e := must(rd.Lookup(t.Context(), must(m.RootID()), "rel"))
		part := must(rd.FilePart(t.Context(), e, 0))
		pages := []uint16{3, 30}
		var got []byte
		err := rd.Pages(t.Context(), part, pages, func(_ uint16, plain []byte) error {
			got = append(got, plain...)
			return nil
		})
		var damaged *ChunkError
		switch {
		case always && (!errors.As(err, &damaged) || got != nil):
			t.Errorf("pages of another chunk: %d bytes, %v", len(got), err)
		case !always && (err != nil || !bytes.Equal(got, slices.Concat(want[3*PageSize:4*PageSize], want[30*PageSize:31*PageSize]))):
			t.Errorf("pages of a chunk whose groups cannot be had: %d bytes, %v", len(got), err)
		}
	}
}

// A chunk's length is not proven by some of its groups: the value of an inner node can take the place of that of a group, and
// leads to the same ID. Who holds a recipient's key could so have pages of a signed snapshot read as zeros.
func TestAShorterChunkWithTheSameTreeIsRefused(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	p := &patcher{t: t, rnd: rand.New(rand.NewPCG(7, 8)), codec: sparse{new(atomic.Int64)}}
	genuine := p.content(chunkPages)
	id, told := r.keys.ChunkTree(nil, string(DefaultGroup), genuine)
	s := strangerTo(t, st)
	s.unlock(passphrase)
	inner := parentOf(s.derive(s.secrets[0], "holdfast/v1/chunk-id/"+string(DefaultGroup)), told[4*seal.ValueSize:])
	size := 4*seal.GroupSize + PageSize
	var forged encodedChunk
	if err := newEncoder().encode(&forged, genuine[:size], p.codec, slices.Concat(told[:4*seal.ValueSize], inner)); err != nil {
		t.Fatal(err)
	}

	w := must(r.Begin(t.Context(), "orders-db", DefaultGroup))
	defer w.Close(t.Context()) //nolint:errcheck // nothing depends on it
	lane := w.Lane()
	if mine, err := w.claim(id, size); !mine || err != nil {
		t.Fatal(mine, err)
	}
	if err := lane.append(t.Context(), id, &forged, size); err != nil {
		t.Fatal(err)
	}
	unit := p.content(1)
	patch := PagePatch{Page: 33, Unit: must(lane.Save(t.Context(), unit, nil)), UnitPages: 1}
	base := &FilePart{length: int64(len(genuine)), chunks: []seal.ChunkID{id}}
	list := must(w.PatchPart(t.Context(), base, nil, []PagePatch{patch}, base.length))
	file, m := &Entry{Type: TypeFile, Mode: 0o600}, &Manifest{}
	file.SetContent(base.length, []FileList{list})
	if err := errors.Join(w.EditTree(t.Context(), nil, []TreeEdit{{Path: "rel", Entry: file}}, m), w.Commit(t.Context(), m)); err != nil {
		t.Fatal(err)
	}

	rd := reopen(t, st).Reader()
	e := must(rd.Lookup(t.Context(), must(m.RootID()), "rel"))
	part := must(rd.FilePart(t.Context(), e, 0))
	var damaged *ChunkError
	for _, pages := range [][]uint16{{9}, {47}, {9, 47}} {
		err := rd.Pages(t.Context(), part, pages, func(n uint16, plain []byte) error {
			if !bytes.Equal(plain, genuine[int(n)*PageSize:][:PageSize]) {
				t.Errorf("of %v, page %d is another one", pages, n)
			}
			return nil
		})
		if err != nil && !errors.As(err, &damaged) || err == nil && pages[len(pages)-1] == 47 {
			t.Errorf("pages %v: %v", pages, err)
		}
	}
	err := rd.Part(t.Context(), part, []int{0}, func(int, []byte) error {
		t.Error("the chunk was handed over")
		return nil
	}, nil)
	if !errors.As(err, &damaged) {
		t.Errorf("the whole chunk: %v", err)
	}
}

// parentOf returns the value above four values.
func parentOf(key, values []byte) (out []byte) {
	words := func(b []byte) (w [8]uint32) {
		for i := range w {
			w[i] = binary.LittleEndian.Uint32(b[4*i:])
		}
		return w
	}
	k := words(key)
	node := func(a, b [8]uint32) [8]uint32 {
		return guts.ChainingValue(guts.ParentNode(a, b, &k, guts.FlagKeyedHash))
	}
	for _, w := range node(node(words(values), words(values[32:])), node(words(values[64:]), words(values[96:]))) {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}

// Chunks with more groups than a codec takes are stored without one, and come back.
func TestChunksOfMoreThanAllGroups(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	r := newRepository(t, st)
	codec := sparse{new(atomic.Int64)}
	r.codecs[codec.ID()] = codec
	p := &patcher{t: t}
	content := p.content(MaxChunk / PageSize)
	w := must(r.Begin(t.Context(), "orders-db", DefaultGroup))
	defer w.Close(t.Context()) //nolint:errcheck // nothing depends on it
	lane := w.Lane()
	ids := map[seal.ChunkID]int{}
	for _, size := range []int{seal.MaxGroups * seal.GroupSize, seal.MaxGroups*seal.GroupSize + PageSize, 3 << 20, MaxChunk} {
		ids[must(lane.Save(t.Context(), content[:size], codec))] = size
	}
	m := &Manifest{}
	if err := errors.Join(w.EditTree(t.Context(), nil, []TreeEdit{{Path: "d", Entry: &Entry{Type: TypeDir, Mode: 0o700}}}, m), w.Commit(t.Context(), m)); err != nil {
		t.Fatal(err)
	}
	rd := r.Reader()
	for id, size := range ids {
		if got, err := rd.Chunk(t.Context(), id); err != nil || !bytes.Equal(got, content[:size]) {
			t.Errorf("a chunk of %d bytes: %d, %v", size, len(got), err)
		}
	}
}

func TestPlacesWithoutRoomForTheirFramesAreRefused(t *testing.T) {
	t.Parallel()
	fine := chunkPlace{offset: seal.HeaderSize, stored: 200, plain: 100_000, head: 100, encoding: 200}
	if err := fine.check(1000); err != nil {
		t.Error(err)
	}
	for _, head := range []uint32{200 - 2*seal.Overhead + 1, 200, 1<<24 - 1} {
		broken := fine
		if broken.head = head; broken.check(1000) == nil {
			t.Errorf("a first frame of %d bytes in a chunk of %d is not refused", head, broken.stored)
		}
	}
}
