package page

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/s2"
)

// The decoder of the s2 module is the oracle: split and expand must give what it gives.
func TestMatchesEqualS2(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	for range 400 {
		checkMatches(t, repetitive(r, 1+r.IntN(100_000)))
	}
	checkMatches(t, bytes.Repeat([]byte("x"), 1<<20)) // repeats of every extended length
	checkMatches(t, append(repetitive(r, 1<<20), repetitive(r, 70_000)...))
}

// repetitive makes text with matches near and far, short and long, and runs.
func repetitive(r *rand.Rand, n int) []byte {
	b := []byte{0}
	for len(b) < n {
		switch k := r.IntN(6); {
		case k == 0:
			b = append(b, bytes.Repeat([]byte{byte(r.Uint32())}, 1+r.IntN(400))...)
		case k < 4:
			from := r.IntN(len(b))
			b = append(b, b[from:min(len(b), from+4+r.IntN(60))]...)
		default:
			for range r.IntN(100) {
				b = append(b, byte(r.Uint32()))
			}
		}
	}
	return b[:n]
}

func checkMatches(t *testing.T, src []byte) {
	t.Helper()
	block := s2.Encode(nil, src)
	_, n := binary.Uvarint(block)
	var p parts
	p.split(block[n:])
	if got := len(p[pLiterals]) + len(p[pTags]) + len(p[pLow]) + len(p[pHigh]); got != len(block)-n {
		t.Fatalf("the parts have %d bytes, the block %d", got, len(block)-n)
	}
	got := make([]byte, len(src))
	if !p.expand(got) || !bytes.Equal(got, src) {
		t.Fatalf("%d bytes do not come back", len(src))
	}
}

func FuzzMatches(f *testing.F) {
	f.Add(repetitive(rand.New(rand.NewPCG(2, 2)), 3000), uint16(40), uint64(0))
	f.Fuzz(func(t *testing.T, src []byte, cut uint16, seed uint64) {
		if len(src) == 0 {
			return
		}
		checkMatches(t, src)
		// The same bytes as hostile parts, long ones and short ones.
		r := rand.New(rand.NewPCG(seed, 1))
		var p parts
		for i := range p {
			from := r.IntN(len(src))
			p[i] = src[from : from+r.IntN(len(src)-from+1)>>r.IntN(8)]
		}
		checkHostile(t, p, 1+int(cut))
	})
}

// checkHostile expands parts in both ways: they must agree, and not panic.
func checkHostile(t *testing.T, p parts, size int) {
	t.Helper()
	got, want := make([]byte, size), make([]byte, size)
	x := expansion{parts: p, dst: want}
	ok := true
	for ok && x.at[pTags] < len(p[pTags]) {
		ok = x.token()
	}
	ok = ok && x.done()
	if p.expand(got) != ok || ok && !bytes.Equal(got, want) {
		t.Fatalf("%d bytes of parts %x: tag by tag they are right: %v", size, p, ok)
	}
}

// TestMatchesOverrun runs out of one part after the other.
func TestMatchesOverrun(t *testing.T) {
	literals := bytes.Repeat([]byte("abcdefgh"), 25)
	for _, p := range []parts{
		{literals, {0xEC, 1, 1, 1}, {1}, nil},                      // low is used up, and asked for tag by tag
		{literals, {0xEC, 0xFE, 0xEC, 0xFE, 3}, {1, 1, 1, 1}, nil}, // high
		{literals, {0xEC, 0xFE, 0xFE}, {9, 9, 9}, {0}},
		{literals[:70], {0xEC, 1, 0xEC, 1, 1}, {3, 3, 3}, nil}, // literals
	} {
		for size := 1; size < 1000; size += 7 {
			checkHostile(t, p, size)
		}
	}
	r := rand.New(rand.NewPCG(4, 4))
	for range 20_000 {
		var p parts
		for i := range p {
			p[i] = repetitive(r, 1+r.IntN(300)>>r.IntN(9))
		}
		checkHostile(t, p, 1+r.IntN(2000))
	}
}
