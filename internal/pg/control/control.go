package control

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// FileSize is the size of pg_control (PG_CONTROL_FILE_SIZE). What is meant fits into its first 512 bytes.
const FileSize = 8192

// Path is the file's place in a data directory.
const Path = "global/pg_control"

// State is what the server was doing when it last wrote the file (DBState).
type State uint32

// The states, in PostgreSQL's order.
const (
	Startup State = iota
	ShutDown
	ShutDownInRecovery
	ShuttingDown
	InCrashRecovery
	InArchiveRecovery
	InProduction
)

// String returns the state as pg_controldata prints it.
func (s State) String() string {
	names := [...]string{
		"starting up", "shut down", "shut down in recovery", "shutting down",
		"in crash recovery", "in archive recovery", "in production",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("unknown state %d", uint32(s))
}

// Data is the content of pg_control, as far as Holdfast needs it.
type Data struct {
	SystemID       uint64
	ControlVersion uint32 // 1300 for 13 to 16, 1700 for 17, 1800 for 18
	CatalogVersion uint32
	State          State
	Written        time.Time // when the server last wrote the file
	Checkpoint     wal.LSN   // of the last checkpoint's record
	Redo           wal.LSN   // where replay from that checkpoint begins
	Timeline       wal.TimelineID
	PrevTimeline   wal.TimelineID
	FullPageWrites bool      // at the last checkpoint
	CheckpointTime time.Time // when that checkpoint began

	MinRecovery         wal.LSN        // replay must reach this before the data is consistent; zero on a primary
	MinRecoveryTimeline wal.TimelineID // of MinRecovery
	BackupStart         wal.LSN        // not zero while a base backup is being recovered
	BackupEnd           wal.LSN
	BackupEndRequired   bool

	// Least is what a standby must not undercut, by the settings' names (MaxConnections and what follows it).
	Least           map[string]int
	WALLevel        uint32 // 0 minimal, 1 replica, 2 logical
	WALLogHints     bool   // as the server ran last; see ChecksumVersion
	BlockSize       uint32 // bytes of a page
	SegmentBlocks   uint32 // pages of a relation's segment file
	WALBlockSize    uint32
	WALSegmentSize  wal.SegmentSize
	ChecksumVersion uint32 // of data pages; zero: none
}

// major maps the catalog version of each release to its major version (catversion.h).
var major = map[uint32]int{
	202007201: 13,
	202107181: 14,
	202209061: 15,
	202307071: 16,
	202406281: 17,
	202506291: 18,
}

// Major returns PostgreSQL's major version, zero where the catalog version is of no release.
func (d Data) Major() int { return major[d.CatalogVersion] }

// TornError says that the file's checksum does not match its content: it was read while it was being written,
// or it is damaged.
type TornError struct {
	Stored, Computed uint32
}

func (e *TornError) Error() string {
	return fmt.Sprintf("pg_control has checksum %08X, its content gives %08X", e.Stored, e.Computed)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Offsets of ControlFileData (catalog/pg_control.h) with 8-byte alignment. Version 18 put one byte
// (default_char_signedness) before the nonce, which moves only the checksum.
const (
	offState       = 16
	offTime        = 24
	offCheckpoint  = 32
	offCopy        = 40 // checkPointCopy: redo, ThisTimeLineID, PrevTimeLineID, fullPageWrites, …
	offCopyTime    = offCopy + 64
	offMinRecovery = 136
	offBackupStart = 152
	offWALLevel    = 172
	offLeast       = offWALLevel + 8 // MaxConnections, max_worker_processes, …
	offMaxAlign    = 204
	offFloat       = 208
	offBlockSize   = 216
	offChecksums   = 252
	minSize        = 296
)

// crcOffset returns where the checksum is, zero for an unknown version.
func crcOffset(controlVersion uint32) int {
	switch controlVersion {
	case 1300, 1700:
		return 288
	case 1800:
		return 292
	}
	return 0
}

// least names the settings in the order of the file (catalog/pg_control.h).
var least = [...]string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction"}

// Parse reads a pg_control of at least its first 296 bytes. A checksum that does not match is a *TornError.
func Parse(b []byte) (Data, error) {
	if len(b) < minSize {
		return Data{}, fmt.Errorf("pg_control has %d bytes, it must have %d", len(b), FileSize)
	}
	le := binary.LittleEndian
	version := le.Uint32(b[8:])
	crcAt := crcOffset(version)
	if crcAt == 0 {
		if s := crcOffset(version>>24 | version>>8&0xFF00 | version<<8&0xFF0000 | version<<24); s != 0 {
			return Data{}, fmt.Errorf("pg_control was written by a big-endian host, which is not supported")
		}
		return Data{}, fmt.Errorf("pg_control has format version %d; 1300 (PostgreSQL 13 to 16), 1700 (17) and 1800 (18) are supported", version)
	}
	if stored, computed := le.Uint32(b[crcAt:]), crc32.Checksum(b[:crcAt], castagnoli); stored != computed {
		return Data{}, &TornError{Stored: stored, Computed: computed}
	}
	d := Data{
		SystemID:       le.Uint64(b),
		ControlVersion: version,
		CatalogVersion: le.Uint32(b[12:]),
		State:          State(le.Uint32(b[offState:])),
		Written:        time.Unix(int64(le.Uint64(b[offTime:])), 0).UTC(),
		Checkpoint:     wal.LSN(le.Uint64(b[offCheckpoint:])),
		Redo:           wal.LSN(le.Uint64(b[offCopy:])),
		Timeline:       wal.TimelineID(le.Uint32(b[offCopy+8:])),
		PrevTimeline:   wal.TimelineID(le.Uint32(b[offCopy+12:])),
		FullPageWrites: b[offCopy+16] != 0,
		CheckpointTime: time.Unix(int64(le.Uint64(b[offCopyTime:])), 0).UTC(),

		MinRecovery:         wal.LSN(le.Uint64(b[offMinRecovery:])),
		MinRecoveryTimeline: wal.TimelineID(le.Uint32(b[offMinRecovery+8:])),
		BackupStart:         wal.LSN(le.Uint64(b[offBackupStart:])),
		BackupEnd:           wal.LSN(le.Uint64(b[offBackupStart+8:])),
		BackupEndRequired:   b[offBackupStart+16] != 0,

		WALLevel:        le.Uint32(b[offWALLevel:]),
		WALLogHints:     b[offWALLevel+4] != 0,
		BlockSize:       le.Uint32(b[offBlockSize:]),
		SegmentBlocks:   le.Uint32(b[offBlockSize+4:]),
		WALBlockSize:    le.Uint32(b[offBlockSize+8:]),
		WALSegmentSize:  wal.SegmentSize(le.Uint32(b[offBlockSize+12:])),
		ChecksumVersion: le.Uint32(b[offChecksums:]),
	}
	d.Least = map[string]int{}
	for i, name := range least {
		d.Least[name] = int(int32(le.Uint32(b[offLeast+4*i:])))
	}
	return d, d.check(le.Uint32(b[offMaxAlign:]), math.Float64frombits(le.Uint64(b[offFloat:])))
}

// check refuses what a valid checksum does not make sensible: other code divides by these sizes.
func (d Data) check(maxAlign uint32, float float64) error {
	switch {
	case maxAlign != 8 || float != 1234567:
		return fmt.Errorf("pg_control was written by another architecture (alignment %d)", maxAlign)
	case d.BlockSize < 1024 || d.BlockSize > 32768 || d.BlockSize&(d.BlockSize-1) != 0:
		return fmt.Errorf("pg_control names pages of %d bytes", d.BlockSize)
	case d.SegmentBlocks == 0 || uint64(d.SegmentBlocks)*uint64(d.BlockSize) > 1<<46:
		return fmt.Errorf("pg_control names relation segments of %d pages", d.SegmentBlocks)
	case d.WALBlockSize != wal.PageSize:
		return fmt.Errorf("pg_control names WAL pages of %d bytes; only %d are supported", d.WALBlockSize, wal.PageSize)
	case d.SystemID == 0:
		return fmt.Errorf("pg_control names no system identifier")
	}
	return d.WALSegmentSize.Check()
}
