package incremental

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
)

const (
	pageHeader  = 24                           // SizeOfPageHeaderData
	heapPerVM   = (page.Size - pageHeader) * 4 // heap blocks for which a block of the map has two bits each (visibilitymap.c)
	allVisible  = 0x0004                       // PD_ALL_VISIBLE of pd_flags (storage/bufpage.h)
	visibleBit  = 1                            // VISIBILITYMAP_ALL_VISIBLE
	maxVMBlocks = (1<<32 + heapPerVM - 1) / heapPerVM
)

// visibilityMap reads the map of a heap's segment in the image of a step.
type visibilityMap struct {
	seg   *segment
	block uint32 // the one in buf
	ready bool
	buf   []byte
}

// openVM returns the visibility map of a relation whose main fork seg is; nil where it has none that can be read.
func (w *step) openVM(seg *segment) *visibilityMap {
	if seg.rel.Fork != cluster.Main {
		return nil
	}
	p, rel := forkPath(seg.path, seg.rel, cluster.VM, 0)
	vm, err := w.openSegment(w.k, p, rel)
	if err != nil { // none, or named where it was read itself
		return nil
	}
	return &visibilityMap{seg: vm, buf: make([]byte, page.Size)}
}

func (v *visibilityMap) close() {
	if v != nil {
		v.seg.close()
	}
}

// bits returns the two bits of a heap block, and whether the map has that block at all.
func (v *visibilityMap) bits(heap uint32) (byte, bool, error) {
	block := heap / heapPerVM
	if block >= v.seg.length {
		return 0, false, nil
	}
	if !v.ready || v.block != block {
		if _, err := v.seg.page(block, v.buf); err != nil {
			return 0, false, err
		}
		v.block, v.ready = block, true
	}
	return bitsOf(v.buf, heap%heapPerVM), true, nil
}

func bitsOf(vm []byte, n uint32) byte { return vm[pageHeader+n/4] >> (n % 4 * 2) & 3 }

// visibility compares a page of a heap with its bits in the map; doc.go has the reasons.
func (w *step) visibility(v *visibilityMap, seg *segment, heap uint32, buf []byte) error {
	if v == nil {
		return nil
	}
	bits, ok, err := v.bits(heap)
	if err != nil || !ok || bits == 0 {
		return err
	}
	block := heap / heapPerVM
	m := w.changes[w.k]
	if m != nil && m.Lookup(seg.fork).Has(heap) && !v.seg.carried(block) {
		w.doubtVM(v.seg, block)
	}
	if bits&visibleBit == 0 || page.ReadHeader(buf).Flags&allVisible != 0 {
		return nil
	}
	start := w.b.label.StartLSN
	before := wal.LSN(page.LSN(buf)) < start
	if r := w.replay[w.k]; !before && r != nil && !doubtful(r) {
		before = !r.Lookup(v.seg.fork).Has(block)
	}
	if wal.LSN(page.LSN(v.buf)) < start && before {
		s := w.suspect(v.seg, block, suspect{kind: StaleVisibility, lsn: wal.LSN(page.LSN(v.buf))})
		s.addHeap(heap)
	}
	return nil
}

// pastEnd looks for bits of heap blocks that do not exist.
func (w *step) pastEnd(seg *segment) error {
	if seg.rel.Segment > 0 || seg.sources[0].head == nil || seg.length > maxVMBlocks {
		return nil
	}
	heap, err := w.heapLength(seg)
	if err != nil || heap == 0 {
		return err
	}
	main := seg.fork
	main.Fork = cluster.Main
	r := w.replay[w.k]
	sure := r != nil && !doubtful(r) && r.Lookup(main).Limit == changed.NoLimit && r.Lookup(seg.fork).Limit == changed.NoLimit
	buf := make([]byte, page.Size)
	for block := heap / heapPerVM; block < seg.length; block++ {
		if seg.carried(block) {
			continue
		}
		if _, err := seg.page(block, buf); err != nil {
			return err
		}
		first := uint32(0)
		if block == heap/heapPerVM {
			first = heap % heapPerVM
		}
		for n := first; n < heapPerVM; n++ {
			if bitsOf(buf, n) == 0 {
				continue
			}
			kind := MissingBlock
			if sure && wal.LSN(page.LSN(buf)) < w.b.label.StartLSN {
				kind = StaleVisibility
			}
			s := w.suspect(seg, block, suspect{kind: kind, lsn: wal.LSN(page.LSN(buf)), doubt: true, pastEnd: true})
			s.addHeap(block*heapPerVM + n)
		}
	}
	return nil
}

// heapLength returns how many blocks the heap has in the image to which a map belongs.
func (w *step) heapLength(vm *segment) (uint32, error) {
	var total uint32
	for n := uint32(0); ; n++ {
		p, rel := forkPath(vm.path, vm.rel, cluster.Main, n)
		seg, err := w.openSegment(w.k, p, rel)
		var bad *sourceError
		if errors.Is(err, fs.ErrNotExist) {
			return total, nil
		}
		if errors.As(err, &bad) { // named elsewhere
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		total = seg.first + seg.length
		seg.close()
		if seg.length < w.segmentBlocks {
			return total, nil
		}
	}
}

func (s *suspect) addHeap(block uint32) {
	if s.heapCount++; len(s.heap) < maxListed {
		s.heap = append(s.heap, block)
	}
}

// staleReason says what is wrong with a block of a map.
func (s *suspect) staleReason() string {
	if s.pastEnd {
		return fmt.Sprintf("the map has bits of %d heap blocks behind the heap's end (first: %d); a truncation before the backup's start cleared them", s.heapCount, s.heap[0])
	}
	return fmt.Sprintf("the map says that all rows of %d heap pages are visible (first: block %d), and those pages, changed before the backup's start, say that they are not", s.heapCount, s.heap[0])
}
