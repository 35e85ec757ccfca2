package page

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// checksumSimple is the definition, word by word, as a check on the fast versions.
func checksumSimple(page []byte, block uint32) uint16 {
	sums := basis
	for i := 0; i < Size; i += 4 {
		w := binary.LittleEndian.Uint32(page[i:])
		if i == 8 {
			w &= 0xFFFF0000
		}
		l := i / 4 % lanes
		sums[l] = step(sums[l] ^ w)
	}
	var all uint32
	for _, s := range sums {
		all ^= step(step(s))
	}
	return uint16((all^block)%65535) + 1
}

func TestChecksumVersionsAgree(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	p := make([]byte, Size)
	for i := range 200 {
		_, _ = r.Read(p)
		checkChecksums(t, p, uint32(i)*77777)
	}
}

func checkChecksums(t *testing.T, p []byte, block uint32) {
	t.Helper()
	want := checksumSimple(p, block)
	if got := Checksum(p, block); got != want {
		t.Fatalf("Checksum = %04x, want %04x", got, want)
	}
	if got := uint16((foldGeneric((*[Size]byte)(p))^block)%65535) + 1; got != want {
		t.Fatalf("generic = %04x, want %04x", got, want)
	}
}

func FuzzChecksum(f *testing.F) {
	f.Add([]byte("x"), uint32(0))
	f.Fuzz(func(t *testing.T, seed []byte, block uint32) {
		p := make([]byte, Size)
		for i := 0; len(seed) > 0 && i < Size; i += len(seed) {
			copy(p[i:], seed)
		}
		checkChecksums(t, p, block)
	})
}

func BenchmarkChecksum(b *testing.B) {
	p := make([]byte, Size)
	b.Run("native", func(b *testing.B) {
		b.SetBytes(Size)
		for b.Loop() {
			Checksum(p, 1)
		}
	})
	b.Run("generic", func(b *testing.B) {
		b.SetBytes(Size)
		for b.Loop() {
			foldGeneric((*[Size]byte)(p))
		}
	})
}
