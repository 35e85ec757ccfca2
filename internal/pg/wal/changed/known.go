package changed

import "github.com/holdfast-dr/holdfast/internal/pg/wal/record"

// Bits of a record's info that belong to every resource manager (access/xlogrecord.h).
const (
	special     = 0x01 // XLR_SPECIAL_REL_UPDATE: files are changed in a way that block references do not tell
	consistency = 0x02 // XLR_CHECK_CONSISTENCY: images for comparison, which replay does not apply
)

// infos lists for each resource manager which values the upper four bits of a record's info have, bit n for n<<4, in
// at least one of the versions 13 to 18. The sources are the headers with its XLOG_… constants.
var infos = [...]uint16{
	record.XLOG:              0x6FFF, // without 0xC0 and 0xF0
	record.Transaction:       0x7F7F, // seven kinds, with and without XLOG_XACT_HAS_INFO
	record.Storage:           0x0006,
	record.CLOG:              0x0003,
	record.Database:          0x0007,
	record.Tablespace:        0x0003,
	record.MultiXact:         0x000F,
	record.RelMap:            0x0001,
	record.Standby:           0x0007,
	record.Heap2:             0x20FF, // a multi-insert may make its page anew (0x80)
	record.Heap:              0x15FF, // so may insert, update and HOT update
	record.Btree:             0x7FFF,
	record.Hash:              0x1FFF,
	record.GIN:               0x03FE,
	record.GiST:              0x00CF,
	record.Sequence:          0x0001,
	record.SPGiST:            0x01FE,
	record.BRIN:              0x063F, // insert and update may make their page anew
	record.CommitTS:          0x0007,
	record.ReplicationOrigin: 0x0003,
	record.Generic:           0x0001,
	record.LogicalMessage:    0x0001,
}

// since says in which version a kind of record came that older ones do not have.
var since = map[[2]uint8]int{
	{record.XLOG, 0xE0}:        17, // XLOG_CHECKPOINT_REDO
	{record.Transaction, 0x60}: 14, // XLOG_XACT_INVALIDATIONS
	{record.Transaction, 0xE0}: 14,
	{record.Database, 0x20}:    15, // XLOG_DBASE_DROP, which was 0x10
}

// known tells whether the record is one that its version of PostgreSQL writes itself. An extension's resource
// manager is not: its records may change files in ways of their own.
func known(r *record.Record) bool {
	if int(r.Rmgr) >= len(infos) || infos[r.Rmgr]>>(r.Info>>4)&1 == 0 || r.Info&0x0C != 0 {
		return false
	}
	if r.Info&special != 0 && r.Rmgr != record.Storage && r.Rmgr != record.Database && r.Rmgr != record.Transaction {
		return false
	}
	if r.Version >= 17 || r.Rmgr > record.Database {
		return true // nothing is younger: spare the look-up
	}
	return r.Version >= since[[2]uint8{r.Rmgr, r.Info & 0xF0}]
}
