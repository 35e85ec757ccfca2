package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// noCheckpoint is a position at which no record can begin (records are aligned to eight bytes), but which
// PostgreSQL accepts as well-formed (XRecOffIsValid), so that it says what is wrong instead of crashing.
const noCheckpoint = 0xDEAD

// Disarm returns a copy of the file's bytes that names no checkpoint: a server cannot start from it without a
// backup_label.
func Disarm(b []byte) ([]byte, error) {
	return edit(b, func(b []byte) {
		binary.LittleEndian.PutUint64(b[offCheckpoint:], noCheckpoint)
	}, func(d Data) bool { return d.Checkpoint == noCheckpoint })
}

// AsStandby returns a copy of the file's bytes that says what the one of a standby says which was backed up when it
// had replayed the log of tl up to consistent: a server that starts from it with a backup_label "from standby" replays
// at least so far before it calls its data consistent (xlogrecovery.c, InitWalRecovery and CheckRecoveryConsistency).
func AsStandby(b []byte, tl wal.TimelineID, consistent wal.LSN) ([]byte, error) {
	le := binary.LittleEndian
	return edit(b, func(b []byte) {
		le.PutUint32(b[offState:], uint32(InArchiveRecovery))
		le.PutUint64(b[offMinRecovery:], uint64(consistent))
		le.PutUint32(b[offMinRecovery+8:], uint32(tl))
	}, func(d Data) bool {
		return d.State == InArchiveRecovery && d.MinRecovery == consistent && d.MinRecoveryTimeline == tl
	})
}

// edit changes a copy, gives it its checksum and proves that the change is what others read there.
func edit(b []byte, change func([]byte), done func(Data) bool) ([]byte, error) {
	d, err := Parse(b)
	if err != nil {
		return nil, err
	}
	b = slices.Clone(b)
	change(b)
	at := crcOffset(d.ControlVersion)
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[:at], castagnoli))
	if d, err = Parse(b); err != nil {
		return nil, fmt.Errorf("edit pg_control: %w", err)
	}
	if !done(d) {
		return nil, errors.New("edit pg_control: a field is elsewhere than expected")
	}
	return b, nil
}
