package incremental

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/pg/page"
)

// Each damage is found and named. The manifest agrees with it, except where it is what finds it.
func TestDamageIsFound(t *testing.T) {
	for _, v := range versions(t) {
		t.Run(v, func(t *testing.T) {
			s := startServer(t, v, true)
			c := makeChain(t, s)
			table := relation(t, s, "t")
			for _, d := range []struct {
				name   string
				damage func(t *testing.T, c *chain)
				kind   Kind
				proof  bool
				path   string
				noLog  Kind // what is found without the log; empty: the same
			}{
				{"a block is missing", func(t *testing.T, c *chain) { dropBlock(t, c.dirs[2], partial(table)) }, MissingBlock, true, table, "-"},
				{"a block of the first increment is missing", func(t *testing.T, c *chain) { dropBlock(t, c.dirs[1], partial(table)) }, MissingBlock, true, table, "-"},
				{"a byte is flipped", func(t *testing.T, c *chain) { flip(t, c.dirs[2], partial(table), -100) }, BadPage, true, table, ""},
				{"a byte of the full backup is flipped", func(t *testing.T, c *chain) { flip(t, c.dirs[0], table, 5*page.Size-100) }, BadPage, true, table, ""},
				{"a flipped byte, by the manifest", func(t *testing.T, c *chain) { flipUnsealed(t, c.dirs[1], partial(table), -100) }, BadFile, true, partial(table), ""},
				{"a cut file", func(t *testing.T, c *chain) { cut(t, c.dirs[2], partial(table), page.Size) }, BadIncrement, true, partial(table), ""},
				{"a cut header", func(t *testing.T, c *chain) { cut(t, c.dirs[1], partial(table), 1<<30) }, BadIncrement, true, partial(table), ""},
				{"a cut file, by the manifest", func(t *testing.T, c *chain) { truncate(t, c.dirs[0], "PG_VERSION", 1) }, BadFile, true, "PG_VERSION", ""},
				{"a short whole file", func(t *testing.T, c *chain) { truncate(t, c.dirs[0], table, 30*page.Size) }, BadFile, true, table, ""},
				{"the length is below a carried block", func(t *testing.T, c *chain) { setLength(t, c.dirs[2], partial(table), 20) }, BadLength, true, table, ""},
				{"the length is a little lower", func(t *testing.T, c *chain) { lowerLength(t, c.dirs[2], partial(table)) }, BadLength, true, table, "-"},
				{"the length is impossible", func(t *testing.T, c *chain) { setLength(t, c.dirs[2], partial(table), 1<<20) }, BadIncrement, true, partial(table), ""},
				{"swapped", func(_ *testing.T, c *chain) { c.dirs[1], c.dirs[2] = c.dirs[2], c.dirs[1] }, BadChain, true, "", ""},
				{"one is left out", func(_ *testing.T, c *chain) { c.dirs = []string{c.dirs[0], c.dirs[2]} }, BadChain, true, "", ""},
				{"the full one is left out", func(_ *testing.T, c *chain) { c.dirs = c.dirs[1:] }, BadChain, true, "", ""},
				{"a file is gone", func(t *testing.T, c *chain) { remove(t, c.dirs[2], partial(table)) }, MissingFile, true, table, BadFile},
				{"the source is gone", func(t *testing.T, c *chain) { remove(t, c.dirs[0], table) }, NoSource, true, partial(table), ""},
				{"a file that nobody knows", func(t *testing.T, c *chain) { write(t, c.dirs[1], "base/5/99999", nil) }, BadFile, false, "base/5/99999", ""},
				{"a manifest is changed", func(t *testing.T, c *chain) { flipUnsealed(t, c.dirs[1], manifestName, 200) }, BadManifest, true, manifestName, ""},
				{"an older page", func(t *testing.T, c *chain) { swapPage(t, c, table) }, OldPage, true, table, ""},
			} {
				t.Run(d.name, func(t *testing.T) {
					c := c.clone(t)
					d.damage(t, &c)
					expect(t, c.audit(t, true), d.kind, d.proof, d.path)
					switch d.noLog {
					case "":
						expect(t, c.audit(t, false), d.kind, d.proof, d.path)
					case "-": // only the log tells
					default:
						expect(t, c.audit(t, false), d.noLog, true, "")
					}
				})
			}
			t.Run("the right order is named", func(t *testing.T) {
				r := run(t, Options{Backups: []string{c.dirs[2], c.dirs[0], c.dirs[1]}})
				want := "in this order they are a chain: " + strings.Join(c.dirs, " ")
				if !strings.Contains(text(r.Findings), want) {
					t.Errorf("%q is not in\n%s", want, text(r.Findings))
				}
			})
		})
	}
}

func expect(t *testing.T, r *Report, kind Kind, proof bool, path string) {
	t.Helper()
	if !slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return f.Kind == kind && f.Proof == proof && (path == "" || f.Path == path)
	}) {
		t.Errorf("no finding %s of %s (proof %v) in:\n%s", kind, path, proof, text(r.Findings))
	}
}

func edit(t *testing.T, dir, path string, fn func([]byte) []byte) {
	t.Helper()
	name := filepath.Join(dir, path)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, path, fn(b))
}

func write(t *testing.T, dir, path string, b []byte) {
	t.Helper()
	replace(t, filepath.Join(dir, path), b)
}

// replace writes a file anew: clones of a chain share their files.
func replace(t *testing.T, name string, b []byte) {
	t.Helper()
	err := os.WriteFile(name+".new", b, 0o600)
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func headerOf(t *testing.T, b []byte) header {
	t.Helper()
	h, err := readHeader(strings.NewReader(string(b)), 131072)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// encode writes an INCREMENTAL file of a header and the pages of its blocks.
func encode(h header, pages []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, magic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h.blocks)))
	b = binary.LittleEndian.AppendUint32(b, h.length)
	for _, block := range h.blocks {
		b = binary.LittleEndian.AppendUint32(b, block)
	}
	return append(append(b, make([]byte, h.size()-int64(len(b)))...), pages...)
}

// dropBlock takes the first carried block out of an INCREMENTAL file.
func dropBlock(t *testing.T, dir, path string) {
	t.Helper()
	edit(t, dir, path, func(b []byte) []byte {
		h := headerOf(t, b)
		if len(h.blocks) < 2 {
			t.Fatalf("%s carries only %v", path, h.blocks)
		}
		pages := b[h.size()+page.Size:]
		h.blocks = h.blocks[1:]
		return encode(h, pages)
	})
	reseal(t, dir, path)
}

func flipUnsealed(t *testing.T, dir, path string, at int) {
	t.Helper()
	edit(t, dir, path, func(b []byte) []byte {
		b[(at+len(b))%len(b)] ^= 0x10
		return b
	})
}

func flip(t *testing.T, dir, path string, at int) {
	t.Helper()
	flipUnsealed(t, dir, path, at)
	reseal(t, dir, path)
}

func truncate(t *testing.T, dir, path string, n int) {
	t.Helper()
	edit(t, dir, path, func(b []byte) []byte { return b[:max(len(b)-n, 10*min(1, len(b)/11))] })
}

func cut(t *testing.T, dir, path string, n int) {
	t.Helper()
	truncate(t, dir, path, n)
	reseal(t, dir, path)
}

func setLength(t *testing.T, dir, path string, n uint32) {
	t.Helper()
	edit(t, dir, path, func(b []byte) []byte {
		binary.LittleEndian.PutUint32(b[8:], n)
		return b
	})
	reseal(t, dir, path)
}

// lowerLength makes the file end behind its last carried block.
func lowerLength(t *testing.T, dir, path string) {
	t.Helper()
	edit(t, dir, path, func(b []byte) []byte {
		h := headerOf(t, b)
		// What lies behind must not be carried.
		for len(h.blocks) > 0 && h.blocks[len(h.blocks)-1] >= h.length-2 {
			b = encode(header{h.blocks[:len(h.blocks)-1], h.length}, b[h.size():len(b)-page.Size])
			h = headerOf(t, b)
		}
		binary.LittleEndian.PutUint32(b[8:], h.length-2)
		return b
	})
	reseal(t, dir, path)
}

func remove(t *testing.T, dir, path string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, path)); err != nil {
		t.Fatal(err)
	}
}

// swapPage puts a page of the second increment into the first one, and the other way round.
func swapPage(t *testing.T, c *chain, table string) {
	t.Helper()
	at := func(dir string) (header, int) {
		b, err := os.ReadFile(filepath.Join(dir, partial(table)))
		if err != nil {
			t.Fatal(err)
		}
		return headerOf(t, b), 0
	}
	h1, _ := at(c.dirs[1])
	h2, _ := at(c.dirs[2])
	for i, block := range h1.blocks {
		j, ok := h2.index(block)
		if !ok {
			continue
		}
		off1, off2 := h1.size()+int64(i)*page.Size, h2.size()+int64(j)*page.Size
		var p1, p2 []byte
		edit(t, c.dirs[1], partial(table), func(b []byte) []byte { p1 = slices.Clone(b[off1 : off1+page.Size]); return b })
		edit(t, c.dirs[2], partial(table), func(b []byte) []byte {
			p2 = slices.Clone(b[off2 : off2+page.Size])
			copy(b[off2:], p1)
			return b
		})
		edit(t, c.dirs[1], partial(table), func(b []byte) []byte { copy(b[off1:], p2); return b })
		reseal(t, c.dirs[1], partial(table))
		reseal(t, c.dirs[2], partial(table))
		return
	}
	t.Fatalf("no block is in both: %v, %v", h1.blocks, h2.blocks)
}
