package record

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// Record is one record of the log. It and its slices are valid until the function that got it returns.
type Record struct {
	Start   wal.LSN
	End     wal.LSN // where the next record may start; after a switch of segments the next segment's start
	Version int     // PostgreSQL's major version
	Rmgr    uint8   // resource manager: whose record it is
	Info    uint8   // the upper four bits are the resource manager's, the lower ones everybody's
	Blocks  []Block
	Data    []byte // main data; nil where Cut
	Cut     bool   // the record is so large that its main data was not kept
}

// Block is a reference to a page of a relation's fork.
type Block struct {
	Tablespace uint32
	Database   uint32 // zero in the global tablespace
	Relation   uint32 // the relation's file number
	Number     uint32
	Fork       uint8 // main, FSM, VM, init
	Image      bool  // the record holds the whole page
	Init       bool  // replay makes the page anew, without reading it
}

// The resource managers (access/rmgrlist.h; the same in versions 13 to 18).
const (
	XLOG uint8 = iota
	Transaction
	Storage
	CLOG
	Database
	Tablespace
	MultiXact
	RelMap
	Standby
	Heap2
	Heap
	Btree
	Hash
	GIN
	GiST
	Sequence
	SPGiST
	BRIN
	CommitTS
	ReplicationOrigin
	Generic
	LogicalMessage
)

// Infos of the resource manager XLOG that decide how the log is read (catalog/pg_control.h).
const (
	infoMask      = 0xF0
	infoSwitch    = 0x40 // XLOG_SWITCH: the rest of the segment is empty
	infoOverwrite = 0xD0 // XLOG_OVERWRITE_CONTRECORD: the record that was begun before it will never be complete
)

// StopError says that no valid record is at a position.
type StopError struct {
	At     wal.LSN // where the record would have started, or the page that is wrong
	Ended  bool    // zeros or an older log follow: nothing was written here. Whether something should have been is for the caller to know
	Reason string
}

func (e *StopError) Error() string {
	if e.Ended {
		return fmt.Sprintf("the log ends at %s: %s", e.At, e.Reason)
	}
	return fmt.Sprintf("the log is damaged at %s: %s", e.At, e.Reason)
}
