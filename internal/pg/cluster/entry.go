package cluster

import (
	"io/fs"
	"strings"
	"time"
)

// EntryType sorts what a backup holds.
type EntryType uint8

// The types of entries.
const (
	File EntryType = iota + 1
	Dir
	TablespaceLink // pg_tblspc/<oid>: a symbolic link to a tablespace's location
)

// Entry is one thing in a backup. Paths are relative to the data directory, with slashes; what is in a
// tablespace is beneath "pg_tblspc/<oid>/", wherever it really is.
type Entry struct {
	Path     string
	Type     EntryType
	Mode     fs.FileMode // permission bits
	Size     int64       // of a file; one that is in use may have another size when it is read
	ModTime  time.Time
	Target   string   // of a TablespaceLink: the location
	Source   string   // where Walk found it on this machine; empty from afar
	Relation Relation // of which relation it is a segment, where IsRelation
	// IsRelation tells a segment of a relation, which consists of pages, from other files.
	IsRelation bool
}

// ControlFile is the one file that Walk leaves out: it must be read last (control.Read, before Backup.Stop),
// since a backup of a standby takes its end from it.
const ControlFile = "global/pg_control"

// emptied are folders whose content a starting server removes or makes anew; a backup holds them empty.
var emptied = map[string]bool{
	"pg_dynshmem": true, "pg_notify": true, "pg_replslot": true, "pg_serial": true,
	"pg_snapshots": true, "pg_stat_tmp": true, "pg_subtrans": true,
}

// omitted are files that a backup must not hold, or need not.
var omitted = map[string]bool{
	"backup_label": true, "backup_label.old": true, "tablespace_map": true, "tablespace_map.old": true,
	"backup_manifest": true, "current_logfiles.tmp": true, "postgresql.auto.conf.tmp": true,
	"postmaster.opts": true, "postmaster.pid": true,
}

// MayHold tells whether a backup may hold a file of this path, which is relative to the data directory.
func MayHold(path string) bool {
	if strings.HasPrefix(path, "pg_wal/") {
		return false
	}
	for name := range strings.SplitSeq(path, "/") {
		if emptied[name] || isOmitted(name) {
			return false
		}
	}
	return true
}

// isOmitted tells whether a backup leaves out what has this name, in any folder.
func isOmitted(name string) bool {
	return omitted[name] || strings.HasPrefix(name, "pgsql_tmp") || strings.HasPrefix(name, "pg_internal.init")
}
