package restore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// A prepared transaction lies in the log, and from the next checkpoint on also in a file of pg_twophase. A base backup may
// hold the file of one that was prepared after the checkpoint at which recovery begins: another checkpoint came while the files
// were read. The log then brings it again. PostgreSQL means to remove such a file before it replays (it calls the transaction
// "future": its number was not given out yet at that checkpoint). But since files are named by 64-bit numbers, in version 17,
// it looks for another name ("could not remove file "pg_twophase/FFFFFFFF0000031C"", seen in 18.4), later finds the file that
// it left, takes the transaction for restored, and loses it. So these files are not restored.

const twoPhaseDir = "pg_twophase"

// twoPhase says which files of prepared transactions the log brings again.
type twoPhase struct {
	asked   bool
	nextXid uint64 // the number, with its epoch, of the first transaction behind the checkpoint at which recovery begins; 0: not known
}

// isFuture tells whether a path is the file of a transaction that the log prepares.
func (x *run) isFuture(ctx context.Context, name string) (bool, error) {
	if path.Dir(name) != twoPhaseDir {
		return false, nil
	}
	base := path.Base(name)
	xid, err := strconv.ParseUint(base, 16, 64)
	if err != nil || len(base) != 8 && len(base) != 16 {
		return false, nil //nolint:nilerr // it is no such file
	}
	if !x.twoPhase.asked {
		x.twoPhase.asked = true
		x.twoPhase.nextXid, err = x.nextXid(ctx)
		if errors.Is(err, store.ErrNotExist) { // pieces of the log give way to what is finished: look again
			x.twoPhase.nextXid, err = x.nextXid(ctx)
		}
		switch k := store.KindOf(err); {
		case ctx.Err() != nil || k == store.Busy || k == store.Denied: // it may be readable
			return false, fmt.Errorf("the checkpoint at which recovery begins, before which the transaction of %s was prepared, or behind it: %w", name, err)
		case err != nil: // the server will not start without this record, either
			x.note("prepared transactions may be lost in the recovery, since the checkpoint at which it begins cannot be read: %v", err)
		}
	}
	if x.twoPhase.nextXid == 0 {
		return false, nil
	}
	if len(base) == 8 { // up to version 16, without the epoch: the numbers are a circle
		return int32(uint32(xid)-uint32(x.twoPhase.nextXid)) >= 0, nil
	}
	return xid >= x.twoPhase.nextXid, nil
}

// nextXid reads the record of the checkpoint at which recovery begins.
func (x *run) nextXid(ctx context.Context) (uint64, error) {
	label, err := wal.ParseLabel([]byte(x.plan.Snapshot.Facts.BackupLabel))
	if err != nil {
		return 0, err
	}
	at := label.CheckpointLSN
	var found []byte
	reader, err := record.NewReader(record.Config{
		Start: at, Timeline: x.plan.Way.At(at), SegmentSize: wal.SegmentSize(x.plan.Snapshot.Facts.SegmentSize), SystemID: x.plan.Snapshot.Facts.SystemID,
	}, func(r *record.Record) {
		if r.Start == at && isCheckpoint(r) {
			found = bytes.Clone(r.Data)
		}
	})
	if err != nil {
		return 0, err
	}
	log := &storedLog{log: x.repo.Log(x.plan.System), way: x.plan.Way}
	for found == nil && reader.End() <= at {
		b, err := log.piece(ctx, reader.Next(), reader.Next()+wal.PageSize)
		if err == nil {
			_, err = reader.Write(b)
		}
		if err != nil && found == nil {
			return 0, err
		}
	}
	if len(found) < checkpointNextXid+8 {
		return 0, fmt.Errorf("no checkpoint is at %s", at)
	}
	return binary.LittleEndian.Uint64(found[checkpointNextXid:]), nil
}

// isCheckpoint tells whether a record is that of a checkpoint, whose data is struct CheckPoint (catalog/pg_control.h).
func isCheckpoint(r *record.Record) bool {
	const shutdown, online = 0x00, 0x10 // XLOG_CHECKPOINT_…
	info := r.Info & 0xF0
	return r.Rmgr == record.XLOG && (info == shutdown || info == online)
}

// checkpointNextXid is where struct CheckPoint has nextXid (catalog/pg_control.h): behind redo, two timelines and
// full_page_writes, which is followed by the WAL level or by padding.
const checkpointNextXid = 24
