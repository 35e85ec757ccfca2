// Package repo is the repository: an encrypted, content-addressed store of snapshots and logs in one replica.
// It never knows what a database is: a system is a name, a snapshot a tree of files with facts that its engine
// understands, a log a stream of bytes with offsets.
//
// Terms:
//
//	chunk       the unit that is hashed, compressed and sealed; named by the keyed hash of its plain bytes
//	pack        one object that holds many chunks of one residency group, and their directory
//	index       objects that say which chunk lies where in which pack
//	tree        a sorted map from path to entry, cut into chunks so that unchanged parts are shared
//	snapshot    a signed manifest: the tree's root and what the engine needs to recover
//	intent      an object that says "a writer began"; its outcome is the snapshot, or a tombstone
//	collection  the removal of packs that no snapshot needs, safe beside any writer
//	log         per system and stream, the extents of a change log; marks say how far it was acknowledged
//
// A writer does, in this order:
//
//	create the intent                        (collection now waits for us)
//	read the condemned list, then the index  (what is condemned is not shared)
//	put packs, then index objects            (nobody refers to them yet)
//	create the snapshot, if absent           (the instant at which it exists; a tombstone there means: aborted)
//	delete the intent
//
// So a reader never sees a reference to what is not there, and no lock and no clock is needed. collect.go has
// the other half of the bargain. The bytes are described in docs/format/repository-v1.md.
package repo
