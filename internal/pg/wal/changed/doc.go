// Package changed tells from PostgreSQL's write-ahead log which blocks of which relations changed, versions 13 to
// 18: what PostgreSQL 17's WAL summarizer computes, with what that one leaves out. It reads a log that it is handed
// and does no I/O.
//
// Terms: a Map says what changed over a range of the log. The limit of a fork is the smallest number of blocks that
// it had, zero where it was created or dropped. A doubt is a record that may have changed something which the Map
// does not say: whoever relies on the Map reads everything instead.
//
//	decoder, err := changed.NewDecoder(record.Config{Start: redo, Timeline: 1, SegmentSize: size})
//	read the log from decoder.Next() on; write it to decoder, in pieces of any size
//	m := decoder.Cut() // from the last cut to the last complete record
//
// What a Map over [a, b) promises: take any image of the cluster from which recovery begins at a, and the files at
// any moment at which recovery would begin at b or later, and only what was logged before b is asked for. A page
// whose two versions differ is then
//   - listed (Change.Has), which includes all at or past the limit: those never come from the older image, and
//   - all that lie past the end of the older image's file, for an extension is not logged; and
//   - every page of what no log describes: free space maps, temporary and unlogged relations other than their init
//     forks, and files that hold no relation;
//   - otherwise without meaning: hint bits and killed index entries where neither checksums nor wal_log_hints are
//     on, the clean-up of a fork's page that a crash kept while its record was lost, and SP-GiST's cache of pages
//     with room, which no setting logs.
//
// Both ends have to be where recovery begins (redo), not where a checkpoint or a base backup ends: a sequence is
// logged only at its first use after a redo and at every 32nd later.
//
// Derived rather than read: records that clear a heap page's bits in the visibility map do not refer to the map's
// block (pgsql-hackers, "Why clearing the VM doesn't require registering vm buffer in WAL record", March 2026), and
// a truncation clears the bits in its last remaining block. What no log tells at all is for the caller: changes by
// pg_checksums, pg_resetwal, pg_rewind or pg_upgrade while the server is down, and the log of another timeline.
package changed
