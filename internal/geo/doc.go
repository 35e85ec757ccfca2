// Package geo keeps the replicas of a repository alike. A Fan writes a system's log to all sites at once, as it comes; Copy brings
// what one lacks of a system from another. It never deletes, but for pieces of a log that a whole extent has replaced: each
// replica applies retention and collects by itself.
//
// Terms:
//
//	home    the replica that snapshots are written to, the repository's first
//	member  a site at which the log is written as it comes; others are behind
//	wanted  snapshots that the other has, that the policy keeps, and of whose moment there is none here
//
// The newest wanted snapshot comes first, with the log from it on, so that an empty replica can be recovered from soon; then
// the log from the oldest on, and the older snapshots. Package repo does the copying, and says why it is safe.
package geo
