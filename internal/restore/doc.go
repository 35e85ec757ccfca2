// Package restore writes a snapshot into a directory from which PostgreSQL recovers. It takes a plan of
// restore/points, never chooses by itself, and never touches what belongs to somebody else: a running cluster,
// the source's tablespaces, a directory that is not empty.
//
//	check the target                         (empty, interrupted by us, or --delta over a stopped cluster)
//	walk the tree: sizes, paths, space
//	--delta: the cluster's log and the repository's → which pages may differ; a sample of the others is compared
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
// A delta that the logs tell is decided before anything changes (knowledge.go, docs/decisions/0016): what they do not
// prove is compared, byte by byte. Nothing of it is kept: a run that continues another one compares what that one did
// not finish.
//
// Sub-packages: points (what can be recovered), walserve (serves the log to the recovering server), boot
// (starts it and sees it through), partial (a database or a table out of a sandbox).
package restore
