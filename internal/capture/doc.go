// Package capture brings a running PostgreSQL into a repository: snapshots of its files, and its log as it is
// written. It is the only room that knows both a source and a repository; it never changes the source.
//
// A snapshot (Snapshot) is taken beside the server, from its data directory, or from afar over BASE_BACKUP:
//
//	announce the writer; tell the server that a backup begins
//	walk the files → pieces of 128 MiB → workers: read, check pages, hash, compress, seal, pack
//	read pg_control; tell the server that the backup ends
//	wait until the repository holds the log from the backup's start to its end
//	sort the entries into the tree; commit
//
// A later snapshot takes from the one before what the log does not name (ScanChanged; docs/decisions/0013):
//
//	find the last checkpoint; join what the log changed since the snapshot before → a map of blocks
//	clusterFiles, beside or over SQL: facts of files → parts with changed pages → workers, as above
//	compare a sample with what is stored; edit the tree
//
// The log (LogWriter, StreamLog) is received over the replication protocol, spooled, and stored as finished
// blocks and, every second, as a piece of the unfinished one; Push is the classic way by archive_command. Beside each
// block goes a summary of what it changed, from which ChangedBlocks tells which pages a snapshot has to read.
package capture
