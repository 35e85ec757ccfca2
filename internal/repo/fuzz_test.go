package repo

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

func someIDs(n int) []seal.ChunkID {
	ids := make([]seal.ChunkID, n)
	for i := range ids {
		ids[i][0], ids[i][31] = byte(i), 1
	}
	return ids
}

func FuzzPackDirectory(f *testing.F) {
	var b []byte
	for i, id := range someIDs(3) {
		b = appendPlace(b, chunkPlace{id, uint32(44 + 100*i), 100, 80, uint32(i % 3), 1})
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		places, err := parseDirectory("packs/x", b, 1000)
		if err != nil {
			return
		}
		for _, p := range places {
			if int64(p.offset)+int64(p.stored) > 1000 || p.plain > MaxChunk {
				t.Errorf("place %+v is outside of the pack", p)
			}
		}
	})
}

func FuzzIndex(f *testing.F) {
	d := &indexData{}
	var places []chunkPlace
	for i, id := range someIDs(3) {
		places = append(places, chunkPlace{id, uint32(44 + 100*i), 100, 80, uint32(i % 3), 1})
	}
	d.add(&packRef{group: "main", size: 1000}, places)
	d.sort()
	f.Add(d.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseIndex("index/x", b)
		if err != nil {
			return
		}
		if again := d.marshal(); len(again) != len(b) {
			t.Errorf("%d bytes became %d", len(b), len(again))
		}
	})
}

func FuzzNode(f *testing.F) {
	var n nodeBuilder
	tb := treeBuilder{split: theSplit, save: func(b []byte) (seal.ChunkID, error) { f.Add(bytes.Clone(b)); return seal.ChunkID{}, nil }, levels: []*nodeBuilder{&n}}
	e := Entry{Type: TypeFile, Size: 5, Chunks: someIDs(1)}
	if err := tb.add("a/b", e.marshal()); err != nil {
		f.Fatal(err)
	}
	if _, err := tb.finish(); err != nil {
		f.Fatal(err)
	}
	inner := treeBuilder{split: theSplit, levels: []*nodeBuilder{{}, {}}}
	if err := inner.putRef(1, "a/b", someIDs(1)[0], 5); err != nil {
		f.Fatal(err)
	}
	f.Add(inner.levels[1].marshal(1))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseNode(b)
		if err != nil {
			return
		}
		for i := range n.keys {
			if n.keys[i] == "" || (i > 0 && n.keys[i] <= n.keys[i-1]) || (n.level > 0 && len(n.values[i]) < plainRef) {
				t.Errorf("node with item %d: %q", i, n.keys[i])
			}
			if size, known, err := n.size(i); err == nil && (size < 0 || known != (n.level == 0 || n.sized)) {
				t.Errorf("node with item %d: size %d, known %v", i, size, known)
			}
		}
	})
}

func FuzzEntry(f *testing.F) {
	small, large, link := Entry{Type: TypeFile, Size: 5, Chunks: someIDs(1)}, Entry{Type: TypeFile, Size: Grid*ListLen + 1, Lists: someIDs(2)}, Entry{Type: TypeSymlink, Link: "x"}
	f.Add(small.marshal())
	f.Add(large.marshal())
	f.Add(link.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(b)
		if err != nil {
			return
		}
		if again := e.marshal(); !bytes.Equal(again, b) && len(e.Chunks)+len(e.Lists) > 0 {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add(marshalList(someIDs(3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, err := parseList(b)
		if err == nil && !bytes.Equal(marshalList(ids), b) {
			t.Errorf("%x became another list", b)
		}
	})
}

func FuzzPatched(f *testing.F) {
	ids := someIDs(5)
	patches := []PagePatch{{0, ids[1], 64, 63}, {1, ids[2], 1, 0}, {77, ids[1], 64, 0}, {partPages - 1, ids[1], 64, 0}}
	l := &patchedList{chunks: ListLen, base: ids[3], older: ids[4], recent: patches}
	l.mask.set(7)
	f.Add(l.marshal())
	f.Add((&patchedList{chunks: 1}).marshal())
	f.Add(marshalOlder(patches))
	two := marshalOlder([]PagePatch{{0, ids[1], 64, 63}, {77, ids[1], 64, 0}})
	first := len(two) - 2*patchSize
	f.Add(slices.Concat(two[:first], two[first+patchSize:], two[first:first+patchSize])) // descending
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parsePatched(b); err == nil && !bytes.Equal(l.marshal(), b) {
			t.Errorf("%x became another list", b)
		}
		patches, err := parseOlder(b)
		if err != nil {
			return
		}
		if !bytes.Equal(marshalOlder(patches), b) {
			t.Errorf("%x became another table", b)
		}
		for i, p := range patches {
			if err := p.check(); err != nil || (i > 0 && patches[i-1].Page >= p.Page) {
				t.Errorf("patch %+v, %v", p, err)
			}
		}
	})
}

func FuzzExtent(f *testing.F) {
	c := newEncoder()
	head := func(encoding byte, n uint64) []byte {
		b := make([]byte, extentHead)
		b[0], b[1] = 1, encoding
		binary.LittleEndian.PutUint64(b[12:], n)
		return b
	}
	const long = 2*s2Block + 5
	f.Add(append(head(extentRaw, 3), "abc"...))
	f.Add(c.enc.EncodeAll([]byte("abcabcabc"), head(extentZstd, 9)))
	f.Add(appendS2Block(head(extentS2, 1000), make([]byte, 1000)))
	blocks := head(extentS2, long)
	for block := range slices.Chunk(make([]byte, long), s2Block) {
		blocks = appendS2Block(blocks, block)
	}
	f.Add(blocks)
	f.Add(c.appendZstdBlock(head(extentZstdBlocks, 1000), make([]byte, 1000)))
	listed := appendHolders(head(extentRaw, 3), []Holder{{"zurich", strings.Repeat("0a", 16), 77}, {"", strings.Repeat("0b", 16), 0}})
	listed[0], listed[2] = extentListed, byte(len(listed)-extentHead)
	f.Add(append(listed, "abc"...))
	lr := &LogReader{coder: newDecoder()}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, n := range []uint64{3, 9, 1000, long} {
			got := uint64(0)
			_, err := lr.parse(b, Extent{End: n}, 0, n, func(piece []byte) error {
				got += uint64(len(piece))
				return nil
			})
			if err == nil && got != n {
				t.Errorf("%d bytes, want %d", got, n)
			}
			part := uint64(0)
			_, some := lr.parse(b, Extent{End: n}, n/3, n/2, func(piece []byte) error {
				part += uint64(len(piece))
				return nil
			})
			if err == nil && (some != nil || part != n/2-n/3) {
				t.Errorf("%d bytes of a part, want %d: %v", part, n/2-n/3, some)
			}
		}
	})
}

func FuzzChunk(f *testing.F) {
	c, d := newEncoder(), newDecoder()
	var e encodedChunk
	if err := c.encode(&e, bytes.Repeat([]byte("abc"), 100), nil, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(e.bytes), e.encoding, 300, everyGroup)
	keys, err := seal.NewKeyring(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	codec := sparse{new(atomic.Int64)}
	pages := bytes.Repeat(pageOf(1), 3*pagesOfGroup-1)
	id, values := keys.ChunkTree(nil, "main", pages)
	if err := c.encode(&e, pages, codec, values); err != nil {
		f.Fatal(err)
	}
	for _, want := range []uint64{everyGroup, 0b110, 0b1, 0b1000} {
		some, rest := bytes.Clone(e.bytes[:e.frames[0]]), e.bytes[e.frames[0]:]
		for g, n := range e.frames[1:] {
			if want>>g&1 != 0 {
				some = append(some, rest[:n]...)
			}
			rest = rest[n:]
		}
		f.Add(some, e.encoding, len(pages), want)
	}
	f.Fuzz(func(t *testing.T, b []byte, encoding byte, size int, want uint64) {
		if size < 0 || size > 1<<20 {
			return
		}
		want = chunkPlace{plain: uint32(size), head: uint32(encoding / firstCodec)}.wanted(want)
		plain, err := d.decode(nil, b, encoding, size, want, map[byte]Codec{codec.ID(): codec})
		if err == nil && len(plain) != bytesIn(want, size) {
			t.Errorf("%d bytes, want %d", len(plain), bytesIn(want, size))
		}
		if err != nil || want == everyGroup || keys.PartialID("main", plain, size, want, b) != id {
			return
		}
		for g := range seal.Groups(size) {
			if want>>g&1 == 0 {
				continue
			}
			from, n := g*seal.GroupSize, min(seal.GroupSize, size-g*seal.GroupSize)
			if !bytes.HasPrefix(pages[min(from, len(pages)):], plain[:n]) {
				t.Errorf("group %d is proven, and is that of another chunk", g)
			}
			plain = plain[n:]
		}
	})
}

// FuzzSigned: what is signed is cut before it is proven, and parsed after.
func FuzzSigned(f *testing.F) {
	s, err := seal.NewSigner()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed(s, purposeMark, []byte(`{"lsn":1}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, signature, err := cutSigned(b)
		if err == nil && (len(signature) != seal.SignatureSize || len(body)+len(signature)+4 != len(b)) {
			t.Errorf("%d bytes were cut into %d and %d", len(b), len(body), len(signature))
		}
	})
}

// FuzzManifest: a manifest is JSON of a holder of the keys; one whose signer is not registered is not believed.
func FuzzManifest(f *testing.F) {
	l := newLittle(f)
	r, err := openAgain(f, l.st)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"version":1,"signer":"0123456789abcdef0123456789abcdef","root":"00"}`))
	f.Add([]byte(`{"tombstone":"aborted"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		stranger, err := seal.NewSigner()
		if err != nil {
			t.Fatal(err)
		}
		name := prefixSnapshots + "x/y"
		sealed := r.keys.SealWhole(seal.KindSnapshot, name, signed(stranger, purposeSnapshot, body))
		if m, err := r.openManifest(t.Context(), name, sealed); err == nil && m != nil {
			t.Errorf("a manifest of an unknown signer is believed: %+v", m)
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add("packs/main/ab/ab000000000000000000000000000000")
	f.Add("log/00/00000001/0000000000000000-0000000000000001")
	f.Add("index/main/00000001-00000000000000000000000000000000")
	f.Fuzz(func(t *testing.T, name string) {
		if g, id, ok := parsePackName(name); ok && packName(g, id) != name {
			t.Errorf("%q is the pack %s", name, packName(g, id))
		}
		parseExtentName(name)
		parseIndexName(name)
		parsePackKey(name)
		_, _ = SnapshotID(name).Time()
	})
}
