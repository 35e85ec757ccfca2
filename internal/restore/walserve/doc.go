// Package walserve hands a recovering PostgreSQL the log that it asks for, and tells it what is not there and
// why. PostgreSQL's restore_command knows three answers, and the difference decides over data:
//
//	exit 0          here it is
//	exit 1          there is no more: PostgreSQL ends its recovery, and accepts writes
//	exit over 128   stop: there is a gap, the store does not answer, or log is missing that once was there
//
// A recovery must never end early because something failed, so only what is proven to be the end gives 1.
//
//	Source      finds and assembles files of the log from a repository's extents
//	Prefetcher  keeps a Source open and fetches ahead, behind a socket in pg_wal/holdfast.prefetch
//	Fetch       what each restore_command runs: asks the Prefetcher, which it starts where none runs
//
// A timeline's log begins in the middle of a segment, where it left the older timeline: that segment's first
// bytes are the older one's.
package walserve
