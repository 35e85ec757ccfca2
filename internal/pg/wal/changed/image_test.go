package changed

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

const (
	pageSize      = 8192
	segmentBlocks = 131072
)

// image is the content of all relations of a stopped server.
type image struct {
	control     control.Data
	hintsLogged bool
	forks       map[Fork][]byte
}

func takeImage(t testing.TB, s *pgtest.Server) *image {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.DataDir, control.Path))
	if err != nil {
		t.Fatal(err)
	}
	c, err := control.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	im := &image{control: c, hintsLogged: c.ChecksumVersion != 0, forks: map[Fork][]byte{}}
	roots := []string{"base", "global"}
	tablespaces, _ := filepath.Glob(filepath.Join(s.DataDir, "pg_tblspc", "*", "PG_*"))
	for _, dir := range tablespaces {
		rel, _ := filepath.Rel(s.DataDir, dir)
		roots = append(roots, rel)
	}
	for _, root := range roots {
		err := fs.WalkDir(os.DirFS(s.DataDir), root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			if r, ok := cluster.ParsePath(path); ok {
				return im.add(s.DataDir, path, r)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return im
}

func (im *image) add(dataDir, path string, r cluster.Relation) error {
	b, err := os.ReadFile(filepath.Join(dataDir, path))
	if err != nil {
		return err
	}
	f := Fork{r.Tablespace, r.Database, r.Number, r.Fork}
	at := int(r.FirstBlock(segmentBlocks)) * pageSize
	if have := im.forks[f]; len(have) < at+len(b) {
		im.forks[f] = append(have, make([]byte, at+len(b)-len(have))...)
	}
	copy(im.forks[f][at:], b)
	return nil
}

func (im *image) blocks(f Fork) uint32 { return uint32(len(im.forks[f]) / pageSize) }

func (im *image) page(f Fork, block uint32) []byte {
	return im.forks[f][int(block)*pageSize : int(block+1)*pageSize]
}

// logged tells whether the log is meant to describe a fork: not free space maps, nor what is unlogged.
func (im *image) logged(f Fork) bool {
	init := f
	init.Fork = cluster.Init
	_, unlogged := im.forks[init]
	return f.Fork == cluster.Init || f.Fork != cluster.FSM && !unlogged
}

// mapBetween reads the log from one clean stop to the next, in pieces that fit nothing.
func mapBetween(t testing.TB, s *pgtest.Server, from, to *image) *Map {
	t.Helper()
	d := newTestDecoder(t, from.control, from.control.Redo)
	feed(t, d, s.DataDir, from.control.Timeline, from.control.WALSegmentSize, to.control.Redo)
	m := d.Cut()
	if size := from.control.WALSegmentSize; m.Start != normal(from.control.Redo, size) || m.End != normal(to.control.Redo, size) {
		t.Fatalf("the map reaches from %s to %s, want %s to %s", m.Start, m.End, from.control.Redo, to.control.Redo)
	}
	return m
}

// normal is the page's start where a position is right behind a page's header.
func normal(l wal.LSN, size wal.SegmentSize) wal.LSN {
	page := l - l%wal.PageSize
	if page == size.Floor(l) && l-page == wal.LongHeaderSize || page != size.Floor(l) && l-page == wal.ShortHeaderSize {
		return page
	}
	return l
}

func newTestDecoder(t testing.TB, c control.Data, at wal.LSN) *Decoder {
	t.Helper()
	d, err := NewDecoder(record.Config{Start: at, Timeline: c.Timeline, SegmentSize: c.WALSegmentSize, SystemID: c.SystemID})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// feed hands over the log up to a position.
func feed(t testing.TB, d *Decoder, dataDir string, tl wal.TimelineID, size wal.SegmentSize, end wal.LSN) {
	t.Helper()
	for d.Next() < end {
		at := d.Next()
		name := wal.SegmentName(tl, size.Segment(at), size)
		b, err := os.ReadFile(filepath.Join(dataDir, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		b = b[at-size.Floor(at) : min(wal.LSN(len(b)), end-size.Floor(at))]
		for piece := range slices.Chunk(b, 50_001) {
			if _, err := d.Write(piece); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

// missed returns the pages that changed from one image to the other and of which the map does not know.
func missed(m *Map, from, to *image) []string {
	var out []string
	for f, b := range to.forks {
		c := m.Lookup(f)
		if !to.logged(f) {
			continue
		}
		if n := uint32(len(b) / pageSize); n < from.blocks(f) && c.Limit > n {
			out = append(out, fmt.Sprintf("%v: %d blocks became %d, the limit is %d", f, from.blocks(f), n, c.Limit))
		}
		for block := range min(to.blocks(f), from.blocks(f)) {
			if c.Has(block) {
				continue
			}
			was, is := from.page(f, block), to.page(f, block)
			if !bytes.Equal(was, is) && !bytes.Equal(masked(was, to.hintsLogged), masked(is, to.hintsLogged)) {
				out = append(out, fmt.Sprintf("%v block %d: LSN %X became %X, %s", f, block, pageLSN(was), pageLSN(is), firstDifference(was, is)))
			}
		}
	}
	slices.Sort(out)
	return out
}

func pageLSN(p []byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(p))<<32 | uint64(binary.LittleEndian.Uint32(p[4:]))
}

func firstDifference(a, b []byte) string {
	for i := range a {
		if a[i] != b[i] {
			end := min(i+16, len(a))
			return fmt.Sprintf("at byte %d: % X became % X", i, a[i:end], b[i:end])
		}
	}
	return "no difference"
}

// masked returns a page without what is never logged, and without what is logged only with checksums or
// wal_log_hints (bufmask.c and the mask functions of the access methods).
func masked(page []byte, hintsLogged bool) []byte {
	p := bytes.Clone(page)
	le := binary.LittleEndian
	lower, special := int(le.Uint16(p[12:])), int(le.Uint16(p[16:]))
	if lower < 24 || special > pageSize || special < lower {
		return p
	}
	clear(p[8:10])                                                                 // checksum
	if strings.HasSuffix(string(p), "\x82\xFF") && le.Uint16(p[special:])&1 != 0 { // SP-GiST's first page: the cache
		clear(p[24:special])
	}
	if hintsLogged {
		return p
	}
	p[10] &^= 0x03  // PD_HAS_FREE_LINES, PD_PAGE_FULL
	clear(p[20:24]) // pd_prune_xid
	for at := 24; at+4 <= lower; at += 4 {
		id := le.Uint32(p[at:])
		if special == pageSize { // heap: the tuples' hint bits
			if tuple := int(id & 0x7FFF); id>>15&3 == 1 && tuple+22 <= pageSize {
				p[tuple+21] &^= 0x0F
			}
			continue
		}
		le.PutUint32(p[at:], id&^(3<<15)) // index: killed entries
	}
	switch {
	case special == pageSize-16 && bytes.HasSuffix(p, []byte{0x80, 0xFF}): // hash
		p[special+12] &^= 0x80 // LH_PAGE_HAS_DEAD_TUPLES
	case special == pageSize-16 && bytes.HasSuffix(p, []byte{0x81, 0xFF}): // GiST
		p[special+12] &^= 0x10 // F_HAS_GARBAGE
	case special == pageSize-16: // B-tree
		p[special+12] &^= 0x40 // BTP_HAS_GARBAGE
		clear(p[special+14:])  // vacuum cycle
	}
	return p
}
