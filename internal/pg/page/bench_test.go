package page

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// BenchmarkCodec runs over synthetic pages, or over the files that HOLDFAST_PAGE_FILES lists (separated by
// commas, of each at most 64 MB).
func BenchmarkCodec(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	inputs := map[string][]byte{"fixed": heapPages(512, 0, r), "varying": heapPages(512, 300, r)}
	for _, name := range strings.Split(os.Getenv("HOLDFAST_PAGE_FILES"), ",") {
		if name == "" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		buf := make([]byte, 64<<20)
		n, _ := f.ReadAt(buf, 0)
		inputs[filepath.Base(name)] = buf[:n/chunkSize*chunkSize]
	}
	names := []string{}
	for name := range inputs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		src := inputs[name]
		b.Run(name, func(b *testing.B) { benchmarkCodec(b, src) })
	}
}

func benchmarkCodec(b *testing.B, src []byte) {
	c := NewCodec()
	var z [][]byte
	total := 0
	for i := 0; i < len(src); i += chunkSize {
		out, _, ok := c.Encode(nil, src[i:i+chunkSize])
		if !ok {
			b.Fatal("declined")
		}
		z = append(z, out)
		total += len(out)
	}
	b.Run("split", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		w := newWorker()
		for b.Loop() {
			for i := 0; i < len(src); i += chunkSize {
				w.enc.choose(src[i : i+chunkSize])
				w.enc.encode(src[i : i+chunkSize])
			}
		}
	})
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		var out []byte
		for b.Loop() {
			for i := 0; i < len(src); i += chunkSize {
				out, _, _ = c.Encode(out[:0], src[i:i+chunkSize])
			}
		}
		b.ReportMetric(float64(total)*100/float64(len(src)), "%") // Loop forgets what was reported before it
	})
	b.Run("group", func(b *testing.B) { // one of each chunk
		b.SetBytes(int64(len(z) * groupSize))
		var out []byte
		var some [][]byte
		for i, s := range z {
			some = append(some, cutGroups(b, c, s, chunkSize, 1<<(i%(chunkSize/groupSize))))
		}
		for b.Loop() {
			for i, s := range some {
				var err error
				if out, err = c.Decode(out[:0], s, chunkSize, 1<<(i%(chunkSize/groupSize))); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		var out []byte
		for b.Loop() {
			for _, s := range z {
				var err error
				if out, err = c.Decode(out[:0], s, chunkSize, everyGroup); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
