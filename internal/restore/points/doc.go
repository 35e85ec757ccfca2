// Package points says which moments of a system can be recovered, and chooses the snapshot and the log for one
// of them. It reads manifests, the names of log extents, timeline histories and marks, and writes nothing.
//
// Terms:
//
//	way     the timelines that lead to one timeline, with the position where each was left
//	range   what one snapshot can reach along one way: from its consistent point to the end of unbroken log
//	gap     a part of a way of which the repository has no log
//	mark    proof of how far the log once reached; a range that ends below it has lost something
//
// Load reads once; everything else is computed from what was read, so that a plan is consistent in itself.
package points
