package repo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// pageOf returns a page that says which one it is.
func pageOf(n uint64) []byte {
	b := make([]byte, PageSize)
	for i := range PageSize / 8 {
		binary.LittleEndian.PutUint64(b[8*i:], n*1_000_003+uint64(i%7))
	}
	return b
}

// patcher writes snapshots of one file, each patched over the one before.
type patcher struct {
	t     *testing.T
	rnd   *rand.Rand
	pages uint64 // made so far
	most  int    // pages in one unit
	codec Codec  // nil: none
}

// sparse is a codec that decodes the groups that it is asked for.
type sparse struct{ skipped *atomic.Int64 }

func (sparse) ID() byte { return 200 }

func (s sparse) Encode(dst, src []byte) (out []byte, head int, ok bool) {
	if len(src)%PageSize != 0 {
		return dst, 0, false
	}
	for group := range slices.Chunk(src, seal.GroupSize) {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(group)))
	}
	for _, b := range src {
		dst = append(dst, b^0x5A)
	}
	return dst, s.head(len(src)), true
}

func (sparse) head(size int) int { return (size + seal.GroupSize - 1) / seal.GroupSize * 4 }

func (s sparse) Groups(lengths []int, head []byte, size int) ([]int, error) {
	if len(head) != s.head(size) {
		return nil, errors.New("another head")
	}
	for ; len(head) > 0; head = head[4:] {
		lengths = append(lengths, int(binary.LittleEndian.Uint32(head)))
	}
	return lengths, nil
}

func (s sparse) Decode(dst, src []byte, size int, want uint64) ([]byte, error) {
	if len(src) != s.head(size)+bytesIn(want, size) {
		return dst, errors.New("another length")
	}
	s.skipped.Add(int64(size - bytesIn(want, size)))
	for _, b := range src[s.head(size):] {
		dst = append(dst, b^0x5A)
	}
	return dst, nil
}

// content returns n new pages.
func (p *patcher) content(n int) (b []byte) {
	for range n {
		p.pages++
		b = append(b, pageOf(p.pages)...)
	}
	return b
}

// list stores the difference of a part to base, whose content is old: in whole chunks where the dice say so, and in pages.
func (p *patcher) list(w *Writer, lane *Lane, base *FilePart, old, now []byte) FileList {
	p.t.Helper()
	whole, patches := map[int]seal.ChunkID{}, []PagePatch(nil)
	var changed []int
	for c := 0; c*Grid < len(now); c++ {
		all := p.rnd.IntN(8) == 0
		for at := c * Grid; at < min((c+1)*Grid, len(now)); at += PageSize {
			end := min(at+PageSize, len(now))
			if end > len(old) || !bytes.Equal(old[at:end], now[at:end]) {
				if all {
					whole[c] = must(lane.Save(p.t.Context(), now[c*Grid:min((c+1)*Grid, len(now))], p.codec))
					break
				}
				changed = append(changed, at/PageSize)
			}
		}
	}
	p.rnd.Shuffle(len(changed), func(i, j int) { changed[i], changed[j] = changed[j], changed[i] })
	for len(changed) > 0 {
		n := min(1+p.rnd.IntN(p.most), len(changed))
		var unit []byte
		for _, page := range changed[:n] {
			b := make([]byte, PageSize)
			copy(b, now[page*PageSize:])
			unit = append(unit, b...)
		}
		id := must(lane.Save(p.t.Context(), unit, p.codec))
		for slot, page := range changed[:n] {
			patches = append(patches, PagePatch{uint16(page), id, uint8(n), uint8(slot)})
		}
		changed = changed[n:]
	}
	l, err := w.PatchPart(p.t.Context(), base, whole, patches, int64(len(now)))
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

// snapshot stores a file of parts; old is nil, or what prev has.
func (p *patcher) snapshot(r *Repository, prev *Manifest, old, now []byte) *Manifest {
	p.t.Helper()
	w, err := r.Begin(p.t.Context(), "orders-db", DefaultGroup)
	if err != nil {
		p.t.Fatal(err)
	}
	defer w.Close(p.t.Context()) //nolint:errcheck // the error of interest is another
	rd := r.Reader()
	before := &Entry{Type: TypeFile}
	if prev != nil {
		if ok, err := w.MayCarry(p.t.Context(), prev); !ok || err != nil {
			p.t.Fatalf("MayCarry: %v, %v", ok, err)
		}
		if before, err = rd.Lookup(p.t.Context(), must(prev.RootID()), "rel"); err != nil {
			p.t.Fatal(err)
		}
	}
	e, lane := &Entry{Type: TypeFile, Mode: 0o600}, w.Lane()
	var lists []FileList
	const size = ListLen * Grid
	for n := range ListCount(int64(len(now))) {
		var base *FilePart
		from, to := n*size, min((n+1)*size, len(now))
		if n < ListCount(before.Size) {
			if base, err = rd.FilePart(p.t.Context(), before, n); err != nil {
				p.t.Fatal(err)
			}
		}
		lists = append(lists, p.list(w, lane, base, old[min(from, len(old)):min((n+1)*size, len(old))], now[from:to]))
	}
	e.SetContent(int64(len(now)), lists)
	m := &Manifest{}
	if err := w.EditTree(p.t.Context(), prev, []TreeEdit{{Path: "rel", Entry: e}}, m); err != nil {
		p.t.Fatal(err)
	}
	if err := w.Commit(p.t.Context(), m); err != nil {
		p.t.Fatal(err)
	}
	return m
}

// change returns content that differs from old here and there, and perhaps in length.
func (p *patcher) change(old []byte) []byte {
	now := slices.Clone(old)
	for range 1 + p.rnd.IntN(1<<p.rnd.IntN(7)) {
		if pages := len(now) / PageSize; pages > 0 {
			copy(now[p.rnd.IntN(pages)*PageSize:], p.content(1))
		}
	}
	switch p.rnd.IntN(6) {
	case 0:
		now = append(now, p.content(1+p.rnd.IntN(150))...)
	case 1:
		now = now[:1+p.rnd.IntN(len(now))] // not a multiple of a page
	case 2:
		now = now[:PageSize*(1+p.rnd.IntN(pagesOf(int64(len(now)))))%(len(now)+1)]
	}
	if len(now) == 0 {
		return p.content(1)
	}
	return now
}

// wantPart reads a part in several ways.
func (p *patcher) wantPart(r *Repository, m *Manifest, want []byte) {
	p.t.Helper()
	rd := r.Reader()
	e, err := rd.Lookup(p.t.Context(), must(m.RootID()), "rel")
	if err != nil {
		p.t.Fatal(err)
	}
	if p.rnd.IntN(2) == 0 {
		rd.Into(make([]byte, Grid))
	}
	part, err := rd.FilePart(p.t.Context(), e, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	some := slices.DeleteFunc(allChunks(part), func(int) bool { return p.rnd.IntN(3) == 0 })
	got := 0
	err = rd.Part(p.t.Context(), part, some, func(c int, plain []byte) error {
		if c != some[got] || !bytes.Equal(plain, want[c*Grid:min((c+1)*Grid, len(want))]) {
			p.t.Fatalf("chunk %d, the %dth, differs", c, got)
		}
		if id, ok := part.Whole(c); ok && r.keys.ChunkID(string(DefaultGroup), plain) != id {
			p.t.Fatalf("chunk %d is not the whole one", c)
		}
		got++
		return nil
	}, nil)
	if err != nil || got != len(some) {
		p.t.Fatalf("read %d of %d chunks: %v", got, len(some), err)
	}
	var pages []uint16
	for n := range part.pages() {
		if p.rnd.IntN(3) == 0 {
			pages = append(pages, uint16(n))
		}
	}
	got = 0
	err = rd.Pages(p.t.Context(), part, pages, func(n uint16, plain []byte) error {
		if at := int(n) * PageSize; n != pages[got] || !bytes.Equal(plain, want[at:min(at+PageSize, len(want))]) {
			p.t.Fatalf("page %d differs", n)
		}
		got++
		return nil
	})
	if err != nil || got != len(pages) {
		p.t.Fatalf("read %d of %d pages: %v", got, len(pages), err)
	}
}

// Files that are patched again and again read as they were written, also when a collection has removed what it may.
func TestPatchedFilesReadAsWritten(t *testing.T) {
	t.Parallel()
	var skipped atomic.Int64 // bytes of groups that nobody wanted
	t.Cleanup(func() {
		if skipped.Load() == 0 {
			t.Error("no group of any chunk was left out")
		}
	})
	for n := range 6 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			p := &patcher{t: t, rnd: rand.New(rand.NewPCG(seed, 1))}
			p.most = 1 << p.rnd.IntN(7)
			st := storetest.NewMemory()
			r := newRepository(t, st)
			if n < 5 {
				p.codec = sparse{&skipped}
				r.codecs[p.codec.ID()] = p.codec
			}
			r.limits.smallTable = 100 << p.rnd.IntN(6)
			now := p.content(1 + p.rnd.IntN(5*chunkPages))
			m := p.snapshot(r, nil, nil, now)
			kinds := map[string]int{}
			for range 25 {
				next := p.change(now)
				after := p.snapshot(r, m, now, next)
				if p.rnd.IntN(3) > 0 {
					if err := r.Forget(t.Context(), "orders-db", m.ID); err != nil {
						t.Fatal(err)
					}
				} else {
					wantFiles(t, r, m, files{"rel": now})
				}
				m, now = after, next
				if p.rnd.IntN(5) == 0 {
					mustCollect(t, r, CollectOptions{MinLive: 0.9})
				}
				kinds[kindOfPart(t, r, m)]++
				p.wantPart(r, m, now)
			}
			wantFiles(t, reopen(t, st), m, files{"rel": now})
			wantClean(t, st)
			t.Log(kinds)
		})
	}
}

func kindOfPart(t *testing.T, r *Repository, m *Manifest) string {
	t.Helper()
	rd := r.Reader()
	e, err := rd.Lookup(t.Context(), must(m.RootID()), "rel")
	if err != nil {
		t.Fatal(err)
	}
	p, err := rd.FilePart(t.Context(), e, 0)
	switch {
	case err != nil:
		t.Fatal(err)
	case p.patched == nil:
		return "plain"
	case p.patched.mask != chunkMask{}:
		return "masked"
	case p.older != nil:
		return "with an older table"
	case p.patched.base == seal.ChunkID{}:
		return "without a base"
	}
	return "patched"
}

// What a snapshot writes of lists is about what changed, however much was patched before.
func TestPatchesCostWhatChanged(t *testing.T) {
	t.Parallel()
	unit := func(n int) seal.ChunkID { return seal.ChunkID{byte(n), byte(n >> 8), byte(n >> 16), 1} }
	base := &FilePart{length: ListLen * Grid, chunks: someIDs(ListLen)}
	rnd := rand.New(rand.NewPCG(1, 1))
	written, added := 0, 0
	const rounds = 1000
	for n := range rounds {
		var patches []PagePatch
		for slot := range 10 {
			patches = append(patches, PagePatch{uint16(rnd.IntN(partPages)), unit(n), 10, uint8(slot)})
		}
		sortPatches(patches)
		patches = slices.CompactFunc(patches, func(a, b PagePatch) bool { return a.Page == b.Page })
		plan, err := planPatch(base, nil, patches, base.length, defaultLimits.smallTable)
		if err != nil {
			t.Fatal(err)
		}
		added += len(appendTable(nil, patches))
		written += len(plan.list.marshal())
		next := &FilePart{length: base.length, chunks: base.chunks, patched: &plan.list, older: base.older}
		if plan.older != nil {
			written += len(marshalOlder(plan.older))
			next.older, plan.list.older = plan.older, seal.ChunkID{1}
		} else if plan.list.older == (seal.ChunkID{}) {
			next.older = nil
		}
		next.patches = plan.list.winners(next.older, partPages)
		base = next
	}
	if each := written / rounds; each > patchedHead+defaultLimits.smallTable+10*added/rounds {
		t.Errorf("%d bytes of lists are written for %d bytes of patches", each, added/rounds)
	}
	if pages, live := base.Units(); pages < live || live > partPages || len(base.older) < partPages/4 {
		t.Errorf("%d pages in units, %d live, %d in the older table", pages, live, len(base.older))
	}
}

func TestPatchPartRefuses(t *testing.T) {
	t.Parallel()
	ids := someIDs(4)
	base := &FilePart{length: Grid + 3*PageSize, chunks: ids[:2]}
	one := func(page int) PagePatch { return PagePatch{uint16(page), ids[3], 4, 0} }
	for name, c := range map[string]struct {
		base    *FilePart
		whole   map[int]seal.ChunkID
		patches []PagePatch
		length  int64
	}{
		"nothing is left":        {base: base},
		"too long":               {base: base, length: ListLen*Grid + 1},
		"a page behind the end":  {base: base, patches: []PagePatch{one(67)}, length: base.length},
		"a page twice":           {base: base, patches: []PagePatch{one(1), one(1)}, length: base.length},
		"page and chunk":         {base: base, patches: []PagePatch{one(1)}, whole: map[int]seal.ChunkID{0: ids[2]}, length: base.length},
		"no unit":                {base: base, patches: []PagePatch{{Page: 1, UnitPages: 1}}, length: base.length},
		"a slot too many":        {base: base, patches: []PagePatch{{1, ids[3], 4, 4}}, length: base.length},
		"a unit too large":       {base: base, patches: []PagePatch{{1, ids[3], 65, 4}}, length: base.length},
		"two sizes of a unit":    {base: base, patches: []PagePatch{one(1), {2, ids[3], 5, 0}}, length: base.length},
		"a chunk behind the end": {base: base, whole: map[int]seal.ChunkID{2: ids[2]}, length: base.length},
		"no chunk":               {base: base, whole: map[int]seal.ChunkID{1: {}}, length: base.length},
		"a new page is missing":  {base: base, patches: []PagePatch{one(67), one(69)}, length: Grid + 6*PageSize},
		"the last is missing":    {base: base, patches: []PagePatch{one(67)}, length: Grid + 5*PageSize},
		"the first is missing":   {patches: []PagePatch{one(1)}, length: 2 * PageSize},
		"a chunk is missing":     {base: base, whole: map[int]seal.ChunkID{1: ids[2], 3: ids[3]}, length: 4 * Grid},
		"half a page is new":     {base: &FilePart{length: 100, chunks: ids[:1]}, length: 200},
	} {
		if plan, err := planPatch(c.base.orEmpty(), c.whole, c.patches, c.length, 0); err == nil {
			t.Errorf("%s: planned %+v", name, plan)
		}
	}
	good, err := planPatch(base, map[int]seal.ChunkID{1: ids[2], 2: ids[3]}, []PagePatch{one(192)}, 3*Grid+PageSize, defaultLimits.smallTable)
	if err != nil || len(good.chunks) != 3 || len(good.list.recent) != 1 {
		t.Errorf("planned %+v, %v", good, err)
	}
}

func (p *FilePart) orEmpty() *FilePart {
	if p == nil {
		return &FilePart{}
	}
	return p
}

// Every pack is lost once, and damaged once: chunks that need something in it are skipped, the others are read as they
// were, and the check says so too.
func TestPatchedFilesAroundDamage(t *testing.T) {
	t.Parallel()
	p := &patcher{t: t, rnd: rand.New(rand.NewPCG(5, 1)), most: 8}
	st := storetest.NewMemory()
	r := newRepository(t, st)
	r.opts.PackBytes = 200 // a chunk each, or two
	first := p.content(2*chunkPages + 9)
	m := p.snapshot(r, nil, nil, first)
	now := first
	for range 3 {
		next := slices.Clone(now)
		for range 6 {
			copy(next[p.rnd.IntN(len(next)/PageSize)*PageSize:], p.content(1))
		}
		m, now = p.snapshot(r, m, now, next), next
	}
	partial, unneeded := 0, 0
	for _, name := range st.Names() {
		if kindOf(name) != "packs" {
			continue
		}
		for _, how := range []func([]byte) []byte{func([]byte) []byte { return nil }, func(b []byte) []byte { b[len(b)/3] ^= 1; return b }} {
			broken, err := openAgain(t, change(t, st, name, how))
			if err != nil {
				t.Fatal(err)
			}
			read, lost := readAround(t, broken, m, now)
			if lost < 0 {
				continue // of the tree, or of a list
			}
			if read > 0 && lost > 0 {
				partial++
			}
			rep := check(t, broken, CheckOptions{ReadData: true})
			blamed := slices.ContainsFunc(rep.Problems, func(x Problem) bool {
				return x.Object == name && slices.Contains(x.Paths, "rel") && slices.Contains(x.Snapshots, "orders-db "+string(m.ID))
			})
			// The check also wants what lies under patches alone.
			if lost > 0 && !blamed {
				t.Errorf("%d chunks are lost with %s, and the check finds %+v", lost, name, rep.Problems)
			}
			if lost == 0 && blamed {
				unneeded++
			}
		}
	}
	if partial < 10 || unneeded > 4 {
		t.Errorf("%d packs cost a part of the file, and %d nothing: the test tests little", partial, unneeded)
	}
}

// readAround reads all chunks that can be read, and wants them to be right. A negative number of lost ones is all.
func readAround(t *testing.T, r *Repository, m *Manifest, want []byte) (read, lost int) {
	t.Helper()
	rd := r.Reader()
	e, err := rd.Lookup(t.Context(), must(m.RootID()), "rel")
	if err != nil {
		return 0, -1
	}
	part, err := rd.FilePart(t.Context(), e, 0)
	if err != nil {
		return 0, -1
	}
	seen := map[int]bool{}
	err = rd.Part(t.Context(), part, allChunks(part), func(c int, plain []byte) error {
		if !bytes.Equal(plain, want[c*Grid:min((c+1)*Grid, len(want))]) {
			t.Errorf("chunk %d differs, and nobody says so", c)
		}
		seen[c] = true
		read++
		return nil
	}, func(c int, _ error) error {
		seen[c] = true
		lost++
		return nil
	})
	if err != nil || len(seen) != part.Len() {
		t.Errorf("chunks %v of %d, %v", slices.Sorted(maps.Keys(seen)), part.Len(), err)
	}
	return read, lost
}
