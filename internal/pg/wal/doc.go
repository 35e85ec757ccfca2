// Package wal knows the outside of PostgreSQL's write-ahead log: positions (LSN) and timelines, the names of its
// files, timeline histories, the identity in a segment's first page, and the two text files of a base backup,
// backup_label and tablespace_map. It reads and writes bytes that it is handed, and does no I/O.
//
// Terms: the log is one sequence of bytes per timeline; an LSN is an offset in it. It is cut into segments of
// equal size (16 MiB by default, 1 MiB to 1 GiB), and these into pages of 8 KiB. A recovery that ends somewhere
// begins a new timeline there; its history file names the older timelines and where each was left.
//
// Everything read is treated as hostile: broken content is an error, never a panic.
package wal
