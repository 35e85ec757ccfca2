// Package restore writes a snapshot into a directory from which PostgreSQL recovers. It takes a plan of
// restore/points, never chooses by itself, and never touches what belongs to somebody else: a running cluster,
// the source's tablespaces, a directory that is not empty.
//
//	check the target                         (empty, interrupted by us, or --delta over a stopped cluster)
//	walk the tree: sizes, paths, space
//	write the journal holdfast.restore; for --delta: remove pg_control, then what is not in the snapshot
//	workers: chunks → files, written back as they go → synced → recorded in the journal
//	tablespace links, backup_label, settings
//	sync the directories
//	pg_control, written last under another name, then renamed
//	remove the journal
//
// So a half restored directory has no pg_control and cannot be started, and running the same restore again
// continues it. pg_control names a checkpoint that does not exist: without backup_label, which names the real
// one, the server refuses to start instead of starting on a cluster that is silently corrupt.
//
// Sub-packages: points (what can be recovered), walserve (serves the log to the recovering server), boot
// (starts it and sees it through), partial (a database or a table out of a sandbox).
package restore
