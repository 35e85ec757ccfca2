package layer

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"
)

var (
	seeds = flag.Int("layer.seeds", 8, "how many random histories the layer is put through")
	seed  = flag.Uint64("layer.seed", 0, "the one history to run")
)

// content is the snapshot's: every page of every file is another.
func content(id Ident) []byte {
	b := make([]byte, id.Size)
	for i := range b {
		b[i] = byte(i/PageSize)*7 + byte(i%251) + byte(id.ID)*31 + 1
	}
	return b
}

// snapshot is a source.
type snapshot struct {
	rnd  *rand.Rand
	fail error
}

func (s *snapshot) Fetch(_ context.Context, id Ident, chunk int, want uint64, put func(int, []byte) error) error {
	if s.fail != nil {
		return s.fail
	}
	all := content(id)
	if s.rnd.IntN(3) == 0 { // more than was asked for
		want |= s.rnd.Uint64()
	}
	for want != 0 {
		first, end := run(want)
		want &^= mask(first, end)
		from, to := int64(chunk)*ChunkSize+int64(first)*PageSize, int64(chunk)*ChunkSize+int64(end)*PageSize
		if from >= id.Size {
			continue
		}
		if err := put(first, all[from:min(to, id.Size)]); err != nil {
			return err
		}
	}
	return nil
}

// model is what a plain file would hold.
type model struct {
	id     Ident
	now    []byte
	synced []byte
	since  [][]byte // versions after what was synced
}

func (m *model) change(c change) {
	m.now = apply(append([]byte{}, m.now...), c)
	m.since = append(m.since, m.now)
}

func (m *model) sync() { m.synced, m.since = m.now, nil }

// after checks what a crash has left, and goes on from it.
func (m *model) after(got []byte) error {
	versions := append([][]byte{m.synced}, m.since...)
	least, most := len(m.synced), len(m.synced)
	for _, v := range versions {
		least, most = min(least, len(v)), max(most, len(v)) // a part of a write may have made it longer
	}
	if len(got) < least || len(got) > most {
		return fmt.Errorf("%s has %d bytes, which it never had", m.id.Path, len(got))
	}
	for i := range got {
		ok := len(m.since) > 0 && i >= len(m.synced) && got[i] == 0 // a hole where a write was lost
		for _, v := range versions {
			ok = ok || i < len(v) && v[i] == got[i] || len(m.since) > 0 && i >= len(v) && got[i] == 0
		}
		if !ok {
			return fmt.Errorf("%s, byte %d (page %d): %d, which it never was; %d bytes were synced, %d versions since", m.id.Path, i, i/PageSize, got[i], len(m.synced), len(m.since))
		}
	}
	m.now, m.synced, m.since = got, got, nil
	return nil
}

type history struct {
	t      *testing.T
	rnd    *rand.Rand
	disk   *disk
	source *snapshot
	layer  *Layer
	files  []*File
	models []*model
}

func newHistory(t *testing.T, n uint64) *history {
	rnd := rand.New(rand.NewPCG(n, 7))
	h := &history{t: t, rnd: rnd, disk: newDisk(rnd), source: &snapshot{rnd: rnd}}
	for i, size := range []int64{ChunkSize + 3*PageSize + 100, 2 * PageSize, 70 * PageSize} {
		id := Ident{ID: uint32(i + 1), Size: size, Path: fmt.Sprintf("base/5/%d", i)}
		h.models = append(h.models, &model{id: id, now: content(id), synced: content(id)})
		f := &diskFile{disk: h.disk, now: make([]byte, size), durable: make([]byte, size)}
		h.disk.files[id.Path] = f
	}
	if err := h.open(); err != nil {
		t.Fatal(err)
	}
	return h
}

// open opens the layer as a mount does.
func (h *history) open() error {
	j, err := OpenJournal(h.disk, MountID{1})
	if err != nil {
		return err
	}
	for _, c := range j.Cuts() {
		b, _ := h.disk.Open(h.models[c.File-1].id.Path)
		if err := Recut(b, c); err != nil {
			return err
		}
		if err := j.DoneCut(c); err != nil {
			return err
		}
	}
	h.layer, h.files = New(h.source, j), nil
	for _, m := range h.models {
		f, err := h.layer.Attach(m.id, func() (Backing, error) { return h.disk.Open(m.id.Path) })
		if err != nil {
			return err
		}
		h.files = append(h.files, f)
	}
	return nil
}

func (h *history) somewhere(size int) (off, length int64) {
	off = h.rnd.Int64N(int64(size) + 2*PageSize)
	length = 1 + h.rnd.Int64N(5*PageSize)
	if h.rnd.IntN(3) > 0 { // as PostgreSQL does
		off, length = off/PageSize*PageSize, (length+PageSize-1)/PageSize*PageSize
	}
	return off, length
}

// step does one thing to both. An error is of the disk.
func (h *history) step(ctx context.Context) error {
	i := h.rnd.IntN(len(h.files))
	f, m := h.files[i], h.models[i]
	switch h.rnd.IntN(12) {
	case 0, 1, 2, 3:
		off, length := h.somewhere(len(m.now))
		b := bytes.Repeat([]byte{byte(h.rnd.Uint32())}, int(length))
		m.change(change{off, b})
		_, err := f.WriteAt(ctx, b, off)
		return err
	case 4, 5:
		off, length := h.somewhere(len(m.now))
		b := make([]byte, length)
		n, err := f.ReadAt(ctx, b, off)
		if want := m.now[min(off, int64(len(m.now))):min(off+length, int64(len(m.now)))]; err == nil && !bytes.Equal(b[:n], want) {
			h.t.Fatalf("read of %s at %d: %d bytes differ from %d", m.id.Path, off, n, len(want))
		}
		return err
	case 6, 7:
		if err := f.Sync(); err != nil {
			return err
		}
		m.sync()
	case 8:
		size, _ := h.somewhere(len(m.now))
		m.change(change{at: size})
		return f.Truncate(size)
	case 9:
		return f.Ensure(ctx, h.rnd.IntN(max(f.Chunks(), 1)), h.rnd.Uint64())
	case 10:
		return f.Flush()
	case 11:
		if h.rnd.IntN(3) > 0 {
			return nil
		}
		for c := range f.Chunks() {
			if err := f.Ensure(ctx, c, ^uint64(0)); err != nil {
				return err
			}
		}
		_, err := h.layer.Finish(f)
		if err == nil && !f.Whole() {
			h.t.Fatalf("%s is all local, and not whole", m.id.Path)
		}
		return err
	}
	return nil
}

// Random histories, through losses of power and deaths of the process at random steps, always leave what a plain file could have
// been left with; and between these they read as a plain file does.
func TestLayerIsAPlainFile(t *testing.T) {
	t.Parallel()
	from, to := uint64(1), uint64(*seeds)
	if *seed != 0 {
		from, to = *seed, *seed
	}
	crashes := 0
	for n := from; n <= to; n++ {
		h := newHistory(t, n)
		for range 12 {
			h.disk.left = h.rnd.IntN(40)
			if h.rnd.IntN(5) == 0 {
				h.disk.left = 1000
			}
			var err error
			for steps := 0; err == nil && steps < 60; steps++ {
				err = h.step(t.Context())
			}
			if err != nil && !errors.Is(err, errPower) {
				t.Fatalf("seed %d: %v", n, err)
			}
			crashes++
			h.disk.die(h.rnd.IntN(4) > 0)
			if h.rnd.IntN(3) == 0 { // and once more while it is opened
				h.disk.left = h.rnd.IntN(4)
				if err := h.open(); err != nil && !errors.Is(err, errPower) {
					t.Fatalf("seed %d: %v", n, err)
				}
				h.disk.die(true)
			}
			if err := h.open(); err != nil {
				t.Fatalf("seed %d: %v", n, err)
			}
			for i, f := range h.files {
				size, _ := f.Size()
				got := make([]byte, size)
				if _, err := f.ReadAt(t.Context(), got, 0); err != nil {
					t.Fatalf("seed %d: %v", n, err)
				}
				if err := h.models[i].after(got); err != nil {
					t.Fatalf("seed %d (repeat it with -layer.seed): %v", n, err)
				}
			}
		}
	}
	t.Logf("%d crashes", crashes)
}

// A source that fails is an error of the read, and nothing else; when it is back the same read succeeds.
func TestFailureIsNoContent(t *testing.T) {
	h := newHistory(t, 1)
	gone := errors.New("the store is gone")
	h.source.fail = gone
	b := make([]byte, 3*PageSize)
	f := h.files[0]
	if _, err := f.ReadAt(t.Context(), b, PageSize/2); !errors.Is(err, gone) {
		t.Fatalf("read while the source is gone: %v", err)
	}
	if _, err := f.WriteAt(t.Context(), b[:10], 5); !errors.Is(err, gone) {
		t.Fatalf("write of a part of a page while the source is gone: %v", err)
	}
	if _, err := f.WriteAt(t.Context(), b[:PageSize], PageSize); err != nil {
		t.Fatalf("write of a whole page while the source is gone: %v", err)
	}
	h.source.fail = nil
	if _, err := f.ReadAt(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	want := content(f.Ident())[:3*PageSize]
	clear(want[PageSize : 2*PageSize])
	if !bytes.Equal(b, want) {
		t.Error("what was read is not what is there")
	}
	if n := bits.OnesCount64(f.Missing(0)); n > PagesPerChunk-3 {
		t.Errorf("%d pages are missing", n)
	}
}
