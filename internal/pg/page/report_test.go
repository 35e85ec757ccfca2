package page

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

const chunkSize = 64 * Size

// TestReport prints, for each relation of the data directory named by HOLDFAST_PAGE_DATA, the bytes and the CPU
// seconds of zstd alone and of the codec, and checks that the codec gives every chunk back. Relations are named
// by their file; those under 8 MB are summed up. HOLDFAST_PAGE_STEP=10 looks at every tenth chunk only.
func TestReport(t *testing.T) {
	dir := os.Getenv("HOLDFAST_PAGE_DATA")
	if dir == "" {
		t.Skip("HOLDFAST_PAGE_DATA names no data directory")
	}
	step := 1
	if v := os.Getenv("HOLDFAST_PAGE_STEP"); v != "" {
		if _, err := fmt.Sscan(v, &step); err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread() // CPU time is counted per thread
	defer runtime.UnlockOSThread()

	var total line
	var streams [streamCount]int
	rels := relations(t, dir)
	fmt.Printf("%-28s %8s | %8s %6s %6s | %8s %6s | %8s %6s %6s %6s | MB and CPU s\n",
		"relation", "raw", "fastest", "s", "back", "default", "s", "codec", "s", "split", "back")
	slices.SortFunc(rels, func(a, b relation) int { return cmp.Compare(b.size, a.size) })
	for _, r := range rels {
		l := measure(t, r, step, &streams)
		fmt.Println(l.String(r.name))
		total.add(l)
	}
	fmt.Println(total.String("total"))
	for id, n := range streams {
		fmt.Printf("stream %-2d %10.1f MB\n", id, float64(n*step)/1e6)
	}
}

type relation struct {
	name  string
	size  int64
	files []string
}

func relations(t *testing.T, dir string) []relation {
	t.Helper()
	byName := map[string]*relation{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "pg_wal" {
			return cmp.Or(err, fs.SkipDir)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.SplitN(path, ".", 2)[0], dir)
		r := byName[name]
		if r == nil {
			r = &relation{name: name}
			byName[name] = r
		}
		r.size += info.Size()
		r.files = append(r.files, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	small := relation{name: "others"}
	var rels []relation
	for _, r := range byName {
		if r.size > 8e6 {
			rels = append(rels, *r)
			continue
		}
		small.size += r.size
		small.files = append(small.files, r.files...)
	}
	return append(rels, small)
}

type line struct {
	raw, fastest, normal, codec                         float64 // MB
	tFastest, tNormal, tCodec, tSplit, tBack, tFastBack float64 // CPU seconds
}

func (l *line) add(o line) {
	l.raw, l.fastest, l.normal, l.codec = l.raw+o.raw, l.fastest+o.fastest, l.normal+o.normal, l.codec+o.codec
	l.tFastest, l.tNormal, l.tCodec = l.tFastest+o.tFastest, l.tNormal+o.tNormal, l.tCodec+o.tCodec
	l.tSplit, l.tBack, l.tFastBack = l.tSplit+o.tSplit, l.tBack+o.tBack, l.tFastBack+o.tFastBack
}

func (l *line) String(name string) string {
	return fmt.Sprintf("%-28s %8.1f | %8.1f %6.2f %6.2f | %8.1f %6.2f | %8.1f %6.2f %6.2f %6.2f", name, l.raw,
		l.fastest, l.tFastest, l.tFastBack, l.normal, l.tNormal, l.codec, l.tCodec, l.tSplit, l.tBack)
}

// threadCPU returns the CPU seconds of this thread.
func threadCPU() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic("page: " + err.Error())
	}
	return float64(ts.Nano()) / 1e9
}

func measure(t *testing.T, r relation, step int, streams *[streamCount]int) line {
	t.Helper()
	fastest, normal := plainZstd(t, zstd.SpeedFastest), plainZstd(t, zstd.SpeedDefault)
	codec := newWorker()
	plainDecoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer plainDecoder.Close()
	var l line
	var z, back []byte
	timed := func(sum *float64, f func()) {
		c := threadCPU()
		f()
		*sum += (threadCPU() - c) * float64(step)
	}
	withNormal := os.Getenv("HOLDFAST_PAGE_DEFAULT") != ""
	eachChunk(t, r.files, step, func(chunk []byte) {
		mb := func(n int) float64 { return float64(n*step) / 1e6 }
		l.raw += mb(len(chunk))
		timed(&l.tFastest, func() { z = fastest.EncodeAll(chunk, z[:0]) })
		l.fastest += mb(len(z))
		plain := len(z)
		timed(&l.tFastBack, func() { back, err = plainDecoder.DecodeAll(z, back[:0]) })
		if err != nil {
			t.Fatal(err)
		}
		if withNormal {
			timed(&l.tNormal, func() { z = normal.EncodeAll(chunk, z[:0]) })
			l.normal += mb(len(z))
		}
		if len(chunk)%Size == 0 {
			timed(&l.tSplit, func() {
				codec.enc.choose(chunk)
				codec.enc.encode(chunk)
			})
		}
		var ok bool
		timed(&l.tCodec, func() {
			ok = len(chunk)%Size == 0
			if ok {
				z, _, ok = codec.compress(z[:0], chunk)
			}
		})
		if !ok {
			l.codec += mb(plain)
			return
		}
		l.codec += mb(len(z))
		for i, h := range codec.out.held {
			streams[i%streamCount] += h.length
		}
		timed(&l.tBack, func() { back, err = codec.decompress(back[:0], z, len(chunk), everyGroup) })
		if err != nil || !bytes.Equal(back, chunk) {
			t.Fatalf("%s: a chunk does not come back: %v", r.name, err)
		}
	})
	return l
}

func plainZstd(t testing.TB, level zstd.EncoderLevel) *zstd.Encoder {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func eachChunk(t *testing.T, files []string, step int, f func(chunk []byte)) {
	t.Helper()
	slices.Sort(files)
	buf := make([]byte, chunkSize)
	i := 0
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for off := int64(0); ; off += chunkSize {
			n, err := file.ReadAt(buf, off)
			if i++; n > 0 && i%step == 0 {
				f(buf[:n])
			}
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
