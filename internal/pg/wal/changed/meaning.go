package changed

import (
	"encoding/binary"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
)

// meanings has for each resource manager what its records change besides the blocks to which they refer. It is
// false where the record does not have the form that its version gives it.
var meanings = [record.LogicalMessage + 1]func(*Decoder, *record.Record) bool{
	record.XLOG:        (*Decoder).xlog,
	record.Transaction: (*Decoder).transaction,
	record.Storage:     (*Decoder).storage,
	record.Database:    (*Decoder).database,
	record.Heap2:       (*Decoder).heap2,
	record.Heap:        (*Decoder).heap,
}

// data reads main data in order; ok becomes false behind its end.
type data struct {
	b  []byte
	ok bool
}

func (d *data) u32() uint32 {
	if len(d.b) < 4 {
		d.b, d.ok = nil, false
		return 0
	}
	v := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

func (d *data) skip(n uint64) {
	if uint64(len(d.b)) < n {
		d.b, d.ok = nil, false
		return
	}
	d.b = d.b[n:]
}

// relation reads a RelFileLocator (RelFileNode until 15).
func (d *data) relation() Fork {
	return Fork{Tablespace: d.u32(), Database: d.u32(), Relation: d.u32()}
}

// storage reads xl_smgr_create and xl_smgr_truncate (catalog/storage_xlog.h).
func (d *Decoder) storage(r *record.Record) bool {
	const create, truncateHeap, truncateVM, truncateFSM = 0x10, 1, 2, 4
	in := data{r.Data, true}
	if r.Info&0xF0 == create {
		f, number := in.relation(), in.u32()
		if !in.ok || number > uint32(cluster.Init) {
			return false
		}
		if f.Fork = cluster.Fork(number); f.Fork != cluster.FSM {
			d.m.limit(f, 0)
		}
		return true
	}
	blocks, f, flags := in.u32(), in.relation(), in.u32()
	if !in.ok || flags&^(truncateHeap|truncateVM|truncateFSM) != 0 {
		return false
	}
	if flags&truncateHeap != 0 {
		d.m.limit(f, blocks)
	}
	if flags&truncateVM != 0 {
		// The truncation is of the heap; the map keeps the block that has the last heap block's bits, and clears
		// those behind them in it (visibilitymap.c, visibilitymap_prepare_truncate), which is logged as an image
		// only where hint bits are.
		f.Fork = cluster.VM
		last := blocks / d.vmHeap
		if blocks%d.vmHeap == 0 {
			d.m.limit(f, last)
		} else {
			d.m.limit(f, last+1)
			d.m.mark(f, last)
		}
	}
	return true
}

// database reads xl_dbase_create_rec and its successors, and xl_dbase_drop_rec (commands/dbcommands_xlog.h). What was
// in that folder before is gone, and what a copy of files put there is not logged.
func (d *Decoder) database(r *record.Record) bool {
	const createWALLog = 0x10 // since 15; its blocks are logged, but there is no harm in one rule for all
	drop := uint8(0x20)
	if r.Version < 15 {
		drop = 0x10
	}
	in := data{r.Data, true}
	database := in.u32()
	if r.Info&0xF0 != drop {
		tablespace := in.u32()
		if r.Info&0xF0 != createWALLog {
			in.skip(8) // where the files came from
		}
		if in.ok {
			d.m.limit(Fork{Tablespace: tablespace, Database: database}, 0)
		}
		return in.ok
	}
	for n := in.u32(); n > 0 && in.ok; n-- {
		if tablespace := in.u32(); in.ok {
			d.m.limit(Fork{Tablespace: tablespace, Database: database}, 0)
		}
	}
	return in.ok
}

// transaction reads the relations that a commit or an abort drops (access/xact.h, xl_xact_commit, xl_xact_abort;
// rmgrdesc/xactdesc.c).
func (d *Decoder) transaction(r *record.Record) bool {
	const (
		kindMask, hasInfo                        = 0x70, 0x80
		commit, abort, commitPrepared, abortPrep = 0x00, 0x20, 0x30, 0x40
		hasDatabase, hasSubxacts, hasRelations   = 1, 2, 4 // XACT_XINFO_HAS_…
	)
	switch r.Info & kindMask {
	case commit, abort, commitPrepared, abortPrep:
	default: // a prepared transaction's drops come with its end; assignments and invalidations concern no file
		return r.Info&special == 0
	}
	in := data{r.Data, true}
	in.skip(8) // time
	flags := uint32(0)
	if r.Info&hasInfo != 0 {
		flags = in.u32()
	}
	if flags&hasDatabase != 0 {
		in.skip(8)
	}
	if flags&hasSubxacts != 0 {
		in.skip(4 * uint64(in.u32()))
	}
	if flags&hasRelations == 0 {
		return in.ok && r.Info&special == 0
	}
	for n := in.u32(); n > 0 && in.ok; n-- {
		f := in.relation()
		for _, f.Fork = range []cluster.Fork{cluster.Main, cluster.VM, cluster.Init} {
			if in.ok {
				d.m.limit(f, 0)
			}
		}
	}
	return in.ok
}

// xlog reads what the log says of how it is written (catalog/pg_control.h, access/xlog_internal.h). Since 17 every
// checkpoint says it, before only a change of parameters does.
func (d *Decoder) xlog(r *record.Record) bool {
	const (
		checkpointShutdown, checkpointOnline, parameters = 0x00, 0x10, 0x60
		fullPageWrites, endOfRecovery, checkpointRedo    = 0x80, 0x90, 0xE0
	)
	level, pageWrites := -1, -1 // offsets in the data
	switch r.Info & 0xF0 {
	case checkpointShutdown, checkpointOnline:
		pageWrites = 16
		if r.Version >= 17 {
			level = 20
		}
	case parameters:
		level = 20
	case fullPageWrites:
		pageWrites = 0
	case endOfRecovery:
		if r.Version >= 17 {
			level = 16
		}
	case checkpointRedo:
		level = 0
	}
	if level >= 0 && len(r.Data) < level+4 || len(r.Data) <= pageWrites {
		return false
	}
	if level >= 0 && binary.LittleEndian.Uint32(r.Data[level:]) == 0 {
		d.doubt(r, Minimal, "wal_level is minimal")
	}
	if pageWrites >= 0 && r.Data[pageWrites] == 0 {
		d.doubt(r, NoFullPageWrites, "full_page_writes is off")
	}
	return true
}

// Flags with which records say that the heap's bits in the visibility map are cleared (access/heapam_xlog.h).
const (
	insertCleared = 0x01 // XLH_INSERT_ALL_VISIBLE_CLEARED, of a multi-insert too
	deleteCleared = 0x01 // XLH_DELETE_ALL_VISIBLE_CLEARED
	updateCleared = 0x03 // XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED and …_NEW_…
	lockCleared   = 0x01 // XLH_LOCK_ALL_FROZEN_CLEARED
)

// heap reads the flags of xl_heap_insert and so on: the visibility map's bits of these blocks may be cleared.
func (d *Decoder) heap(r *record.Record) bool {
	const insert, remove, update, hotUpdate, lock = 0x00, 0x10, 0x20, 0x40, 0x60
	switch r.Info & 0x70 {
	case insert:
		return d.clears(r, 2, insertCleared)
	case remove:
		return d.clears(r, 7, deleteCleared)
	case update, hotUpdate:
		return d.clears(r, 7, updateCleared)
	case lock:
		return d.clears(r, 7, lockCleared)
	}
	return true
}

func (d *Decoder) heap2(r *record.Record) bool {
	const multiInsert, lockUpdated = 0x50, 0x60
	switch r.Info & 0x70 {
	case multiInsert:
		return d.clears(r, 0, insertCleared)
	case lockUpdated:
		return d.clears(r, 7, lockCleared)
	}
	return true
}

// clears marks the visibility map's blocks for the heap blocks of a record, if its flags say that bits are cleared.
func (d *Decoder) clears(r *record.Record, at int, mask uint8) bool {
	if len(r.Data) <= at || len(r.Blocks) == 0 {
		return false
	}
	if r.Data[at]&mask == 0 {
		return true
	}
	for i := range r.Blocks {
		if b := &r.Blocks[i]; b.Fork == uint8(cluster.Main) {
			d.m.mark(Fork{b.Tablespace, b.Database, b.Relation, cluster.VM}, b.Number/d.vmHeap)
		}
	}
	return true
}
