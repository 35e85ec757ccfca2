package page

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// roundTrip compresses and decompresses src and returns the compressed form, nil where the codec declines.
func roundTrip(t *testing.T, c *Codec, src []byte) []byte {
	t.Helper()
	before := bytes.Clone(src)
	z, _, ok := c.Encode([]byte("kept"), src)
	if !bytes.Equal(before, src) {
		t.Fatal("Encode modified its input")
	}
	if !bytes.HasPrefix(z, []byte("kept")) || !ok && len(z) != 4 {
		t.Fatalf("Encode returned %d bytes, %v: dst is not what was appended to", len(z), ok)
	}
	if !ok {
		return nil
	}
	got, err := c.Decode(append(dirty(4 + len(src))[:0], "kept"...), z[4:], len(src), everyGroup)
	if err != nil {
		t.Fatalf("Decode: %v", err)
	}
	if !bytes.Equal(got, append([]byte("kept"), src...)) {
		t.Fatal("the chunk does not come back as it was")
	}
	return z[4:]
}

// dirty returns n bytes of what a buffer may hold from before.
func dirty(n int) []byte { return bytes.Repeat([]byte{0xA5}, n) }

// heapPages makes pages as a freshly loaded table has them: items of 120+vary bytes, a header each, a growing
// key, random bytes and text.
func heapPages(n, vary int, r *rand.Rand) []byte {
	out := make([]byte, n*Size)
	key := uint64(1)
	for i := range n {
		p := out[i*Size:][:Size]
		upper, items := Size, 0
		for {
			length := 120
			if vary > 0 {
				length += r.IntN(vary)
			}
			off := upper - align8(length)
			if off < headerSize+ptrSize*(items+1) {
				break
			}
			upper = off
			binary.LittleEndian.PutUint32(p[headerSize+ptrSize*items:], joinPtr(off, length))
			items++
			b := p[off:][:length]
			binary.LittleEndian.PutUint32(b, 700)
			binary.LittleEndian.PutUint16(b[14:], uint16(i))
			binary.LittleEndian.PutUint16(b[16:], uint16(items))
			binary.LittleEndian.PutUint64(b[24:], key)
			binary.LittleEndian.PutUint64(b[32:], r.Uint64())
			binary.LittleEndian.PutUint64(b[40:], r.Uint64())
			for k := 48; k < length; k++ {
				b[k] = "the quick brown fox "[r.IntN(20)]
			}
			key++
		}
		setHeader(p, uint64(i)*8200+1<<32, headerSize+ptrSize*items, upper, Size)
	}
	return out
}

func setHeader(p []byte, lsn uint64, lower, upper, special int) {
	binary.LittleEndian.PutUint32(p, uint32(lsn>>32))
	binary.LittleEndian.PutUint32(p[4:], uint32(lsn))
	binary.LittleEndian.PutUint16(p[12:], uint16(lower))
	binary.LittleEndian.PutUint16(p[14:], uint16(upper))
	binary.LittleEndian.PutUint16(p[16:], uint16(special))
	binary.LittleEndian.PutUint16(p[18:], Size|4)
	binary.LittleEndian.PutUint16(p[8:], Checksum(p, uint32(lsn)))
}

func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	c := NewCodec()
	fixed, varying := heapPages(64, 0, r), heapPages(64, 300, r)
	noise := make([]byte, 64*Size)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for _, test := range []struct {
		name  string
		src   []byte
		limit int // compressed bytes; 0 where the codec must decline
	}{
		{"fixed items", fixed, 230_000},
		{"varying items", varying, 350_000},
		{"one page", fixed[:Size], 4_000},
		{"all zero", make([]byte, 64*Size), 400},
		{"noise", noise, 0},
		{"empty", nil, 0},
		{"not whole pages", fixed[:Size+1], 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			z := roundTrip(t, c, test.src)
			if (z == nil) != (test.limit == 0) || len(z) > test.limit {
				t.Errorf("compressed to %d bytes (nil: %v), want at most %d", len(z), z == nil, test.limit)
			}
		})
	}
}

// TestRoundTripDamaged changes good pages in every way that the layout knows of, and at random.
func TestRoundTripDamaged(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	c := NewCodec()
	base := append(heapPages(8, 0, r), heapPages(8, 200, r)...)
	for i := range 800 {
		src := bytes.Clone(base)
		for range 1 + r.IntN(40) {
			p := src[r.IntN(16)*Size:][:Size]
			switch r.IntN(9) {
			case 0: // header
				p[r.IntN(headerSize)] = byte(r.Uint32())
			case 1: // a line pointer
				binary.LittleEndian.PutUint32(p[headerSize+ptrSize*r.IntN(20):], r.Uint32())
			case 2: // flags of a line pointer
				p[headerSize+ptrSize*r.IntN(20)+1] ^= 0x80
			case 3: // two line pointers swapped
				a, b := p[headerSize+ptrSize*r.IntN(20):][:4], p[headerSize+ptrSize*r.IntN(20):][:4]
				x := [4]byte(a)
				copy(a, b)
				copy(b, x[:])
			case 4: // an unused line pointer, its item left behind
				clear(p[headerSize+ptrSize*r.IntN(20):][:4])
			case 5: // garbage in the free space and beside the items
				p[(int(ReadHeader(p).Upper)-1)&(Size-1)] = 7
				p[Size-1-r.IntN(8)] = 1
			case 6:
				clear(p)
			case 7: // a special space
				h := ReadHeader(p)
				setHeader(p, h.LSN, int(h.Lower), int(h.Upper), int(h.Special)-8*r.IntN(8))
			default:
				p[r.IntN(Size)] = byte(r.Uint32())
			}
		}
		if z := roundTrip(t, c, src); z == nil && i == 0 {
			t.Fatal("declined")
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	base := heapPages(3, 100, r)
	f.Add(base, uint64(1))
	f.Add(make([]byte, 2*Size), uint64(0))
	c := NewCodec()
	f.Fuzz(func(t *testing.T, src []byte, seed uint64) {
		src = bytes.Clone(src[:len(src)/Size*Size])
		if seed != 0 && len(src) > 0 { // damage that a fuzzer takes long to find
			r := rand.New(rand.NewPCG(seed, 0))
			for range r.IntN(20) {
				src[r.IntN(len(src))] = byte(r.Uint32())
				src[r.IntN(len(src))/Size*Size+r.IntN(200)] = byte(r.Uint32())
			}
		}
		roundTrip(t, c, src)
	})
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 8))
	c := NewCodec()
	for _, src := range [][]byte{heapPages(2, 0, r), heapPages(2, 300, r), make([]byte, 2*Size)} {
		z, _, _ := c.Encode(nil, src)
		f.Add(z, uint8(2), uint64(0), everyGroup)
		f.Add(z, uint8(2), uint64(9), everyGroup)
	}
	z, _, _ := c.Encode(nil, heapPages(20, 300, r))
	f.Add(cutGroups(f, c, z, 20*Size, 0b010), uint8(20), uint64(0), uint64(0b010))
	f.Add(cutGroups(f, c, z, 20*Size, 0b101), uint8(20), uint64(9), uint64(0b101))
	f.Fuzz(func(t *testing.T, z []byte, pages uint8, seed, want uint64) {
		z = bytes.Clone(z)
		if seed != 0 && len(z) > 0 {
			r := rand.New(rand.NewPCG(seed, 0))
			for range 1 + r.IntN(4) {
				z[r.IntN(len(z))] = byte(r.Uint32())
			}
		}
		size := int(pages) * Size
		got, err := c.Decode(nil, z, size, want)
		if err == nil && len(got) != wantedSize(size, want) || err != nil && !errors.Is(err, ErrFormat) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		again, err2 := c.Decode(dirty(size)[:0], z, size, want)
		if (err == nil) != (err2 == nil) || !bytes.Equal(got, again) {
			t.Fatalf("in a buffer that was used before: %d bytes and %v, %d and %v", len(got), err, len(again), err2)
		}
	})
}

// FuzzDecodeStreams goes past the frames and hands hostile streams to the decoder itself.
func FuzzDecodeStreams(f *testing.F) {
	r := rand.New(rand.NewPCG(9, 10))
	var e encoder
	for _, vary := range []int{0, 200} {
		e.choose(heapPages(2, vary, r))
		e.encode(heapPages(2, vary, r))
		f.Add(bytes.Join(e.s[:], nil), e.columns.predicted, e.columns.noise, uint64(1))
	}
	f.Fuzz(func(t *testing.T, all []byte, predicted, noise uint32, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		var d decoder
		for id := range d.c.s {
			n := r.IntN(len(all) + 1)
			d.c.s[id] = all[n:min(len(all), n+r.IntN(20000))]
		}
		d.c.s[sKind] = bytes.Repeat([]byte{byte(r.IntN(128)) | kindItems}, 4)
		d.columns.set(predicted, noise)
		d.decode(make([]byte, 4*Size))
	})
}

// wantedSize returns how many bytes the wanted groups have.
func wantedSize(size int, want uint64) (n int) {
	for at := 0; at < size; at += groupSize {
		n += min(groupSize, size-at) * int(want>>(at/groupSize)&1)
	}
	return n
}

// cutGroups returns the head of an encoded chunk, and the wanted groups.
func cutGroups(t testing.TB, c *Codec, z []byte, size int, want uint64) []byte {
	t.Helper()
	lengths, err := c.Groups(nil, z, size)
	if err != nil {
		t.Fatal(err)
	}
	head := len(z)
	for _, n := range lengths {
		head -= n
	}
	out, rest := bytes.Clone(z[:head]), z[head:]
	for g, n := range lengths {
		if want>>g&1 != 0 {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	return out
}

// everyGroup wants all groups of a chunk.
const everyGroup = ^uint64(0)

// TestDecodeGroups takes groups out of chunks of all lengths, as they are and damaged: groups that nobody asked for are not
// looked at, and a chunk's end is found without them.
func TestDecodeGroups(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	c := NewCodec()
	refused := 0
	for n := range 400 {
		src := heapPages(9+r.IntN(80), []int{0, 60, 300}[n%3], r)
		z, head, ok := c.Encode(nil, src)
		if !ok {
			t.Fatal("declined")
		}
		want := r.Uint64() & r.Uint64()
		if n%4 == 3 { // nothing of the first group, which is damaged
			z[head+r.IntN(int(binary.LittleEndian.Uint32(z[frameHead:])))] ^= 1 << r.IntN(8)
			if _, err := c.Decode(nil, cutGroups(t, c, z, len(src), want|1), len(src), want|1); err != nil && !errors.Is(err, ErrFormat) {
				t.Error(err)
			} else if err != nil {
				refused++
			}
			want &^= 1
		}
		var groups []byte
		for at := 0; at < len(src); at += groupSize {
			if want>>(at/groupSize)&1 != 0 {
				groups = append(groups, src[at:min(at+groupSize, len(src))]...)
			}
		}
		some := cutGroups(t, c, z, len(src), want)
		if got, err := c.Decode(dirty(len(src))[:0], some, len(src), want); err != nil || !bytes.Equal(got, groups) {
			t.Fatalf("groups %b of %d pages: %d bytes, %v", want, len(src)/Size, len(got), err)
		}
		if _, err := c.Decode(nil, append(some, 0), len(src), want); !errors.Is(err, ErrFormat) {
			t.Errorf("a byte behind the end: %v", err)
		}
	}
	if refused == 0 {
		t.Error("no damaged group was refused") // those that decode to other pages are for the repository to find
	}
}

func TestDecodeCut(t *testing.T) {
	c := NewCodec()
	src := heapPages(2, 50, rand.New(rand.NewPCG(1, 1)))
	z, _, _ := c.Encode(nil, src)
	for n := range z {
		if _, err := c.Decode(nil, z[:n], len(src), everyGroup); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut at %d of %d: %v", n, len(z), err)
		}
	}
	for _, size := range []int{0, -Size, Size, 3 * Size, 2*Size - 1} {
		if _, err := c.Decode(nil, z, size, everyGroup); !errors.Is(err, ErrFormat) {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

func TestDifference(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 100_000 {
		a, b := r.Uint64()>>r.IntN(64), r.Uint64()>>r.IntN(64)
		z := difference(a, b)
		if got := apply(z, b); got != a {
			t.Fatalf("apply(difference(%#x, %#x)) = %#x", a, b, got)
		}
		var m uint8
		for i := range 8 {
			if byte(z>>(8*i)) != 0 {
				m |= 1 << i
			}
		}
		if occupied(z) != m {
			t.Fatalf("occupied(%#x) = %08b, want %08b", z, occupied(z), m)
		}
	}
	if z := difference(7, 9); z != 3 {
		t.Errorf("-2 folds to %d, want 3", z)
	}
}
