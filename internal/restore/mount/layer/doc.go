// Package layer keeps the files of a snapshot in local files that are filled on demand. It knows blocks and their durability,
// and nothing of FUSE, of directories or of repositories.
//
// Terms:
//
//	page     8 KiB of a file; a chunk is 64 of them, as in the repository
//	backing  the local file: sparse, of the file's full size, where everything is and remains
//	limit    bytes of a file that come from the snapshot; what lies behind is the backing's alone
//	local    a page below the limit whose bytes the backing has
//	safe     a local page of which the journal says so, durably
//	whole    a file all of whose pages are safe: from then on its backing is an ordinary file
//
// The size of a file, its name, its links and its mode are those of its backing: the file system below keeps them, with its
// own promises. Only two things are kept here, in the journal: which pages are local, and how far the limit was lowered.
//
//	a page that is not local is read:  fetch, verify, write into the backing, mark local
//	a page is written:                 (fetch it, if only a part of it is written) write into the backing, mark local
//	sync:                              sync the backing; write what became local before to the journal, sync that; answer
//	truncate below the limit:          sync; journal "cut to n", synced; truncate and sync the backing; journal "cut done"
//
// After a crash what the journal does not name is fetched again. That is right because a page is in the journal before the sync
// that was to make it durable is answered: what is fetched over it had not been synced, and may be lost as on any disk. It is
// never half of each, since a page is fetched as a whole. A cut that is not done is done again: nothing that was synced since
// can be behind it, for the sync would have been answered after "done".
//
// The order of the steps is what this rests on; docs/decisions/0027 has the proof, and the tests lose power between any two.
package layer
