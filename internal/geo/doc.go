// Package geo keeps the replicas of a repository alike: it brings what one lacks of a system from another. It never deletes, but
// for pieces of a log that a whole extent has replaced: each replica applies retention and collects by itself.
//
// Terms:
//
//	home    the replica that snapshots and log are written to
//	wanted  snapshots that the other has, that the policy keeps, and of whose moment there is none here
//
// The newest wanted snapshot comes first, with the log from it on, so that an empty replica can be recovered from soon; then
// the log from the oldest on, and the older snapshots. Package repo does the copying, and says why it is safe.
package geo
