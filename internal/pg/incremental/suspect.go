package incremental

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

// suspect is a block of the image that may be wrong, until the log decides (doc.go).
type suspect struct {
	id    blockID
	path  string
	kind  Kind
	lsn   wal.LSN // of the page in the image
	empty bool    // that page is all zero
	cut   int     // Resurrected: the backup in which the file ended before the block

	heap      []uint32 // StaleVisibility: heap blocks, the first of them
	heapCount int
	pastEnd   bool // they do not exist
	doubt     bool // of a map: a changed heap page has bits in it

	last     wal.LSN // end of the last record before the backup's start that refers to it, and is behind any truncation
	cutOff   bool    // a truncation took it away after the record before
	about    wal.LSN // where the log changed it
	restored bool    // by replay from the backup's start to its end
}

// blockID names a block.
type blockID struct {
	fork  changed.Fork
	block uint32
}

// maxSuspects bounds their memory, some 200 bytes each.
const maxSuspects = 1 << 18

// suspect notes a suspect, or adds to what is known of it: what is proven counts more than what is missing.
func (w *step) suspect(seg *segment, block uint32, s suspect) *suspect {
	s.id, s.path = blockID{seg.fork, block}, seg.path
	known := w.suspects[s.id]
	if known == nil {
		if len(w.suspects) >= maxSuspects {
			if !w.dropped {
				w.gap("more than %d suspicious blocks of %s", maxSuspects, w.b.dir)
				w.dropped = true
			}
			return &s
		}
		w.suspects[s.id] = &s
		return &s
	}
	if known.kind == MissingBlock {
		known.kind, known.cut = s.kind, s.cut
	}
	known.lsn, known.empty = s.lsn, s.empty
	known.doubt, known.pastEnd = known.doubt || s.doubt, known.pastEnd || s.pastEnd
	return known
}

// doubtVM notes that a block of a map has bits of a heap page that the log changed.
func (w *step) doubtVM(vm *segment, block uint32) {
	if s := w.suspects[blockID{vm.fork, block}]; s != nil {
		s.doubt = true
	} else if w.changes[w.k].Lookup(vm.fork).Has(block) {
		w.suspect(vm, block, suspect{kind: MissingBlock, doubt: true})
	}
}

// resolve asks the log about the suspects, and reports what is left.
func (w *step) resolve(ctx context.Context) error {
	if len(w.suspects) == 0 {
		return nil
	}
	if w.changes[w.k] != nil {
		forks := map[changed.Fork]bool{}
		for id := range w.suspects {
			forks[id.fork] = true
		}
		err := w.logs.records(ctx, w.spans[w.k].changes, func(r *record.Record) {
			w.cutOff(r, forks)
			for i := range r.Blocks {
				if s := w.suspects[idOf(&r.Blocks[i])]; s != nil {
					s.last, s.about, s.cutOff = r.End, r.Start, false
				}
			}
		})
		if err != nil {
			return err
		}
	}
	if err := w.markRestored(ctx, w.k, w.suspects); err != nil {
		return err
	}
	if err := w.locate(ctx); err != nil {
		return err
	}
	w.reportSuspects()
	return nil
}

// cutOff forgets what was logged of blocks that a truncation takes away (catalog/storage_xlog.h, xl_smgr_truncate).
func (w *step) cutOff(r *record.Record, forks map[changed.Fork]bool) {
	const truncate, heap = 0x20, 1
	if r.Rmgr != record.Storage || r.Info&0xF0 != truncate || len(r.Data) < 20 || r.Data[16]&heap == 0 {
		return
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(r.Data[4*i:]) }
	f := changed.Fork{Tablespace: word(1), Database: word(2), Relation: word(3)}
	if !forks[f] {
		return
	}
	for id, s := range w.suspects {
		if id.fork == f && id.block >= word(0) {
			s.last, s.about, s.cutOff = 0, r.Start, true
		}
	}
}

func idOf(b *record.Block) blockID {
	return blockID{changed.Fork{Tablespace: b.Tablespace, Database: b.Database, Relation: b.Relation, Fork: cluster.Fork(b.Fork)}, b.Number}
}

// markRestored marks what the replay of a backup makes right before anybody reads it.
func (a *audit) markRestored(ctx context.Context, k int, suspects map[blockID]*suspect) error {
	m := a.replay[k]
	if m == nil || len(suspects) == 0 {
		return nil
	}
	for id, s := range suspects {
		s.restored = id.block >= m.Lookup(id.fork).Limit // cut off, and what comes back comes from the log
	}
	const consistency = 0x02 // XLR_CHECK_CONSISTENCY: replay compares such an image and does not apply it
	return a.logs.records(ctx, a.spans[k].replay, func(r *record.Record) {
		for i := range r.Blocks {
			b := &r.Blocks[i]
			if s := suspects[idOf(b)]; s != nil && (b.Image && r.Info&consistency == 0 || b.Init) {
				s.restored = true
			}
		}
	})
}

// locate finds where the log changed the blocks to which no record refers, for some of them.
func (w *step) locate(ctx context.Context) error {
	var open []*suspect
	for _, s := range w.suspects {
		if s.about == 0 && !s.restored && len(open) < 256 {
			open = append(open, s)
		}
	}
	if len(open) == 0 || w.changes[w.k] == nil {
		return nil
	}
	return w.logs.pieces(ctx, w.spans[w.k].changes, func(m *changed.Map) {
		for _, s := range open {
			if m.Lookup(s.id.fork).Has(s.id.block) {
				s.about = m.Start
			}
		}
	})
}

// verdict says whether a suspect is a finding.
func (w *step) verdict(s *suspect) (f Finding, guilty bool) {
	f = Finding{Kind: s.kind, Proof: w.replay[w.k] != nil, Backup: w.b.dir, Path: s.path, LSN: s.about, Problem: missedBlock}
	limited := false
	if m := w.changes[w.k]; m != nil {
		limited = m.Lookup(s.id.fork).Limit != changed.NoLimit
		f.Proof = f.Proof && !doubtful(w.replay[w.k])
	}
	isVM := s.id.fork.Fork == cluster.VM
	switch {
	case s.restored:
		w.report.Restored++
		return f, false
	case s.kind == StaleVisibility:
		f.Problem, f.Reason = vmClear, s.staleReason()
		if s.pastEnd {
			f.Problem = vmTruncation
		}
	case s.kind == Resurrected:
		f.Problem = regrown
		f.Reason = fmt.Sprintf("the file ended before it in %s, and the image takes the page from an older backup (LSN %s)", w.backups[s.cut].dir, s.lsn)
	case s.last != 0 && w.logs.size.BeforeHeader(s.lsn) >= w.logs.size.BeforeHeader(s.last):
		return f, false // the older backup copied it after its last change
	case s.last != 0:
		f.Reason = fmt.Sprintf("the log changed it before the backup's start, the backup does not carry it, and the image has an older version (LSN %s)", s.lsn)
		if w.backups[w.k].label.Timeline != w.backups[w.k-1].label.Timeline {
			f.Problem = summaryReach
		}
	case isVM && !s.doubt: // no changed heap page has a bit in it: the older copy was made after the change
		return f, false
	case isVM:
		f.Proof, f.Problem = false, vmClear
		if limited {
			f.Problem = vmTruncation
		}
		f.Reason = "the log cleared bits in this block of the map, and the backup does not carry it; of the bits that the image has for changed heap pages nothing can be proven"
	case s.empty: // past a truncation and never written: as on the server
		return f, false
	default:
		f.Problem = regrown
		if !limited && !s.cutOff {
			f.Problem = missedBlock
		}
		f.Reason = fmt.Sprintf("the relation was cut off before it and grew again without it being logged: it is zeros on the server, and the image has a page with LSN %s", s.lsn)
	}
	return f, true
}
