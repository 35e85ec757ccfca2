// Package pg says what a snapshot of PostgreSQL consists of (Facts); its folders are what Holdfast knows of
// PostgreSQL, versions 13 to 18.
//
//	wal      positions, timelines, names of log files, backup_label and tablespace_map
//	page     one page of a relation: its checksum, its layout
//	control  global/pg_control
//	cluster  a server: what it is, what a backup of it holds, backups beside it and from afar
//	stream   the log as it is written, over the replication protocol
//	pgtest   real servers for tests
package pg
