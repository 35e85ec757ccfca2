package seal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// sizesInGroups are lengths of chunks around those at which the tree takes another form.
func sizesInGroups() (sizes []int) {
	for _, groups := range []int{1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 63, 64} {
		for _, more := range []int{-GroupSize + 1, -8192, -1, 0, 1, 1024, 1025, pieceSize, 8192, 3*pieceSize + 5} {
			if n := groups*GroupSize + more; n > GroupSize && n <= MaxGroups*GroupSize {
				sizes = append(sizes, n)
			}
		}
	}
	return sizes
}

// A chunk's tree has its ID for its root, whatever its length, and any groups of it make the ID with the values of the
// others: no other bytes, and no other values, do.
func TestGroupsProveThemselves(t *testing.T) {
	t.Parallel()
	k := testKeys(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, size := range sizesInGroups() {
		plain := make([]byte, size)
		for i := range plain {
			plain[i] = byte(rnd.Uint32())
		}
		want := k.ChunkID("eu", plain)
		prefix := []byte("before")
		id, told := k.ChunkTree(bytes.Clone(prefix), "eu", plain)
		if told = told[len(prefix):]; id != want || len(told) != Groups(size)*ValueSize {
			t.Fatalf("%d bytes: the tree's ID is %v with %d bytes of values, want %v with %d groups", size, id, len(told), want, Groups(size))
		}
		for _, have := range []uint64{0, 1, ^uint64(0), 1 << (Groups(size) - 1), rnd.Uint64()} {
			g := rnd.IntN(Groups(size)) // will be changed
			at := 0
			var some []byte
			said := bytes.Clone(told)
			for i := range Groups(size) {
				if i == g {
					at = len(some)
				}
				if have>>i&1 != 0 {
					some = append(some, plain[i*GroupSize:min((i+1)*GroupSize, size)]...)
					clear(said[i*ValueSize:][:ValueSize])
				}
			}
			if id := k.PartialID("eu", some, size, have, said); id != want {
				t.Errorf("%d bytes, groups %b: %v, want %v", size, have, id, want)
			}
			if have>>g&1 != 0 {
				some[at+rnd.IntN(min(GroupSize, size-g*GroupSize))] ^= 1
			} else {
				said[g*ValueSize+rnd.IntN(ValueSize)] ^= 0x80
			}
			if id := k.PartialID("eu", some, size, have, said); id == want {
				t.Errorf("%d bytes, groups %b: a change in group %d is not noticed", size, have, g)
			}
		}
	}
	if id, _ := k.ChunkTree(nil, "us", make([]byte, 2*GroupSize)); id == k.ChunkID("eu", make([]byte, 2*GroupSize)) {
		t.Error("two residency groups have one ID")
	}
}

// BenchmarkChunkTree shows what the values of the groups cost beside the ID alone.
func BenchmarkChunkTree(b *testing.B) {
	k := testKeys(b)
	plain := make([]byte, 512<<10)
	var sink ChunkID
	run := func(name string, fn func()) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				fn()
			}
		})
	}
	run("id", func() { sink = k.ChunkID("eu", plain) })
	var told []byte
	run("tree", func() { sink, told = k.ChunkTree(told[:0], "eu", plain) })
	for n := 1; n <= 8; n *= 2 {
		run(fmt.Sprintf("partial=%d", n), func() { sink = k.PartialID("eu", plain[:n*GroupSize], len(plain), 1<<n-1, told) })
	}
	_ = sink
}
